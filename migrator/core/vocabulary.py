"""PURE. Everything that can happen to one migration, and everything one migration can ask of the world.

Rule: an event is a fact, with the time at which the controller learned it; a command is one request to one host,
or the end.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from migrator.core.phases import Phase
from migrator.wire.facts import HostFacts, MemoryMethod, Mode, Objection, VeFacts
from migrator.wire.faults import Fault
from migrator.wire.messages import Reply, Request


class Role(StrEnum):
    """The two hosts of a migration."""

    SOURCE = "source"
    TARGET = "target"


class OverBudget(StrEnum):
    """What is done when the predicted blackout stays over its budget."""

    PROCEED = "proceed"
    ABORT = "abort"
    STOP_COPY = "stop-copy"
    POST_COPY = "post-copy"
    """What is not on the target then comes when the VE runs there; until it has, the VE needs both hosts."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator wants of a migration, beside where it goes. Defaults are what most people want at night."""

    mode: Mode | None = None
    """None: live where it can be, else stop-copy if `fallback` allows."""
    fallback: bool = True
    """Whether a running VE that cannot be checkpointed may be stopped and started instead."""
    blackout_budget_s: float = 0.5
    over_budget: OverBudget = OverBudget.PROCEED
    rounds_max: int = 12
    blackout_limit_s: float = 0.0
    """The source undoes by itself a blackout in which the target does not hold the VE by then; 0: what suits the mode
    (`convergence.limit_s`)."""
    bandwidth_bytes_per_s: int = 0
    """0: no limit. For the rounds; the blackout has the whole line."""
    waived: tuple[str, ...] = ()
    """Names of objections the operator has waived."""
    cutover_at_unix_s: float = 0.0
    """The blackout does not begin before this; 0: as soon as it can."""
    keep_source: bool = False
    memory: MemoryMethod | None = None
    """How the memory of a live VE moves; None: the best that its source offers for it."""
    compress: bool = True
    """Whether memory and files may be compressed on their way, where that is measured to be quicker."""


@dataclass(frozen=True, slots=True)
class MigrationRequest:
    """What the operator asked for."""

    migration: str
    ve: str
    source: str
    target: str
    target_address: str
    target_port: int = 22
    policy: Policy = field(default_factory=Policy)
    new_id: str = ""
    """The VE's id on the target; empty: the same."""
    names: dict[str, str] = field(default_factory=dict)
    """How names of the source are called on the target, see `wire.messages.Vet`."""
    link_bytes_per_s: float = 125e6
    """The line between the hosts, for the forecast; measured as soon as the first round is over."""

    @property
    def target_ve(self) -> str:
        """The VE's id on the target."""
        return self.new_id or self.ve


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
    objections: tuple[Objection, ...] = ()
    """What the target's engine says against it."""


@dataclass(frozen=True, slots=True)
class Replied:
    """A host answered the request that was sent to it; a Fault is an answer too."""

    at_unix_s: float
    role: Role
    reply: Reply
    number: int = 0
    """Of the Send that it answers, so that a late answer is not taken for another's; 0: the last one to that host."""


@dataclass(frozen=True, slots=True)
class AbortRequested:
    """The operator wants it undone."""

    at_unix_s: float
    who: str


@dataclass(frozen=True, slots=True)
class CutoverReached:
    """The time before which the blackout must not begin is over."""

    at_unix_s: float


@dataclass(frozen=True, slots=True)
class Resumed:
    """A controller took this migration up again; what was under way is unknown."""

    at_unix_s: float


@dataclass(frozen=True, slots=True)
class Fenced:
    """The operator says that a host of this migration is off, and stays off until it is cleaned up."""

    at_unix_s: float
    role: Role
    who: str
    why: str


Event = Started | Replied | AbortRequested | CutoverReached | Resumed | Fenced

# --- commands ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """One request to one host; Replied follows, with Fault UNREACHABLE after `limit_s`."""

    role: Role
    request: Request
    limit_s: float
    number: int = 0
    """Counts the requests of one migration; its Replied carries the same."""


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """CutoverReached follows at this time."""

    unix_s: float


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing is left to do."""

    phase: Phase
    fault: Fault | None


Command = Send | WaitUntil | Finish
