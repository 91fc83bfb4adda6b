"""A lab to be broken: two hosts with small disks and memories, one VE with a service, and the `migrator` that moves it.

Rule: the VE and the hosts are what anyone would have; whatever is put on a host beyond that (its own boot script for VEs)
is what such a host would have too.
"""

import json
import os
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from scenarios.faults import heartbeat, probe
from scenarios.lab import bundles
from scenarios.lab.fleet import Lab
from scenarios.lab.hosts import Host
from scenarios.lab.topology import HostSpec, Topology

HERE = Path(__file__).parent
VE = "shop"
VE_NUMBER = 100
BEAT_PORT = 7777
DISK_MB, MEMORY_MB = 400, 600
DEADLINE_S = 10
REDIS, BASH = "/usr/bin/redis-server", "/usr/bin/bash"
BOOT_SCRIPT = """\
#!/usr/bin/python3
# What a host does with VEs that are marked to start at boot: it starts them, and asks nobody.
import sys
sys.path.insert(0, "/var/lib/migrator/agent/current")
import trio
from agents.engines.oci.bundle import all_bundles
from agents.engines.oci.engine import OciEngine
for bundle in all_bundles():
    if bundle.autostart:
        trio.run(OciEngine().start, bundle.ve)
"""
BOOT_LINK = "/etc/rc2.d/S10ves"
"""Before the agent's: a host starts its VEs whether there is an agent or not."""
MAY_BE = re.compile(
    r": (mount /run/netns tmpfs"
    r"|file /var/lib/migrator/(keys|permitted|arriving|ve|records|records/[a-z]+\.json|agent\.log\.1)"
    r"|file /run/(runc|crun|mount|criu\.kdat|netns|migrator/images|migrator/work)"
    r"|file /root/\.ssh/\.migrator\.lock)$"
)
"""What a host has or has not, whether a VE ever came or went: empty directories, the record of who has the VE, caches."""
MAY_BE_AT_HOME = re.compile(
    rf": file /run/migrator/work/{VE}(/(hold|(dump-)?bin(/criu)?|[a-z-]+\.(log|conf)|stats-[a-z]+))?$"
)
"""Where the VE is: the logs of the tools that brought it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at a host."""

    lines: tuple[str, ...]
    copy: dict[str, object]
    records: dict[str, dict[str, object]]

    @property
    def runs(self) -> bool:
        """Whether the VE runs here now."""
        return bool(self.copy["populated"]) and not self.copy["frozen"]

    @property
    def has(self) -> bool:
        """Whether anything of the VE is here."""
        return bool(self.copy["populated"] or self.copy["bundle"])


class Site:
    """One lab with its VE."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.alpha, self.beta = lab.host("alpha"), lab.host("beta")
        self.hosts = {"alpha": self.alpha, "beta": self.beta}
        self.journal = lab.directory / "journal.db"
        self.address = lab.ve_addresses(VE_NUMBER)[0].split("/")[0]
        self.persistent = False
        self._empty: dict[str, Counter[str]] = {}
        self._of_ve: Counter[str] = Counter()

    @classmethod
    def up(cls, name: str) -> "Site":
        """A fresh lab with an agent on both hosts and the VE on alpha; knows how both hosts look in order."""
        hosts = tuple(HostSpec(each, disk_mb=DISK_MB, memory_mb=MEMORY_MB) for each in ("alpha", "beta"))
        site = cls(Lab.up(Topology(name, hosts)))
        for host in site.hosts.values():
            host.run("sh", "-c", f"cat > {BOOT_LINK}; chmod 755 {BOOT_LINK}", text=BOOT_SCRIPT)
            site.must("host", "add", host.name)
        site._empty = {name: Counter(site.look(name).lines) for name in site.hosts}
        site.deploy("alpha", persistent=False)
        site._of_ve = Counter(site.look("alpha").lines) - site._empty["alpha"]
        site.must("migrate", VE, "beta", "--mode", "live")  # where nothing moves, faults prove nothing
        return site

    # --- the VE ----------------------------------------------------------------------------------

    def deploy(self, name: str, *, persistent: bool) -> None:
        """Make the VE anew on a host; `persistent`: its Redis writes to disk before it acknowledges."""
        for host in self.hosts.values():
            if self.look(host.name).has:
                self.must("ve", "stop", VE, "--on", host.name)
                host.run("rm", "-rf", f"/var/lib/migrator/ve/{VE}")
                host.run("sh", "-c", f"ip link delete ve-{VE}; ip netns delete {VE}", check=False)
        host = self.hosts[name]
        address, address6 = self.lab.ve_addresses(VE_NUMBER)
        service = f"{REDIS} --bind 0.0.0.0 --protected-mode no --save '' --dir /data"
        service += " --appendonly yes --appendfsync always" if persistent else " --appendonly no"
        first = heartbeat.script(self.lab.client.address, BEAT_PORT, service)
        words = ["python3", "-", VE, "crun", address, address6, REDIS, BASH, "--", BASH, "-c", first]
        host.run(*words, text=Path(bundles.__file__).read_text())
        host.run("touch", f"/var/lib/migrator/ve/{VE}/autostart")
        host.run("mkfifo", f"/var/lib/migrator/ve/{VE}/rootfs/{heartbeat.NEVER}")
        self.must("ve", "start", VE)
        self.persistent = persistent

    def where(self) -> str:
        """The host on which the VE runs; empty: none, or more than one."""
        running = [name for name, host in self.hosts.items() if host.alive and self.look(name).runs]
        return running[0] if len(running) == 1 else ""

    def beat_file(self, name: str) -> Path:
        """The VE's heartbeat on a host's disk, as this machine sees it."""
        return self.hosts[name].path(f"/var/lib/migrator/ve/{VE}/rootfs/{heartbeat.FILE}")

    # --- the program -----------------------------------------------------------------------------

    def argv(self, *words: str) -> list[str]:
        """The program as a person would run it."""
        return [str(Path(sys.executable).parent / "migrator"), *words]

    @property
    def environment(self) -> dict[str, str]:
        """For the program."""
        return {**os.environ, "MIGRATOR_INVENTORY": str(self.lab.inventory), "MIGRATOR_JOURNAL": str(self.journal)}

    def migrator(self, *words: str, limit_s: float = 120) -> "subprocess.CompletedProcess[str]":
        """Run the program to its end, whatever that is."""
        argv = self.argv(*words)
        return subprocess.run(
            argv, env=self.environment, capture_output=True, text=True, check=False, timeout=limit_s, stdin=-3
        )

    def must(self, *words: str) -> str:
        """Run the program; it has to succeed."""
        done = self.migrator(*words)
        if done.returncode:
            raise RuntimeError(f"migrator {' '.join(words)} ended with {done.returncode}: {done.stderr}{done.stdout}")
        return done.stdout

    def unfinished(self) -> list[str]:
        """Migrations that have not ended, by the journal."""
        return [str(row[0]) for row in self._rows("select migration from migrations where ended = ''")]

    def last(self) -> tuple[str, str]:
        """The latest migration and how it ended; empty: there was none, or it has not ended."""
        rows = self._rows("select migration, ended from migrations order by began_unix_s desc limit 1")
        return (str(rows[0][0]), str(rows[0][1])) if rows else ("", "")

    def _rows(self, question: str) -> Sequence[Sequence[object]]:
        if not self.journal.exists():
            return []
        with closing(sqlite3.connect(f"file:{self.journal}?mode=ro", uri=True, timeout=30)) as journal:
            return journal.execute(question).fetchall()

    # --- what is there ---------------------------------------------------------------------------

    def look(self, name: str) -> Seen:
        """Everything on a host that is up."""
        said = self.hosts[name].run("python3", "-", VE, text=Path(probe.__file__).read_text()).stdout
        seen = json.loads(said)
        return Seen(tuple(seen["lines"]), seen["copy"], seen["records"])

    def out_of_order(self, name: str, seen: Seen, *, home: bool) -> list[str]:
        """How a host differs from one that has (`home`) or has not the VE, and nothing else."""
        ordinary = self._empty[name] + (self._of_ve if home else Counter())
        now = Counter(seen.lines)
        extra = [f"{name} has too much: {line}" for line in (now - ordinary).elements()]
        found = extra + [f"{name} lacks: {line}" for line in (ordinary - now).elements()]
        return [line for line in found if not MAY_BE.search(line) and not (home and MAY_BE_AT_HOME.search(line))]

    def host(self, name: str) -> Host:
        """One of the two."""
        return self.hosts[name]

    def other(self, name: str) -> str:
        """The other of the two."""
        return "beta" if name == "alpha" else "alpha"
