"""Puts the program together: the only place that builds adapters."""

import os
import secrets
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from migrator.adapters import program, settings
from migrator.adapters.journal import SqlJournal, without_password
from migrator.adapters.logs import EventLog
from migrator.adapters.metrics import Metrics, Served
from migrator.adapters.ssh import Loop, SshLink
from migrator.app.driver import Surroundings
from migrator.core.inventory import Host, Inventory
from migrator.ports.observer import Observer

ID_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
"""Without those that are taken for each other when read out on the telephone."""
ID_LENGTH = 8
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Places:
    """Where this controller keeps what."""

    inventory: Path
    journal: str
    """Path of a SQLite file, or a database URL."""
    log: str = ""
    """File for the log, `-` for standard error; empty: none."""

    @classmethod
    def default(cls) -> "Places":
        """By the XDG rules, or what MIGRATOR_INVENTORY and MIGRATOR_JOURNAL say."""
        config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
        return cls(
            Path(os.environ.get("MIGRATOR_INVENTORY") or config / "migrator/inventory.toml"),
            os.environ.get("MIGRATOR_JOURNAL") or str(state / "migrator/journal.db"),
        )

    @property
    def journal_shown(self) -> str:
        """The journal's place as it may be shown to anybody."""
        return without_password(self.journal)


class Controller:
    """Everything one run of the program uses. Made by `controller`."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self._loop: Loop | None = None
        self._journal: SqlJournal | None = None
        self._inventory: Inventory | None = None
        self._links: dict[str, SshLink] = {}
        self._log: EventLog | None = None
        self._served: Served | None = None

    @property
    def inventory(self) -> Inventory:
        """The fleet. Raises SettingsError."""
        if self._inventory is None:
            self._inventory = settings.read(self.places.inventory)
        return self._inventory

    @property
    def journal(self) -> SqlJournal:
        """The journal, opened when it is first needed."""
        if self._journal is None:
            where = self.places.journal
            self._journal = SqlJournal(where) if "://" in where else SqlJournal.at(Path(where))
        return self._journal

    def link(self, host: Host) -> SshLink:
        """The one link to a host."""
        if host.name not in self._links:
            self._loop = self._loop or Loop()
            self._links[host.name] = SshLink(host, self._loop)
        return self._links[host.name]

    def surroundings(self, observers: Sequence[Observer] = (), patience_s: float = 30.0) -> Surroundings:
        """What drivers need."""
        links = {host.name: self.link(host) for host in self.inventory.hosts}
        holder = f"{socket.gethostname()}:{os.getpid()}"
        return Surroundings(self.journal, links, time.time, holder, observers, patience_s)

    def observers(self, metrics_port: int | None = None, metrics_address: str = "") -> list[Observer]:
        """Who listens beside the person at the terminal. Raises OSError when a log or port cannot be had."""
        found: list[Observer] = []
        if self.places.log:
            self._log = self._log or EventLog.to(self.places.log)
            found.append(self._log)
        if metrics_port is not None:
            metrics = Metrics()
            self._served = Served(metrics.registry, metrics_address or LOOPBACK, metrics_port)
            found.append(metrics)
        return found

    @staticmethod
    def program() -> tuple[str, bytes]:
        """Name and content of the agent's program file."""
        return program.build()

    @staticmethod
    def new_id() -> str:
        """A name for a new migration."""
        return "".join(secrets.choice(ID_LETTERS) for _ in range(ID_LENGTH))

    def close(self) -> None:
        """Hang up everywhere."""
        for held in (self._log, self._served):
            if held is not None:
                held.close()
        if self._loop is not None:
            self._loop.stop()
        if self._journal is not None:
            self._journal.close()


@contextmanager
def controller(places: Places) -> Iterator[Controller]:
    """A controller for as long as the block lasts."""
    made = Controller(places)
    try:
        yield made
    finally:
        made.close()
