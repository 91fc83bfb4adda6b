"""PURE. What a scenario is made of: hosts, addresses, and steps of nine kinds. The field names are the keys of the file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from scenarios.lab.topology import HostSpec


@dataclass(frozen=True, kw_only=True)
class Step:
    """What all steps have."""

    CHECKS: ClassVar[bool] = False
    """Whether it only looks: after a check that failed, the checks behind it are still made."""
    say: str = ""
    """What happens, in plain words; printed before it."""


@dataclass(frozen=True, kw_only=True)
class Type(Step):
    """Lines typed at the prompt of a host's root shell, one after the other."""

    type: str
    host: str
    status: int = 0
    """What the last line ends with; those before it must end with 0."""
    answer: str | None = None
    """The whole standard output of the last line, white space at both ends aside."""
    says: tuple[str, ...] = ()
    """What must be in the output or the error output of the last line."""
    says_not: tuple[str, ...] = ()
    within_s: float = 0.0
    """Typed again and again until it is as expected, so long at most."""
    limit_s: float = 120.0


@dataclass(frozen=True, kw_only=True)
class Write(Step):
    """A file that the operator writes with an editor."""

    write: str
    host: str
    text: str
    mode: str = "644"


@dataclass(frozen=True, kw_only=True)
class Connect(Step):
    """A client outside opens one TCP connection to a Redis and writes to it from now on, each write waited for."""

    connect: str
    """ADDRESS:PORT."""
    client: str


@dataclass(frozen=True, kw_only=True)
class Migrator(Step):
    """The `migrator` program with the lab's inventory."""

    migrator: str
    status: int = 0
    says: tuple[str, ...] = ()
    says_not: tuple[str, ...] = ()
    limit_s: float = 300.0


@dataclass(frozen=True, kw_only=True)
class Remember(Step):
    """How a host is now: files of VEs, addresses, links, routes, rules, mounts, control groups."""

    remember: str


@dataclass(frozen=True, kw_only=True)
class Connection(Step):
    """A client is served now, nothing acknowledged is missing, and its connection is the one it had, or a new one."""

    CHECKS: ClassVar[bool] = True
    connection: str
    client: str
    longest_gap_ms: float | None = None
    """Longest time between two acknowledged writes since the client was looked at last."""


@dataclass(frozen=True, kw_only=True)
class Reachable(Step):
    """Whether somebody outside can connect to ADDRESS:PORT."""

    CHECKS: ClassVar[bool] = True
    reachable: str
    is_: bool = True
    within_s: float = 10.0


@dataclass(frozen=True, kw_only=True)
class InterfaceState(Step):
    """An interface of a host is up, down (there, but down) or absent."""

    CHECKS: ClassVar[bool] = True
    interface: str
    host: str
    state: str
    within_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class AsRemembered(Step):
    """A host is as it was when it was remembered: nothing is left on it, and nothing is missing."""

    CHECKS: ClassVar[bool] = True
    as_remembered: str


AnyStep = Type | Write | Connect | Migrator | Remember | Connection | Reachable | InterfaceState | AsRemembered
KINDS: Mapping[str, type[AnyStep]] = {
    "type": Type,
    "write": Write,
    "connect": Connect,
    "migrator": Migrator,
    "remember": Remember,
    "connection": Connection,
    "reachable": Reachable,
    "interface": InterfaceState,
    "as_remembered": AsRemembered,
}
"""The key that says what a step is -> its kind."""
SPELLED = {"is": "is_"}
"""Keys that are no names in Python."""
WORDS = {"connection": ("same", "new"), "state": ("up", "down", "absent")}
"""Keys with a fixed choice of values."""


@dataclass(frozen=True)
class Scenario:
    """One file."""

    name: str
    title: str
    about: str
    hosts: tuple[HostSpec, ...]
    addresses: Mapping[str, int]
    """Name -> number in the lab's network."""
    steps: tuple[AnyStep, ...]
