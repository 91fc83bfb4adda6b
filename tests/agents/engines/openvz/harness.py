"""A VE of the `openvz` engine on a lab host, as tests make and see it without asking the engine."""

import os
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from agents.engines.port import Engine
from scenarios.lab.hosts import Host
from scenarios.lab.openvz.fixtures import clear_faults, inject
from tests.lab.remote_engine import RemoteEngine

COUNTER = """\
import ctypes, os, time
box = ctypes.c_uint64(0)
with open("/counter.new", "w") as file:
    file.write(str(ctypes.addressof(box)))
os.rename("/counter.new", "/counter.address")
while True:
    box.value += 1
    time.sleep(0.001)
"""
RUN_COUNTER = "#!/bin/bash\nsetsid python3 -IS /counter.py </dev/null >/dev/null 2>&1 &\n"


class OpenVzHarness:
    """See `tests.agents.engines.contract.Harness`."""

    tools: Mapping[str, str] = {"start": "vzctl", "dump": "vzctl", "hold": "vzctl"}
    scratch = Path("/var/lib/migrator/scratch")

    def __init__(self, host: Host, remote: RemoteEngine, ve: str = "101", conf: str = "") -> None:
        self.host, self.ve, self.conf = host, ve, conf
        self.remote = remote
        self.engine: Engine = remote  # it has every method, by __getattr__
        host.run("rm", "-rf", str(self.scratch))
        host.path(str(self.scratch)).mkdir(parents=True)

    @property
    def address(self) -> str:
        """Of the VE, on the lab's network."""
        return f"{self.host.address.rsplit('.', 1)[0]}.{self.ve}"

    async def make(self) -> None:
        """From the template, with a counter among its services."""
        words = ["--ostemplate", "debian-13-small", "--hostname", f"web{self.ve}", "--ipadd", self.address]
        self.host.run("vzctl", "create", self.ve, *words)
        self.host.run("vzctl", "set", self.ve, "--onboot", "yes", "--save")
        if self.conf:
            with self.path(f"/etc/vz/conf/{self.ve}.conf").open("a") as file:
                file.write(self.conf)
        private = self.path(f"/vz/private/{self.ve}")
        (private / "counter.py").write_text(COUNTER)
        script = private / "etc/rc.d/40counter"
        script.write_text(RUN_COUNTER)
        script.chmod(0o755)

    def path(self, inside: str) -> Path:
        """A file of the host, seen from this machine."""
        return self.host.path(inside)

    def pids(self) -> list[int]:
        """The VE's processes, as this machine numbers them."""
        try:
            return [int(word) for word in self.path(f"/sys/fs/cgroup/vz-{self.ve}/cgroup.procs").read_text().split()]
        except OSError:
            return []

    async def count(self) -> int | None:
        """From the counter's memory."""
        pids = self.pids()
        for pid in pids:
            try:
                if b"/counter.py" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    place = int(Path(f"/proc/{pid}/root/counter.address").read_text())
                    return _peek(pid, place)
            except OSError:
                continue
        return 0 if pids else None

    async def joined(self) -> bool:
        """Its link is plugged in, and the host routes and answers for its address."""
        plugged = self.path(f"/sys/class/net/venet0.{self.ve}/master").exists()
        return plugged and self.address in self.routed()

    def routed(self) -> list[str]:
        """Addresses the host routes to venet0 and answers for."""
        routes = self.host.run("ip", "route", "show", "dev", "venet0").stdout.splitlines()
        proxies = [line.split()[0] for line in self.host.run("ip", "neigh", "show", "proxy").stdout.splitlines()]
        return [line.split()[0] for line in routes if line.split() and line.split()[0] in proxies]

    async def starts_at_boot(self) -> bool:
        """As /etc/init.d/vz and vzctl would decide."""
        text = self.path(f"/etc/vz/conf/{self.ve}.conf").read_text()
        return 'ONBOOT="yes"' in text and 'DISABLED="yes"' not in text

    async def remains(self) -> Sequence[str]:
        """Processes, cgroup, mount, links, routes, files; what vzctl destroy keeps as *.destroyed does not count."""
        found = [f"process {pid}" for pid in self.pids()]
        script = (
            f"cd /; ls -d sys/fs/cgroup/vz-{self.ve} sys/class/net/venet0.{self.ve} sys/class/net/veth{self.ve}.* "
            f"vz/private/{self.ve} vz/root/{self.ve} vz/dump/*{self.ve}* vz/dump/.*{self.ve}* vz/lock/{self.ve}.lck "
            f"etc/vz/conf/{self.ve}.* etc/vz/names/* var/lib/vzctl/veip/{self.ve} var/lib/migrator/openvz/{self.ve} "
            f"2>/dev/null; grep -o ' /vz/root/{self.ve} ' /proc/self/mountinfo; ip route show dev venet0; "
            "ip neigh show proxy"
        )
        listed = self.host.run("sh", "-c", script, check=False).stdout.splitlines()
        return [*found, *(line for line in listed if line and not line.endswith(".destroyed"))]

    async def copy(self, source: Path, to: Path, excluded: Sequence[str] = ()) -> None:
        """By rsync, on the host."""
        self.host.run("mkdir", "-p", str(to))
        self.host.run(
            "rsync",
            "-aHAX",
            "--delete",
            "--numeric-ids",
            *(f"--exclude={path}" for path in excluded),
            f"{source}/",
            f"{to}/",
        )

    async def spoil(self, images: Path) -> None:
        """Half of each file."""
        for path in self.path(str(images)).rglob("*"):
            if path.is_file():
                os.truncate(path, path.stat().st_size // 2)

    def broken(self, tool: str) -> AbstractAsyncContextManager[None]:
        """vzctl's steps that act on processes fail."""
        return self._broken(tool)

    @asynccontextmanager
    async def _broken(self, tool: str) -> AsyncIterator[None]:
        assert tool == "vzctl"
        for step in ("start", "chkpnt.suspend", "chkpnt.dump", "restore.undump"):
            inject(self.host, step, times=1000)
        yield
        clear_faults(self.host)


def _peek(pid: int, place: int) -> int:
    """The number in a process's memory."""
    with open(f"/proc/{pid}/mem", "rb") as memory:
        return int(struct.unpack("Q", os.pread(memory.fileno(), 8, place))[0])
