"""PURE. After a crash, a timeout or a lost answer: what both hosts say decides what is done.

Rule: the table has an answer for every combination; where the hosts' words do not fit the protocol the answer is the
operator, never a guess. None stands for a host that does not answer.

    source \\ target   arriving        owner      refused     home/none    silent
    home              undo            operator   undo        undo         undo
    leaving           undo            operator   undo        undo         undo
    given             wait            forward    wait        operator     blocked on target
    gone              operator        forward    operator    operator     forward
    silent            blocked         forward    blocked     blocked      blocked

`undo` with a silent target is safe: it cannot run what it was not given. `wait`: the source asks the target by itself;
the controller carries the target's word to it. `forward` with a silent source: the target may be used; the source is
cleaned when it is back.
"""

from enum import StrEnum

from migrator.wire.facts import Claim


class Action(StrEnum):
    """What the controller does next."""

    UNDO = "undo"
    FORWARD = "forward"
    WAIT = "wait"
    BLOCKED_ON_SOURCE = "blocked-on-source"
    BLOCKED_ON_TARGET = "blocked-on-target"
    NEEDS_OPERATOR = "needs-operator"


SOURCE_CLAIMS = frozenset({Claim.HOME, Claim.LEAVING, Claim.GIVEN, Claim.GONE})
TARGET_CLAIMS = frozenset({Claim.HOME, Claim.ARRIVING, Claim.OWNER, Claim.REFUSED})


def decide(source: Claim | None, target: Claim | None) -> Action:
    """The action for what the two hosts' records of this migration say."""
    if source not in SOURCE_CLAIMS | {None} or target not in TARGET_CLAIMS | {None}:
        return Action.NEEDS_OPERATOR
    match source, target:
        case (Claim.HOME | Claim.LEAVING, Claim.OWNER):
            return Action.NEEDS_OPERATOR
        case (Claim.HOME | Claim.LEAVING, _):
            return Action.UNDO
        case (Claim.GIVEN | Claim.GONE | None, Claim.OWNER) | (Claim.GONE, None):
            return Action.FORWARD
        case (Claim.GIVEN, Claim.ARRIVING | Claim.REFUSED):
            return Action.WAIT
        case (Claim.GIVEN, None):
            return Action.BLOCKED_ON_TARGET
        case (None, _):
            return Action.BLOCKED_ON_SOURCE
        case _:
            return Action.NEEDS_OPERATOR
