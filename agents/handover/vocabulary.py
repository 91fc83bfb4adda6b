"""PURE. Everything that can happen to a VE on one host during a move, and everything its machine can ask for.

Rule: commands are carried out in the order given; a Write is on disk (file and directory) before the next begins.
"""

from dataclasses import dataclass
from enum import StrEnum

from migrator.wire.facts import Record, VeState
from migrator.wire.faults import Fault
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
    Reply,
    Reserve,
    Retire,
    Settle,
    TakeBack,
    Undo,
)


class Act(StrEnum):
    """One thing an agent does to a VE; each may be done again without harm."""

    PREPARE = "prepare"
    """Source: fence the autostart, take the engine's lock, make the migration's key pair."""
    UNPREPARE = "unprepare"
    """Source: all that `prepare` did, undone."""
    COPY = "copy"
    """Source: one round of copying while the VE runs."""
    FREEZE = "freeze"
    """Source: off the network; live: no process runs; stop-copy: stopped."""
    DUMP = "dump"
    """Source: the checkpoint (live only), and beside it the last difference of the files, to the target."""
    SEND = "send"
    """Source: what of the memory is still missing, to the target."""
    THAW = "thaw"
    """Source: back on the network and in the state it rested in: thawed, or started again if it has no process."""
    LEND = "lend"
    """Source, by post-copy: give the frozen VE's pages to the target until it has them all."""
    DISCARD = "discard"
    """Source: end the frozen processes, if there are any; no one of them runs again."""
    DESTROY = "destroy"
    """Source: remove the copy here, and the key."""
    ACCEPT = "accept"
    HOLD = "hold"
    """Target: live: check the images, restore, all processes exist and none runs; stop-copy: set up, not started."""
    RUN = "run"
    """Target: on the network, and let go (live) or started (stop-copy), if it was running before the move."""
    HALT = "halt"
    """Target, after a failed `run`: succeeds only if the VE has certainly not run here (live), or is certainly stopped
    here (stop-copy)."""
    ANNOUNCE = "announce"
    DROP = "drop"
    """Target: remove all that came. The source can still ask."""
    FORBID = "forbid"
    """Target, after `drop`: the source knows; the migration's key is not let in any more."""
    LIFT = "lift"
    """Target: the move is over; key and images go, autostart is put on."""


# --- events -----------------------------------------------------------------------------------------

Order = Depart | Reserve | PreCopy | HandOver | Undo | Release | Settle | Retire | Confirm | Adopt | TakeBack
PeerOrder = PeerRestore | PeerGive | PeerDrop | PeerAsk


@dataclass(frozen=True, slots=True)
class Ordered:
    """The controller or the other agent asks for something; `ticket` names who waits for the answer."""

    order: Order | PeerOrder
    ticket: int


@dataclass(frozen=True, slots=True)
class Did:
    """An act succeeded; what it found out, if anything."""

    act: Act
    result: Reply | dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class DidNot:
    """An act failed."""

    act: Act
    fault: Fault


@dataclass(frozen=True, slots=True)
class PeerSaid:
    """The other agent answered; a Fault UNREACHABLE or PEER_LOST means that it did not."""

    reply: Reply
    to: PeerOrder
    """What it answers."""


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """The time armed last is over."""


@dataclass(frozen=True, slots=True)
class Booted:
    """The agent has started and found this record; the VE is in this state."""

    state: VeState
    rebooted: bool = False
    """The host has been down since the record was written: every process of then is gone, and what lay in memory."""


Event = Ordered | Did | DidNot | PeerSaid | DeadlinePassed | Booted

# --- commands ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Write:
    """Put the record on disk, durably, before anything that follows. A record that cannot be written ends the agent."""

    record: Record


@dataclass(frozen=True, slots=True)
class Do:
    """Begin an act; Did or DidNot follows."""

    act: Act
    order: Reserve | PeerRestore | PreCopy | Confirm | None = None
    """The order it carries out, where the act needs more than the record says."""


@dataclass(frozen=True, slots=True)
class TellPeer:
    """Send to the other agent; PeerSaid follows. Not answered: asked again after `delay_s`."""

    message: PeerOrder
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Arm:
    """Arm the one deadline of this machine; None disarms it."""

    limit_s: float | None


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer whoever holds the ticket; a Fault is an answer too."""

    ticket: int
    reply: Reply | None
    """None: say where the VE stands, read after all that went before."""


Command = Write | Do | TellPeer | Arm | Answer
