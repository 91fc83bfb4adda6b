"""PURE. Which machine a VE has on this host: the one of its leaving or the one of its coming.

Rule: only an order that is newer than all that were obeyed, and that finds no move under way here, changes it. A VE that
came may leave again, and one that left may come back; a late or doubled Depart or Reserve must change nothing.
"""

from agents.handover import judging
from agents.handover.source import Source
from agents.handover.target import Target
from agents.handover.vocabulary import Order, PeerOrder
from migrator.wire.facts import Claim, Record, VeState
from migrator.wire.messages import Depart, Reserve

IDLE = "idle"
ON_TARGET = frozenset({Claim.ARRIVING, Claim.OWNER, Claim.REFUSED})


def machine_for(record: Record) -> Source | Target:
    """The machine that goes on from what is on disk."""
    return Target(record) if record.claim in ON_TARGET else Source(record)


def machine_after(machine: Source | Target, order: Order | PeerOrder, state: VeState) -> Source | Target:
    """The machine that is to be given this order; `state` is the VE's now."""
    record = machine.record
    if machine.stage != IDLE or judging.late(order, record):
        return machine
    if isinstance(order, Depart) and judging.may_leave(record, state):
        return Source(record, state)
    if isinstance(order, Reserve) and judging.may_come(record, state):
        return Target(record, state)
    return machine


def undoing(machine: Source | Target) -> bool:
    """Whether an act that is under way is to be given up."""
    return machine.stage in ("undoing", "dropping") or (isinstance(machine, Source) and machine.lends_in_vain)
