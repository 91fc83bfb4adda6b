"""One host of a lab: boots from its disk, runs programs, loses power.

Rule: what a host is now is read from the lab's record each time, so that several programs may work with one lab.
"""

import os
import select
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scenarios.lab import groups, record, root, switch
from scenarios.lab.programs import Place, environment, in_netns, joined, run
from scenarios.lab.record import HostRecord

HERE = Path(__file__).parent
BOOT_LIMIT_S = 60.0
DETACHED = 'console=$1; shift; setsid "$@" < /dev/null >> "$console" 2>&1 & echo $!'
"""A shell that starts a program nobody waits for, says its pid and ends."""


class HostError(RuntimeError):
    """A host did not do what it was told; names it, its state, and the end of its console."""


class Host(Place):
    """A host of a lab that is up."""

    def __init__(self, lab: str, name: str) -> None:
        self.lab = lab
        self.name = name

    @property
    def record(self) -> HostRecord:
        """What the lab has noted about it."""
        return record.load(self.lab).host(self.name)

    @property
    def pid(self) -> int:
        """Its process 1, as this machine numbers it."""
        return self.record.pid

    @property
    def address(self) -> str:
        """IPv4 address of br0."""
        return self.record.address

    @property
    def address6(self) -> str:
        """IPv6 address of br0."""
        return self.record.address6

    @property
    def netns(self) -> str:
        """Name of its network namespace on this machine."""
        return self.record.netns

    @property
    def directory(self) -> Path:
        """Its disk, console and seed on this machine."""
        return record.directory(self.lab) / self.name

    @property
    def alive(self) -> bool:
        """Whether it is booted."""
        now = self.record
        return bool(now.pid) and groups.started(now.pid) == now.started

    @property
    def group(self) -> Path:
        """Its cgroup as this machine sees it."""
        return groups.of(self.lab, self.name)

    def path(self, inside: str) -> Path:
        """A file of the running host, as seen from this machine."""
        return Path(f"/proc/{self._need_pid()}/root") / inside.lstrip("/")

    def argv(self, words: Sequence[str], *, on_parent_death: str = "KILL") -> list[str]:
        """See Place. Raises HostError when the host is down."""
        pid = self._need_pid()
        enter = ["nsenter", "-t", str(pid), "-m", "-n", "-p", "-u", "-i", "-C", "--", *environment()]
        # nsenter waits outside for the program; when it is ended, the program must end as well.
        return joined(self._leaves(), [*enter, "setpriv", "--pdeathsig", on_parent_death, *words])

    # --- power -----------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start it from its disk; returns when sshd answers and its boot scripts are done. Raises HostError."""
        with record.locked():
            self.boot_locked()

    def boot_locked(self) -> None:
        """The same, by somebody who holds the lock."""
        if self.alive:
            raise HostError(f"host {self.name} is up already (process {self.pid})")
        now = self.record
        shared = root.ensure(now.spec.packages)
        self._make_disk(now)
        switch.attach(record.load(self.lab), now, shared)
        joins = groups.make(self.lab, self.name, now.spec.memory_mb)
        words = [str(HERE / "boot.sh"), self.name, str(shared), str(self.directory)]
        self._start(joins, ["unshare", "-m", "-p", "-f", "-u", "-i", "-C", "--kill-child", "sh", *words])

    def crash(self) -> None:
        """Like a power cut: every process ends at once, what was in memory is lost, the disk stays."""
        with record.locked():
            self.crash_locked()

    def crash_locked(self) -> None:
        """The same, by somebody who holds the lock. May be called again."""
        now = self.record
        groups.kill(now.pid, now.started)
        groups.kill(now.keeper_pid, now.keeper_started)
        groups.clear(self.lab, self.name)
        switch.detach(record.load(self.lab), now)
        self._note(replace(now, pid=0, started="", keeper_pid=0, keeper_started=""))

    def halt(self) -> None:
        """Power off in order: its stop scripts run and its processes are asked to end."""
        now = self.record
        if self.alive:
            handle = os.pidfd_open(now.pid)
            os.kill(now.pid, 15)
            select.select([handle], [], [], BOOT_LIMIT_S)
            os.close(handle)
        self.crash()

    # --- line ------------------------------------------------------------------------------------

    def set_link(
        self,
        *,
        rate: str | None = None,
        loss_percent: float | None = None,
        latency_ms: float | None = None,
        flow_mbit: float | None = None,
        up: bool | None = None,
    ) -> None:
        """Change its line to the switch; what is not named stays. `rate` "" lifts the limit. Raises LineError."""
        with record.locked():
            lab, now = record.load(self.lab), self.record
            slow = {"rate": rate, "latency_ms": latency_ms, "flow_mbit": flow_mbit}
            named = {**slow, "loss_percent": loss_percent, "up": up}
            changed: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
            line = replace(now.line, **changed)
            if self.alive:
                switch.shape(lab, now, line, root.ensure(now.spec.packages))
            self._note(replace(now, line=line))

    # --- within ----------------------------------------------------------------------------------

    def _need_pid(self) -> int:
        if not self.alive:
            raise HostError(
                f"host {self.name} of lab {self.lab} is down; start it with: boot --name {self.lab} {self.name}"
            )
        return self.pid

    def _leaves(self) -> list[Path]:
        limit = groups.limited(self.lab, self.name)
        return [self.group / "init", *([limit] if limit.is_dir() else [])]

    def _note(self, now: HostRecord) -> None:
        record.save(record.load(self.lab).with_host(now))

    def _make_disk(self, now: HostRecord) -> None:
        for part in ("disk", "root"):
            (self.directory / part).mkdir(parents=True, exist_ok=True)
        image = self.directory / "disk.img"
        if not now.spec.disk_mb or image.exists():
            return
        if not Path("/dev/loop-control").exists():
            raise HostError(f"host {self.name}: disk_mb is asked for, but this machine has no loop devices")
        run(["mke2fs", "-q", "-t", "ext4", "-m", "0", str(image), f"{now.spec.disk_mb}M"])

    def _start(self, joins: Sequence[Path], words: Sequence[str]) -> None:
        ready, told = os.pipe()
        argv = joined(joins, in_netns(self.netns, words))
        console = self.directory / "console.log"
        starter = ["sh", "-c", DETACHED, "sh", str(console), "env", f"LAB_READY_FD={told}", *argv]
        try:
            done = subprocess.run(starter, stdout=subprocess.PIPE, text=True, check=True, pass_fds=(told,))
        finally:
            os.close(told)
        keeper = int(done.stdout)
        self._note(replace(self.record, keeper_pid=keeper, keeper_started=groups.started(keeper)))
        with os.fdopen(ready, "rb") as answers:
            if not self._came_up(answers.fileno()):
                raise HostError(f"host {self.name} did not come up; the end of {console}:\n{tail(console)}")
        self._adopt(keeper)

    @staticmethod
    def _came_up(ready: int) -> bool:
        deadline = time.monotonic() + BOOT_LIMIT_S
        while (left := deadline - time.monotonic()) > 0:
            if select.select([ready], [], [], left)[0]:
                return os.read(ready, 16) == b"ready\n"
        return False

    def _adopt(self, keeper: int) -> None:
        """Note process 1; its keeper joins the leaf, since a group with processes cannot hand on controllers."""
        pid = int(Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()[0])
        (self.group / "init/cgroup.procs").write_text(str(keeper))
        self._note(replace(self.record, pid=pid, started=groups.started(pid)))


def tail(path: Path) -> str:
    """The end of a log."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-20:]) if path.exists() else ""


def forget_disk(lab: str) -> None:
    """Remove a lab's directory with the disks of all its hosts."""
    shutil.rmtree(record.directory(lab), ignore_errors=True)
    if record.directory(lab).exists():
        shutil.rmtree(record.directory(lab))
