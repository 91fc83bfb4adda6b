"""PURE. What both machines judge alike: which orders are late, whose they are, what a reboot changes, who may begin.

Rule: an order is obeyed only if it is newer than all that were obeyed; a host that has been down raises its order
number by so much that whoever has not heard from it since is late.
"""

from dataclasses import replace
from typing import assert_never

from agents.handover.vocabulary import Answer, Command, Order, PeerOrder, Write
from migrator.wire.facts import Claim, Record, VeState
from migrator.wire.faults import Fault, FaultCode
from migrator.wire.messages import (
    Adopt,
    Confirm,
    Depart,
    HandOver,
    PeerAsk,
    PeerDrop,
    PeerGive,
    PeerRestore,
    PreCopy,
    Release,
    Reserve,
    Retire,
    Settle,
    TakeBack,
    Undo,
)

BOOT_STEP = 1 << 20
"""More orders than any controller gives without hearing from the host in between."""


def late(order: Order | PeerOrder, record: Record) -> bool:
    """Whether it was overtaken: by a newer order, or by itself."""
    match order:
        case PeerAsk():
            return False
        case PeerRestore() | PeerGive() | PeerDrop():
            # They carry the order of the hand-over, and may be said again within it.
            return order.order < record.order
        case (
            Depart()
            | Reserve()
            | PreCopy()
            | HandOver()
            | Undo()
            | Release()
            | Settle()
            | Retire()
            | Confirm()
            | Adopt()
            | TakeBack()
        ):
            return order.order <= record.order
        case _:
            assert_never(order)


def stale(order: int, record: Record) -> Fault:
    """The answer to an order that is not newer than what was obeyed."""
    return Fault(
        FaultCode.STALE_ORDER, f"order {order} for VE {record.ve} is refused: order {record.order} was obeyed before"
    )


def conflict(record: Record, stage: object) -> Fault:
    """The answer to an order that does not fit where the VE stands here."""
    return Fault(
        FaultCode.CONFLICT, f"VE {record.ve} is {record.claim} here ({stage}, migration {record.migration or 'none'})"
    )


def on_foreign(order: Order | PeerOrder, record: Record, stage: object, ticket: int) -> list[Command]:
    """The answer to an order of another migration than the one this host knows of."""
    if not isinstance(order, Undo | Release):
        return [Answer(ticket, None if isinstance(order, PeerDrop) else conflict(record, stage))]
    if in_a_move(record):
        return [Answer(ticket, None)]
    # What that migration ordered before this may still be under way, and has to be late when it comes.
    return [Write(replace(record, order=order.order)), Answer(ticket, None)]


def in_a_move(record: Record) -> bool:
    """Whether a migration has something left to do here."""
    return bool(record.migration) and not record.settled


def may_leave(record: Record, state: VeState) -> bool:
    """Whether a migration away from here may begin. A settled `gone` with a VE is another VE of that name."""
    return not in_a_move(record) and state is not VeState.ABSENT


def may_come(record: Record, state: VeState) -> bool:
    """Whether a migration to here may begin."""
    return not in_a_move(record) and state is VeState.ABSENT


def rebooted(record: Record) -> Record:
    """The record of a host that has been down in the middle of a hand-over."""
    return replace(record, order=record.order + BOOT_STEP, cold=True)


def barred(order: Undo | Release, record: Record) -> Record:
    """The record of a host that has no such VE: what that migration ordered before is late when it comes."""
    return replace(record, order=max(order.order, record.order), settled=True)


def refused(record: Record) -> Record:
    """What a target writes when it refuses."""
    return replace(record, claim=Claim.REFUSED, image_complete=False, cold=False, settled=False)


def home(record: Record, *, sure: bool) -> Record:
    """What a source writes when it undoes; `sure`: nobody can let the VE run at the target any more."""
    return replace(record, claim=Claim.HOME, handing_over=record.handing_over and not sure, cold=False, settled=False)
