"""PURE. Everything that can happen to one migration, and everything one migration can ask of the world.

Rule: an event is a fact, with the time at which the controller learned it; a command is one request to one host,
or the end.
"""

from dataclasses import dataclass
from enum import StrEnum

from migrator.core.phases import Phase
from migrator.wire.facts import HostFacts, VeFacts
from migrator.wire.faults import Fault
from migrator.wire.messages import Reply, Request


class Role(StrEnum):
    """The two hosts of a migration."""

    SOURCE = "source"
    TARGET = "target"


@dataclass(frozen=True, slots=True)
class MigrationRequest:
    """What the operator asked for."""

    migration: str
    ve: str
    source: str
    target: str
    target_address: str
    target_port: int = 22
    blackout_limit_s: float = 60.0
    bandwidth_bytes_per_s: int = 0


# --- events -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """The operator's request, with what both hosts say about themselves and the VE."""

    at_unix_s: float
    source: HostFacts
    target: HostFacts
    source_ves: tuple[VeFacts, ...]
    target_ves: tuple[VeFacts, ...]
    order_floor: int
    """The highest order number that either host has obeyed for this VE."""


@dataclass(frozen=True, slots=True)
class Replied:
    """A host answered the request that was sent to it; a Fault is an answer too."""

    at_unix_s: float
    role: Role
    reply: Reply


@dataclass(frozen=True, slots=True)
class AbortRequested:
    """The operator wants it undone."""

    at_unix_s: float
    who: str


@dataclass(frozen=True, slots=True)
class Resumed:
    """A controller took this migration up again; what was under way is unknown."""

    at_unix_s: float


Event = Started | Replied | AbortRequested | Resumed

# --- commands ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """One request to one host; Replied follows, with Fault UNREACHABLE after `limit_s`."""

    role: Role
    request: Request
    limit_s: float


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing is left to do."""

    phase: Phase
    fault: Fault | None


Command = Send | Finish
