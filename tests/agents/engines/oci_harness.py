"""The oci engine on a lab host, for its tests: a VE whose payload is `tree.py`, and what is left of it seen from outside."""

import itertools
import json
import struct
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import trio

from agents.engines.port import Engine, PagesApart
from scenarios.lab import workloads
from scenarios.lab.fleet import Lab
from scenarios.lab.hosts import Host
from tests.agents.engines.remote import SHIMS, RemoteEngine

ENGINE = "agents.engines.oci.engine:OciEngine"
BROKEN = """#!/bin/sh
echo "{tool}: Error: broken by the test" >&2
exit 1
"""
_numbers = itertools.count()


@contextmanager
def engine_on(host: Host) -> Iterator[RemoteEngine]:
    """The engine there, as long as it is needed."""
    engine = RemoteEngine(host, ENGINE, "oci")
    try:
        yield engine
    finally:
        engine.close()


def allow(harness: "OciHarness", *capabilities: str) -> None:
    """Let the VE's processes have these as well, from its next start on."""
    path = harness.host.path(f"/var/lib/migrator/ve/{harness.ve}/config.json")
    config = json.loads(path.read_text())
    for names in config["process"]["capabilities"].values():
        names += [f"CAP_{name}" for name in capabilities]
    path.write_text(json.dumps(config))


class OciHarness:
    """One runtime on one host."""

    def __init__(self, lab: Lab, host: Host, engine: Any, runtime: str) -> None:
        """`engine`: one that is here, or stands for one on a host."""
        number = next(_numbers)
        self.engine: Engine = engine
        self.apart: PagesApart = engine
        self.lab, self.host, self.runtime = lab, host, runtime
        self.ve = f"{runtime}{number}x"
        self.addresses = lab.ve_addresses(100 + number % 150)
        self.scratch = Path(f"/run/scratch{number}")
        self.tools: Mapping[str, str] = {"start": runtime, "dump": "criu", "hold": "criu"}
        host.run("mkdir", "-p", str(self.scratch))

    async def make(self) -> None:
        """As an administrator would."""
        await trio.to_thread.run_sync(lambda: workloads.install_tree(self.host, self.ve, self.runtime, self.addresses))
        self.host.path(f"/var/lib/migrator/ve/{self.ve}/autostart").touch()

    @property
    def _group(self) -> Path:
        return self.host.path(f"/sys/fs/cgroup/migrator/{self.ve}")

    def processes(self) -> list[int]:
        """As this machine numbers them."""
        try:
            return [int(word) for word in (self._group / "cgroup.procs").read_text().split()]
        except FileNotFoundError:
            return []

    async def count(self) -> int | None:
        """From the VE's own tmpfs, as any of its processes sees it."""
        for pid in self.processes():
            try:
                return int(struct.unpack("<Q", Path(f"/proc/{pid}/root/dev/shm/count").read_bytes())[0])
            except (OSError, struct.error):
                continue
        return 0 if self.processes() else None

    async def joined(self) -> bool:
        """Whether the host's end of its link is on the bridge."""
        return self.host.path(f"/sys/class/net/ve-{self.ve}/master").exists()

    async def starts_at_boot(self) -> bool:
        """By the marker that stands for it."""
        return self.host.path(f"/var/lib/migrator/ve/{self.ve}/autostart").exists()

    async def remains(self) -> Sequence[str]:
        """Whatever has its name, and the tools that should have ended."""
        found = [f"process {pid}" for pid in self.processes()]
        for top in ("/run", "/var/lib/migrator", "/sys/fs/cgroup", "/sys/class/net"):
            words = ("find", top, "-xdev", "-name", f"*{self.ve}*")
            found += self.host.run(*words, check=False).stdout.split()
        mounts = self.host.run("cat", "/proc/self/mountinfo").stdout
        found += [line for line in mounts.splitlines() if self.ve in line]
        found += self.host.run("pgrep", "-a", "^(criu|crun|runc)", check=False).stdout.splitlines()
        return found

    async def copy(self, source: Path, to: Path, excluded: Sequence[str] = ()) -> None:
        """On the host."""
        rules = [f"--exclude={path}" for path in excluded]
        words = ["rsync", "-aHAX", "--numeric-ids", "--delete", *rules, f"{source}/", f"{to}/"]
        await trio.to_thread.run_sync(lambda: self.host.run(*words))

    async def spoil(self, images: Path) -> None:
        """The largest image loses its second half, and so does the tree of processes."""
        directory = self.host.path(str(images))
        for name in (max(directory.glob("pages-*.img"), key=lambda path: path.stat().st_size).name, "pstree.img"):
            with (directory / name).open("r+b") as file:
                file.truncate((directory / name).stat().st_size // 2)

    def broken(self, tool: str) -> AbstractAsyncContextManager[None]:
        """Something else of its name stands in front of it."""
        shim = self.host.path(f"{SHIMS}/{tool}")

        @asynccontextmanager
        async def lasting() -> AsyncIterator[None]:
            shim.write_text(BROKEN.format(tool=tool))
            shim.chmod(0o755)
            yield
            shim.unlink()

        return lasting()

    async def clean(self) -> None:
        """Nothing of this test stays on the host."""
        await self.engine.stop(self.ve)
        await self.engine.destroy(self.ve)
        self.host.run("rm", "-rf", str(self.scratch))
