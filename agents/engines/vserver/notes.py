"""What the engine writes down about one guest that moves: below /var/lib/migrator/vserver/NAME, and durable.

Rule: a note is on disk before what it speaks of is done, so that an agent that died in between can undo it.
`carry` is a tree of files that moves with the guest, `config` is where its configuration arrives.
"""

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from cattrs import Converter

from agents import places
from agents.engines.vserver import disk
from agents.engines.vserver.live_mounts import LiveMount
from agents.engines.vserver.output import Marked
from agents.network.aliases import Alias
from agents.network.rules import HostRule

T = TypeVar("T")
BASE = places.STATE / "vserver"
DEVICES = places.RUN / "vserver-devices.json"
"""In memory: no device that we brought up outlives the host's being up."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What the target has to know and no file of the guest says; grows from `fence` over `stop` to `note`."""

    mark: str = ""
    """The boot mark before the move."""
    reboots_off: bool = False
    """Whether the guest could not restart itself before the move either."""
    live_mounts: tuple[LiveMount, ...] = ()
    ports: tuple[tuple[str, int], ...] = ()
    rules: tuple[HostRule, ...] = ()
    forwarding: bool = False
    host_owned: tuple[Alias, ...] = ()
    """Addresses that the source's own configuration had put on a device for it."""
    marked: tuple[Marked, ...] = ()
    """Attributes, paths relative to the root."""
    foreign_tags: int = 0
    """How many files had another tag than the guest's or none."""


@dataclass(frozen=True, slots=True)
class Stopping:
    """A stop under way."""

    sync_timeout: str | None
    """What the file held before it was raised; None: there was none."""
    pids: tuple[int, ...] = ()
    addresses: tuple[Alias, ...] = ()
    """Of the host, before."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A guest that is coming here: what was asked for, and what was made for it so far."""

    ve: str
    source_ve: str
    directory: str
    """Its configuration's place here."""
    root: str
    payload: str
    """The source's description, base64."""
    names: dict[str, str] = field(default_factory=dict)
    context: int | None = None
    """The ids it has here, reserved from now on."""
    nid: int | None = None
    tag: int | None = None
    addresses_wanted: tuple[str, ...] = ()
    trees: dict[str, str] = field(default_factory=dict)
    """Trees that come, name -> directory here."""
    made: tuple[str, ...] = ()
    """Directories made for it, removed by `drop`."""
    rules: tuple[HostRule, ...] = ()
    addresses: tuple[Alias, ...] = ()
    forwarding_set: bool = False


_CONVERTER = Converter()


class Notes:
    """All notes on one guest."""

    def __init__(self, ve: str) -> None:
        self.base = BASE / ve
        self.carry = self.base / "carry"
        self.config = self.base / "config"

    @property
    def carried(self) -> Carried | None:
        """None: this guest is not moving."""
        return self._read(self.carry / "guest.json", Carried)

    def carry_on(self, **changes: Any) -> Carried:
        """Change some of it."""
        changed = replace(self.carried or Carried(), **changes)
        self._write(self.carry / "guest.json", changed)
        return changed

    @property
    def stopping(self) -> Stopping | None:
        """None: no stop is under way."""
        return self._read(self.base / "stopping.json", Stopping)

    @stopping.setter
    def stopping(self, value: Stopping | None) -> None:
        self._write(self.base / "stopping.json", value)

    @property
    def arrival(self) -> Arrival | None:
        """None: it is not coming here."""
        return self._read(self.base / "arrival.json", Arrival)

    @arrival.setter
    def arrival(self, value: Arrival | None) -> None:
        self._write(self.base / "arrival.json", value)

    @property
    def taken_off(self) -> tuple[Alias, ...]:
        """Addresses taken off this host by hand, to be put back if the guest stays."""
        found = disk.note(self.base / "taken-off.json") or []
        return tuple(_CONVERTER.structure(each, Alias) for each in found)

    @taken_off.setter
    def taken_off(self, value: tuple[Alias, ...]) -> None:
        self._write(self.base / "taken-off.json", list(value) or None)

    def forget(self) -> None:
        """No note is left."""
        shutil.rmtree(self.base, ignore_errors=True)

    @staticmethod
    def _read(path: Path, kind: type[T]) -> T | None:
        plain = disk.note(path)
        return None if plain is None else _CONVERTER.structure(plain, kind)

    @staticmethod
    def _write(path: Path, value: Any) -> None:
        if value is None:
            disk.remove(path)
        else:
            disk.put_note(path, _CONVERTER.unstructure(value))


def arrivals() -> tuple[Arrival, ...]:
    """Every guest that is coming to this host."""
    found = (Notes(path.parent.name).arrival for path in sorted(BASE.glob("*/arrival.json")))
    return tuple(arrival for arrival in found if arrival is not None)


def own_devices() -> dict[str, bool]:
    """Devices we have brought up for guests -> whether we made them."""
    found: dict[str, bool] | None = disk.note(DEVICES)
    return found or {}


def set_own_devices(devices: dict[str, bool]) -> None:
    """Write them down."""
    disk.put_note(DEVICES, devices)
