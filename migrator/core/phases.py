"""PURE. The phases of a migration: one row each; what a failure in it means, and what comes next.

Rule: a phase is a row here and a case in `machine`. Everything up to and including `copying` can be undone by the
controller; `handing-over` belongs to the two hosts, which finish or undo it themselves; after it there is only forward.
"""

from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """Where a migration is."""

    INSPECTING = "inspecting"
    RESERVING = "reserving"
    COPYING = "copying"
    WAITING = "waiting"
    """Everything is copied; the operator's time for the blackout has not come."""
    HANDING_OVER = "handing-over"
    VERIFYING = "verifying"
    RETIRING = "retiring"
    UNDOING = "undoing"
    SETTLING = "settling"
    """What happened is unknown; both hosts are being asked."""
    BLOCKED = "blocked"
    """A host that must be asked does not answer, or is not done with what it does by itself."""
    DONE = "done"
    UNDONE = "undone"
    REFUSED = "refused"
    NEEDS_OPERATOR = "needs-operator"
    """What is known leaves nothing safe to do; asked again when it is taken up again."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one phase is."""

    phase: Phase
    limit_s: float
    """After this the outcome of its request is unknown, never failed. Where files are removed, or memory is still to come, it is
    long; a host that has gone is noticed by its connection, in seconds."""
    undo: bool
    """Whether the controller undoes the migration when a step of it certainly failed."""
    after: tuple[Phase, ...]
    """The phases that may come next."""


ENDED = frozenset({Phase.DONE, Phase.UNDONE, Phase.REFUSED})
STOPPED = frozenset({Phase.BLOCKED, Phase.NEEDS_OPERATOR})
"""Nothing is under way and it has not ended: an event from outside (Resumed, Fenced, an abort) goes on from here."""

_WHEN_UNCLEAR = (Phase.SETTLING, *STOPPED)

TABLE = {
    row.phase: row
    for row in (
        Row(Phase.INSPECTING, 30, False, (Phase.RESERVING, Phase.REFUSED, Phase.SETTLING, Phase.UNDONE)),
        Row(Phase.RESERVING, 60, True, (Phase.COPYING, Phase.UNDOING, Phase.SETTLING)),
        Row(Phase.COPYING, 86400, True, (Phase.WAITING, Phase.HANDING_OVER, Phase.UNDOING, Phase.SETTLING)),
        Row(Phase.WAITING, 0, True, (Phase.COPYING, Phase.UNDOING, Phase.SETTLING)),
        Row(Phase.HANDING_OVER, 900, True, (Phase.VERIFYING, Phase.UNDOING, Phase.SETTLING)),
        Row(Phase.VERIFYING, 600, False, (Phase.RETIRING, *_WHEN_UNCLEAR)),
        Row(Phase.RETIRING, 600, False, (Phase.DONE, *_WHEN_UNCLEAR)),
        Row(Phase.UNDOING, 600, False, (Phase.UNDONE, Phase.RESERVING, *_WHEN_UNCLEAR)),
        Row(
            Phase.SETTLING,
            30,
            False,
            (Phase.COPYING, Phase.UNDOING, Phase.VERIFYING, Phase.RETIRING, Phase.DONE, *STOPPED),
        ),
        Row(Phase.BLOCKED, 0, False, (Phase.SETTLING,)),
        Row(Phase.NEEDS_OPERATOR, 0, False, (Phase.SETTLING,)),
    )
}
