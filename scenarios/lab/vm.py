"""A lab host that is a virtual machine: the same Debian root with a kernel of its own, under QEMU.

For what this machine's kernel cannot do (soft-dirty bits, VLANs). Emulated where there is no usable KVM, so everything in it
is some ten times slower. Rule: it is reached the way any host is, by SSH; nothing looks into it from outside.
"""

import os
import select
import shlex
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scenarios.lab import groups, record, root, switch
from scenarios.lab.hosts import DETACHED, Host, HostError, tail
from scenarios.lab.programs import in_netns, joined, run
from scenarios.lab.record import HostRecord

KERNEL_PACKAGES = ("linux-image-cloud-amd64", "kmod", "initramfs-tools")
PROGRAMS = {"qemu-system-x86_64": "qemu-system-x86", "mke2fs": "e2fsprogs"}
DISK_MB = 6144
MEMORY_MB = 2048
CPUS = 2
BOOT_LIMIT_S = 300.0
KNOCK_S = 0.5
IMAGE = """\
set -e
mkdir -p "$2/lower" "$2/upper" "$2/work" "$2/merged"
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/merged"
cp -a "$3/." "$2/merged/"
mke2fs -q -t ext4 -m 0 -E root_owner=0:0 -d "$2/merged" "$4" "$5M"
umount "$2/merged"
rm -rf "$2"
"""
"""Makes a disk image of the shared root and a host's seed; arguments: root, work directory, seed, image, size."""


class VmHost(Host):
    """A virtual machine of a lab that is up. Its `pid` is QEMU's."""

    def argv(self, words: Sequence[str], *, on_parent_death: str = "KILL") -> list[str]:
        """See Place: over SSH, with one connection shared by all calls."""
        self._need_pid()
        base = record.directory(self.lab)
        shared = ["-o", "ControlMaster=auto", "-o", f"ControlPath={base}/ssh-%n", "-o", "ControlPersist=120"]
        return ["ssh", "-F", str(base / "ssh_config"), *shared, self.name, shlex.join(words)]

    def path(self, inside: str) -> Path:
        """A virtual machine's files are its own."""
        raise HostError(f"{self.name} is a virtual machine: reach {inside} by running a program there")

    def boot_locked(self) -> None:
        """Start it from its disk; returns when its sshd answers. Raises HostError."""
        if self.alive:
            raise HostError(f"host {self.name} is up already (process {self.pid})")
        root.need(PROGRAMS)
        now = self.record
        shared = root.ensure((*now.spec.packages, *KERNEL_PACKAGES))
        image = self._image(shared)
        lab = record.load(self.lab)
        switch.attach_tap(lab, now, shared)
        console = self.directory / "console.log"
        words = self._qemu(shared, image, now, console)
        joins = groups.make(self.lab, self.name)
        starter = [
            "sh",
            "-c",
            DETACHED,
            "sh",
            str(self.directory / "qemu.log"),
            *joined(joins, in_netns(lab.switch, words)),
        ]
        pid = int(subprocess.run(starter, stdout=subprocess.PIPE, text=True, check=True).stdout)
        self._note(replace(now, pid=pid, started=groups.started(pid)))
        self._wait(now.address, console)

    def crash_locked(self) -> None:
        """Like a power cut. May be called again."""
        now = self.record
        groups.kill(now.pid, now.started)
        groups.clear(self.lab, self.name)
        switch.detach_tap(record.load(self.lab), now)
        self._note(replace(now, pid=0, started=""))

    def halt(self) -> None:
        """Power off in order: its init is asked to end, which flushes its disks."""
        if self.alive:
            handle = os.pidfd_open(self.pid)
            self.run("sh", "-c", "sync; kill -TERM 1", check=False, limit_s=60)
            select.select([handle], [], [], 60)
            os.close(handle)
        self.crash()

    def _image(self, shared: Path) -> Path:
        self.directory.mkdir(parents=True, exist_ok=True)
        image = self.directory / "disk.img"
        if not image.exists():
            work, seed, part = self.directory / "making", self.directory / "seed", self.directory / "disk.part"
            inside = seed / "usr/local/sbin/lab-vm-init"
            inside.write_text((Path(__file__).parent / "vm_init.sh").read_text())
            inside.chmod(0o755)
            size_mb = str(self.record.spec.disk_mb or DISK_MB)
            run(
                ["unshare", "-m", "sh", "-c", IMAGE, "sh", str(shared), str(work), str(seed), str(part), size_mb],
                limit_s=300,
            )
            part.rename(image)
        return image

    def _qemu(self, shared: Path, image: Path, now: HostRecord, console: Path) -> list[str]:
        [kernel] = sorted(shared.glob("boot/vmlinuz-*"))[-1:]
        [initrd] = sorted(shared.glob("boot/initrd.img-*"))[-1:]
        lab = record.load(self.lab)
        who = f"lab.name={self.name} lab.address={now.address}/{lab.prefix} lab.address6={now.address6}/64"
        boot = f"console=ttyS0 quiet net.ifnames=0 root=/dev/vda rw init=/usr/local/sbin/lab-vm-init panic=-1 {who}"
        mac = "02:4c:41:42:00:" + f"{now.number:02x}"
        return [
            *("qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(CPUS)),
            *("-m", str(now.spec.memory_mb or MEMORY_MB), "-display", "none", "-no-reboot", "-monitor", "none"),
            *("-serial", f"file:{console}", "-kernel", str(kernel), "-initrd", str(initrd), "-append", boot),
            *("-drive", f"file={image},if=virtio,format=raw,cache=writeback"),
            *("-netdev", f"tap,id=line,ifname={switch.port(now)},script=no,downscript=no"),
            *("-device", f"virtio-net-pci,netdev=line,mac={mac}"),
        ]

    def _wait(self, address: str, console: Path) -> None:
        deadline = time.monotonic() + BOOT_LIMIT_S
        while time.monotonic() < deadline and self.alive:
            try:
                with socket.create_connection((address, 22), timeout=5) as knock:
                    if knock.recv(4) == b"SSH-":
                        return
            except OSError:
                time.sleep(KNOCK_S)
        raise HostError(f"virtual machine {self.name} did not come up; the end of {console}:\n{tail(console)}")
