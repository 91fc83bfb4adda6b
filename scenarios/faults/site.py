"""A lab to be broken: two hosts with small disks and memories, one VE with a service, and the `migrator` that moves it.

Rule: the VE and the hosts are what anyone would have; whatever is put on a host beyond that (its own boot script for VEs)
is what such a host would have too.
"""

import json
import re
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from scenarios.faults import heartbeat, kinds, probe
from scenarios.faults.kinds import Kind
from scenarios.lab.command import CommandLine
from scenarios.lab.fleet import Lab
from scenarios.lab.hosts import Host
from scenarios.lab.topology import HostSpec, Topology

MAY_BE = re.compile(
    r": (mount /run/netns tmpfs"
    r"|file /var/lib/migrator/(keys|permitted|arriving|ve|records|records/[a-z0-9]+\.json|agent\.log\.1)"
    r"|file /run/(runc|crun|mount|criu\.kdat|netns|migrator/images|migrator/work)"
    r"|file /root/\.ssh/\.migrator\.lock)$"
)
"""What a host has or has not, whether a VE ever came or went: empty directories, the record of who has the VE, caches."""
MAY_BE_AT_HOME = re.compile(
    r": file /run/migrator/work/shop(/(hold|door(/bin|/bin/criu|/[a-z.]+)?|[a-z-]+\.(log|conf)|stats-[a-z]+))?$"
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

    def __init__(self, lab: Lab, kind: Kind) -> None:
        self.lab, self.kind, self.form, self.ve = lab, kind, kind.form, kind.form.ve
        self.alpha, self.beta = lab.host("alpha"), lab.host("beta")
        self.hosts = {"alpha": self.alpha, "beta": self.beta}
        self.journal = lab.directory / "journal.db"
        self.address = lab.ve_addresses(kinds.NUMBER)[0].split("/")[0]
        self.persistent = False
        self._may_be = re.compile(self.form.may_be) if self.form.may_be else MAY_BE
        self._empty: dict[str, Counter[str]] = {}
        self._of_ve: Counter[str] = Counter()

    @classmethod
    def up(cls, name: str, engine: str = "oci") -> "Site":
        """A fresh lab with an agent on both hosts and the VE on alpha; knows how both hosts look in order."""
        kind = kinds.KINDS[engine]
        form = kind.form
        hosts = tuple(HostSpec(each, form.disk_mb, form.memory_mb, roles=form.roles) for each in ("alpha", "beta"))
        site = cls(Lab.up(Topology(name, hosts)), kind)
        kind.install(site.lab)
        for host in site.hosts.values():
            site.must("host", "add", host.name)
        site._empty = {name: Counter(site.look(name).lines) for name in site.hosts}
        site.deploy("alpha", persistent=False)
        site._of_ve = Counter(site.look("alpha").lines) - site._empty["alpha"]
        site.must("migrate", site.ve, "beta", "--mode", form.mode)  # where nothing moves, faults prove nothing
        return site

    # --- the VE ----------------------------------------------------------------------------------

    def deploy(self, name: str, *, persistent: bool) -> None:
        """Make the VE anew on a host; `persistent`: its Redis writes to disk before it acknowledges."""
        for host in self.hosts.values():
            if self.look(host.name).has:
                self.must("ve", "stop", self.ve, "--on", host.name)
                self.kind.clear(host)
        self.kind.deploy(self.lab, self.hosts[name], persistent=persistent)
        self.must("ve", "start", self.ve)
        self.persistent = persistent

    def where(self) -> str:
        """The host on which the VE runs; empty: none, or more than one."""
        running = [name for name, host in self.hosts.items() if host.alive and self.look(name).runs]
        return running[0] if len(running) == 1 else ""

    def beat_file(self, name: str) -> Path:
        """The VE's heartbeat on a host's disk, as this machine sees it."""
        return self.hosts[name].path(f"{self.form.root}/{heartbeat.FILE}")

    # --- the program -----------------------------------------------------------------------------

    @property
    def command(self) -> CommandLine:
        """The program as a person would run it."""
        return CommandLine(self.lab.inventory, self.journal)

    def migrator(self, *words: str, limit_s: float = 120) -> "subprocess.CompletedProcess[str]":
        """Run the program to its end, whatever that is."""
        return self.command.attempt(*words, limit_s=limit_s)

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
        words = ("python3", "-", self.form.group, self.form.place, self.form.root)
        said = self.hosts[name].run(*words, text=Path(probe.__file__).read_text()).stdout
        seen = json.loads(said)
        return Seen(tuple(seen["lines"]), seen["copy"], seen["records"])

    def out_of_order(self, name: str, seen: Seen, *, home: bool) -> list[str]:
        """How a host differs from one that has (`home`) or has not the VE, and nothing else."""
        ordinary = self._empty[name] + (self._of_ve if home else Counter())
        now = Counter(seen.lines)
        extra = [f"{name} has too much: {line}" for line in (now - ordinary).elements()]
        found = extra + [f"{name} lacks: {line}" for line in (ordinary - now).elements()]
        return [
            line
            for line in found
            if not (MAY_BE.search(line) or self._may_be.search(line) or (home and MAY_BE_AT_HOME.search(line)))
        ]

    def host(self, name: str) -> Host:
        """One of the two."""
        return self.hosts[name]

    def other(self, name: str) -> str:
        """The other of the two."""
        return "beta" if name == "alpha" else "alpha"
