"""PURE. One VE's leaving, as its source host sees it.

Two rules:
1. This host may undo by itself until `given` is written, and never after, unless the target has certainly refused.
2. `given` is written only while the target holds the VE under the order being carried out; from then on the target
   is asked, however long it takes, and the VE here stays frozen.

The claims on disk and what they permit here:

    home     run                                  (also: no record)
    leaving  run, freeze, thaw                    the target cannot run it: it was not given
    given    nothing but ask the target           -> gone when it owns, -> home when it refused
    gone     nothing; the copy may be removed
"""

from dataclasses import replace
from enum import StrEnum
from typing import assert_never

from agents.handover.vocabulary import (
    Act,
    Answer,
    Arm,
    Booted,
    Command,
    DeadlinePassed,
    Did,
    DidNot,
    Do,
    Event,
    Ordered,
    PeerSaid,
    TellPeer,
    Write,
)
from migrator.wire.facts import Claim, Record, VeState
from migrator.wire.faults import Fault, FaultCode
from migrator.wire.messages import (
    Depart,
    HandedOver,
    HandOver,
    PeerAsk,
    PeerDrop,
    PeerGive,
    PeerHolds,
    PeerRestore,
    PeerRuns,
    Reply,
    Retire,
    Settle,
    Stands,
    Undo,
)

ASK_AGAIN_S = 1.0


class Stage(StrEnum):
    """What is under way; lost with the agent's process, unlike the record."""

    IDLE = "idle"
    PREPARING = "preparing"
    FREEZING = "freezing"
    DUMPING = "dumping"
    SENDING = "sending"
    RESTORING = "restoring"
    GIVING = "giving"
    UNDOING = "undoing"
    DISCARDING = "discarding"
    RETIRING = "retiring"


UNDOABLE = frozenset({Stage.FREEZING, Stage.DUMPING, Stage.SENDING, Stage.RESTORING})


class Source:
    """The machine. `handle` is the only thing that changes it."""

    def __init__(self, record: Record, state: VeState = VeState.RUNNING) -> None:
        """`state` is the VE's now: the one to go back to if a move that begins now is undone."""
        self.record = record
        self._state_before = state
        self.stage = Stage.IDLE
        self._ticket = 0
        self._fault: Fault | None = None
        self._result: HandedOver | None = None
        self._acting: Act | None = None
        self._undo_when_done = False

    def handle(self, event: Event) -> list[Command]:
        """What is to be done now that this has happened."""
        match event:
            case Ordered():
                return self._on_order(event)
            case Did(act=act):
                return self._on_did(act, event)
            case DidNot(act=act, fault=fault):
                return self._on_did_not(act, fault)
            case PeerSaid(reply=reply):
                return self._on_peer(reply)
            case DeadlinePassed():
                return self._undo(
                    Fault(FaultCode.DEADLINE, "the target did not hold the VE in time", step=str(self.stage))
                )
            case Booted(state=state):
                return self._on_boot(state)
            case _:
                assert_never(event)

    # --- orders ----------------------------------------------------------------------------------

    def _on_order(self, event: Ordered) -> list[Command]:
        order, ticket = event.order, event.ticket
        if isinstance(order, PeerAsk):
            return [Answer(ticket, None)]
        if order.order <= self.record.order:
            return [Answer(ticket, stale(order.order, self.record))]
        match order:
            case Depart():
                return self._depart(order, ticket)
            case HandOver():
                return self._hand_over(order, ticket)
            case Undo():
                return self._on_undo(order, ticket)
            case Settle():
                return [*self._obey(order.order), *self._on_stands(order.target_record), Answer(ticket, None)]
            case Retire():
                return self._retire(order, ticket)
            case _:
                return [Answer(ticket, Fault(FaultCode.BAD_REQUEST, f"{type(order).__name__} is not for a source"))]

    def _depart(self, order: Depart, ticket: int) -> list[Command]:
        if self.stage is not Stage.IDLE or self.record.claim not in (Claim.HOME, Claim.OWNER):
            return [Answer(ticket, self._conflict())]
        self.stage, self._ticket = Stage.PREPARING, ticket
        self.record = Record(
            order.ve,
            Claim.LEAVING,
            order.order,
            order.migration,
            order.target,
            self.record.engine,
            mode=order.mode,
            rest=self._state_before,
            peer_ve=order.target_ve,
        )
        return [Write(self.record), self._do(Act.PREPARE)]

    def _hand_over(self, order: HandOver, ticket: int) -> list[Command]:
        if not (self._is_this(order.migration) and self.stage is Stage.IDLE and self.record.claim is Claim.LEAVING):
            return [Answer(ticket, self._conflict())]
        self._ticket, self.stage = ticket, Stage.FREEZING
        return [*self._obey(order.order), Arm(order.limit_s), self._do(Act.FREEZE)]

    def _on_undo(self, order: Undo, ticket: int) -> list[Command]:
        if not self._is_this(order.migration):
            return [*self._obey(order.order), Answer(ticket, None)]
        if self.record.claim in (Claim.GIVEN, Claim.GONE):
            reason = "the VE was given to the target; only the target's refusal can bring it back"
            return [Answer(ticket, Fault(FaultCode.TOO_LATE, reason))]
        commands = self._obey(order.order)
        if self.record.claim is Claim.LEAVING and self.stage is not Stage.UNDOING:
            aborted = Fault(FaultCode.CONFLICT, "aborted by the controller")
            commands += self._undo(aborted)
        if self.stage is Stage.UNDOING:
            return [*commands, *self._also_answer(ticket)]
        return [*commands, Answer(ticket, None)]

    def _also_answer(self, ticket: int) -> list[Command]:
        """The undo is under way; who asked for it is told where the VE stands when it is over."""
        earlier, self._ticket = self._ticket, ticket
        fault, self._fault = self._fault, None
        return [Answer(earlier, fault)] if earlier and fault else []

    def _retire(self, order: Retire, ticket: int) -> list[Command]:
        if self.record.claim is not Claim.GONE or self.stage is not Stage.IDLE:
            return [Answer(ticket, self._conflict())]
        self.stage, self._ticket = Stage.RETIRING, ticket
        return [*self._obey(order.order), self._do(Act.DESTROY)]

    # --- what came of it -------------------------------------------------------------------------

    def _on_did(self, act: Act, event: Did) -> list[Command]:
        self._acting = None
        if self._undo_when_done:
            self._undo_when_done = False
            return self._thaw()
        match act, self.stage:
            case Act.PREPARE, Stage.PREPARING:
                self.stage = Stage.IDLE
                return [Answer(self._ticket, event.result if not isinstance(event.result, dict) else None)]
            case Act.FREEZE, Stage.FREEZING:
                self.stage = Stage.DUMPING
                return [self._do(Act.DUMP)]
            case Act.DUMP, Stage.DUMPING:
                self.stage = Stage.SENDING
                return [self._do(Act.SEND)]
            case Act.SEND, Stage.SENDING:
                self.stage = Stage.RESTORING
                manifest = event.result if isinstance(event.result, dict) else {}
                return [TellPeer(PeerRestore(self.record.migration, self.record.order, self._peer_ve, manifest))]
            case Act.THAW, Stage.UNDOING:
                self.record = replace(self.record, claim=Claim.HOME)
                return [Write(self.record), self._do(Act.UNPREPARE)]
            case Act.UNPREPARE, Stage.UNDOING:
                return self._finish(self._fault)
            case Act.DISCARD, Stage.DISCARDING:
                return self._finish(self._result)
            case Act.DESTROY, Stage.RETIRING:
                return self._finish(None)
            case _:
                return []

    def _on_did_not(self, act: Act, fault: Fault) -> list[Command]:
        self._acting = None
        if self._undo_when_done:
            self._undo_when_done = False
            return self._thaw()
        match act:
            case Act.PREPARE | Act.FREEZE | Act.DUMP | Act.SEND:
                return self._undo(fault)
            case Act.UNPREPARE | Act.DISCARD | Act.DESTROY | Act.THAW:
                return self._finish(fault)
            case _:
                return []

    def _on_peer(self, reply: Reply) -> list[Command]:
        match reply, self.stage:
            case PeerHolds(), Stage.RESTORING:
                self.stage = Stage.GIVING
                self.record = replace(self.record, claim=Claim.GIVEN)
                return [Write(self.record), Arm(None), TellPeer(self._give())]
            case Fault(), Stage.RESTORING:
                return self._undo(reply)
            case PeerRuns(), Stage.GIVING:
                return self._gone(HandedOver(0.0))
            case Stands(standing=standing), Stage.GIVING:
                return self._on_stands(standing.record)
            case Fault(), Stage.GIVING:
                return [TellPeer(PeerAsk(self.record.migration, self._peer_ve), ASK_AGAIN_S)]
            case _:
                return []

    def _on_stands(self, target: Record) -> list[Command]:
        """The target's own word, heard directly or brought by the controller."""
        if self.record.claim is not Claim.GIVEN or target.migration != self.record.migration:
            return []
        match target.claim:
            case Claim.OWNER:
                return self._gone(HandedOver(0.0))
            case Claim.REFUSED:
                self._fault = Fault(FaultCode.TOOL_FAILED, "the target refused the VE", host=target.peer)
                return self._thaw()
            case Claim.ARRIVING:
                return [TellPeer(self._give())]
            case _:
                return [TellPeer(PeerAsk(self.record.migration, self._peer_ve), ASK_AGAIN_S)]

    def _on_boot(self, state: VeState) -> list[Command]:
        match self.record.claim:
            case Claim.GIVEN:
                self.stage = Stage.GIVING
                return [TellPeer(PeerAsk(self.record.migration, self._peer_ve))]
            case Claim.LEAVING if state in (VeState.RUNNING, VeState.FROZEN):
                return self._thaw()
            case Claim.GONE if state is VeState.FROZEN:
                self.stage = Stage.DISCARDING
                return [self._do(Act.DISCARD)]
            case _:
                # `leaving` without processes: the host went down. The target may have been told to adopt the VE,
                # so this host does not start it before it is told (Undo by the controller, after it asked).
                return []

    # --- steps -----------------------------------------------------------------------------------

    def _undo(self, fault: Fault) -> list[Command]:
        if self.record.claim is not Claim.LEAVING or self.stage is Stage.UNDOING:
            return []
        self._fault = fault
        if self._acting is not None:
            # An act is under way: the keeper cancels it and says so; only then is the VE thawed.
            self._undo_when_done, self.stage = True, Stage.UNDOING
            return [Arm(None)]
        return self._thaw()

    def _thaw(self) -> list[Command]:
        self.stage = Stage.UNDOING
        drop = TellPeer(PeerDrop(self.record.migration, self.record.order, self._peer_ve))
        return [Arm(None), self._do(Act.THAW), drop]

    def _gone(self, result: HandedOver) -> list[Command]:
        self.stage, self._result = Stage.DISCARDING, result
        self.record = replace(self.record, claim=Claim.GONE)
        return [Write(self.record), self._do(Act.DISCARD)]

    def _give(self) -> PeerGive:
        return PeerGive(self.record.migration, self.record.order, self._peer_ve)

    def _finish(self, reply: Reply | None) -> list[Command]:
        ticket, self._ticket, self.stage, self._fault = self._ticket, 0, Stage.IDLE, None
        return [Answer(ticket, reply)] if ticket else []

    def _do(self, act: Act) -> Do:
        self._acting = act
        return Do(act)

    def _obey(self, order: int) -> list[Command]:
        self.record = replace(self.record, order=order)
        return [Write(self.record)]

    @property
    def _peer_ve(self) -> str:
        return self.record.peer_ve or self.record.ve

    def _is_this(self, migration: str) -> bool:
        return self.record.migration == migration

    def _conflict(self) -> Fault:
        return Fault(
            FaultCode.CONFLICT,
            f"VE {self.record.ve} is {self.record.claim} here ({self.stage}, migration {self.record.migration})",
        )


def stale(order: int, record: Record) -> Fault:
    """The answer to an order that is not newer than what was obeyed."""
    return Fault(
        FaultCode.STALE_ORDER, f"order {order} for VE {record.ve} is refused: order {record.order} was obeyed before"
    )
