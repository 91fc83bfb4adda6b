"""PURE. One VE's leaving, as its source host sees it.

Four rules:
1. This host may undo by itself until `given` is written, and never after, unless the target has certainly refused or
   the operator has declared the target off.
2. `given` is written only while the target holds the VE under the order being carried out; from then on the target
   is asked, however long it takes, and the VE here stays frozen until the target says that it runs.
3. A host that has been down since the hand-over began does not start the VE before it knows what the target did: its
   memory is only there, and the operator may have let it run there.
4. So an undone hand-over is not settled, and the autostart stays fenced, until the target has refused or the controller
   answers for it; the VE runs here meanwhile.

The claims on disk and what they permit here (`cold`: this host has been down since the hand-over began):

    home     run                                  (also: no record)
             cold, not settled: ask the target    -> run when it refused
    leaving  run, freeze, thaw                    the target cannot run it: it was not given
             cold: ask the target                 -> given when it holds, -> home when it refused, -> gone when it runs
                                                     (while it restores: ask again)
    given    nothing but ask the target           -> gone when it runs, -> home when it refused
    gone     nothing; the copy may be removed; by post-copy, when the target has all of its memory
"""

from dataclasses import replace
from enum import StrEnum
from typing import assert_never

from agents.handover import judging
from agents.handover.judging import conflict, stale
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
    PeerOrder,
    PeerSaid,
    TellPeer,
    Write,
)
from migrator.wire.facts import Claim, Record, Standing, VeState
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
    PreCopy,
    Reply,
    Retire,
    Settle,
    Stands,
    TakeBack,
    Undo,
)

ASK_AGAIN_S = 1.0
DROP_LIMIT_S = 5.0
"""So long an undo waits for the target to hear of it, with the VE running again, before the key is removed."""
THAW_AGAIN_S = 2.0
LEND_AGAIN_S = 2.0
ASKS_MAX = 3
"""After so many questions without the answer the controller is told; it may know more. The target is asked on."""


class Stage(StrEnum):
    """What is under way; lost with the agent's process, unlike the record."""

    IDLE = "idle"
    PREPARING = "preparing"
    COPYING = "copying"
    FREEZING = "freezing"
    DUMPING = "dumping"
    SENDING = "sending"
    RESTORING = "restoring"
    GIVING = "giving"
    ASKING = "asking"
    """Not given, but this host has been down: the target is asked what it did."""
    UNDOING = "undoing"
    LENDING = "lending"
    """By post-copy: the VE runs on the target, and needs memory that is here."""
    DISCARDING = "discarding"
    RETIRING = "retiring"


BLACKOUT = frozenset({Stage.FREEZING, Stage.DUMPING, Stage.SENDING, Stage.RESTORING})
RETIRES_FROM = frozenset({Stage.IDLE, Stage.GIVING, Stage.ASKING, Stage.LENDING, Stage.DISCARDING})


class Source:
    """The machine. `handle` is the only thing that changes it."""

    def __init__(self, record: Record, state: VeState = VeState.RUNNING) -> None:
        """`state` is the VE's now: the one to go back to if a move that begins now is undone."""
        self.record = record
        self._state_before = state
        self.stage = Stage.IDLE
        self._ticket = 0
        self._fault: Fault | None = None
        self._acting: Act | None = None
        self._told: PeerOrder | None = None
        """Whose answer is awaited; any other answer is late."""
        self._asked = 0
        self._thawed = False
        self._answered_for = False
        """Undoing: the target has refused, or the controller sees to it that it does."""

    def handle(self, event: Event) -> list[Command]:
        """What is to be done now that this has happened."""
        match event:
            case Ordered():
                return self._on_order(event)
            case Did(act=act):
                return self._on_did(act, event)
            case DidNot(act=act, fault=fault):
                return self._on_did_not(act, fault)
            case PeerSaid(reply=reply, to=to):
                return self._on_peer(reply) if to == self._told else []
            case DeadlinePassed():
                return self._on_deadline()
            case Booted():
                return self._on_boot(event)
            case _:
                assert_never(event)

    # --- orders ----------------------------------------------------------------------------------

    def _on_order(self, event: Ordered) -> list[Command]:
        order, ticket = event.order, event.ticket
        if judging.late(order, self.record):
            return [Answer(ticket, stale(order.order, self.record))]
        if isinstance(order, PeerAsk):
            return [Answer(ticket, None)]
        if isinstance(order, Depart):
            return self._depart(order, ticket)
        if order.migration != self.record.migration:
            commands = judging.on_foreign(order, self.record, self.stage, ticket)
            self._note(commands)
            return commands
        match order:
            case PreCopy():
                return self._copy(order, ticket)
            case HandOver():
                return self._hand_over(order, ticket)
            case Undo():
                return self._on_undo(order, ticket)
            case TakeBack():
                return self._take_back(order, ticket)
            case Settle():
                return [*self._obey(order.order), *self._on_settle(order.target_record), Answer(ticket, None)]
            case Retire():
                return self._retire(order, ticket)
            case _:
                return [Answer(ticket, self._conflict())]

    def _depart(self, order: Depart, ticket: int) -> list[Command]:
        if self.stage is not Stage.IDLE or not judging.may_leave(self.record, self._state_before):
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
            keep=order.keep,
        )
        return [Write(self.record), self._do(Act.PREPARE)]

    def _copy(self, order: PreCopy, ticket: int) -> list[Command]:
        if not self._may_go_on:
            return [Answer(ticket, self._conflict())]
        self.stage, self._ticket, self._acting = Stage.COPYING, ticket, Act.COPY
        return [*self._obey(order.order), Do(Act.COPY, order)]

    def _hand_over(self, order: HandOver, ticket: int) -> list[Command]:
        if not self._may_go_on:
            return [Answer(ticket, self._conflict())]
        self._ticket, self.stage = ticket, Stage.FREEZING
        self._asked = 0
        self.record = replace(self.record, order=order.order, handing_over=True, post_copy=order.post_copy)
        return [Write(self.record), Arm(order.limit_s), self._do(Act.FREEZE)]

    @property
    def _may_go_on(self) -> bool:
        return self.stage is Stage.IDLE and self.record.claim is Claim.LEAVING and not self.record.handing_over

    def _on_undo(self, order: Undo, ticket: int) -> list[Command]:
        if self.record.claim in (Claim.GIVEN, Claim.GONE):
            reason = "the VE was given to the target; only the target's refusal can bring it back"
            return [Answer(ticket, Fault(FaultCode.TOO_LATE, reason))]
        return self._go_back(order.order, ticket, Fault(FaultCode.ABORTED, "undone by the controller"))

    def _take_back(self, order: TakeBack, ticket: int) -> list[Command]:
        if self.record.claim is Claim.GONE:
            return [Answer(ticket, Fault(FaultCode.TOO_LATE, "the target has confirmed that it runs the VE"))]
        reason = f"the operator has declared {self.record.peer} off, and the VE was taken back"
        return self._go_back(order.order, ticket, Fault(FaultCode.ABORTED, reason))

    def _go_back(self, order: int, ticket: int, fault: Fault) -> list[Command]:
        """Undo, whatever is under way; the controller answers for the target. It is told when all is over."""
        if self.record.claim is Claim.HOME and self.record.settled:
            return [*self._obey(order), Answer(ticket, None)]
        commands = self._answer(self._fault or fault)
        self.record = replace(self.record, order=order, handing_over=False)
        if self.stage is Stage.UNDOING:
            self._answered_for = True
            commands += [Write(self.record), *self._when_told()]
        else:
            commands += self._undo(fault, sure=True)
        self._ticket, self._fault = ticket, None
        return commands

    def _on_settle(self, target: Record) -> list[Command]:
        """The target's own word, brought by the controller."""
        if self.stage not in (Stage.GIVING, Stage.ASKING) or target.migration != self.record.migration:
            return []
        match target.claim:
            case Claim.REFUSED:
                return self._taken_back()
            case Claim.OWNER if target.settled and self._may_be_theirs:
                return self._gone()
            case Claim.ARRIVING if target.image_complete and self.record.claim is Claim.LEAVING:
                return self._give()
            case _:
                return []

    @property
    def _may_be_theirs(self) -> bool:
        return self.record.claim is not Claim.HOME

    def _retire(self, order: Retire, ticket: int) -> list[Command]:
        if self.record.claim is Claim.GONE and self.record.settled:
            return [*self._obey(order.order), Answer(ticket, None)]
        if not self._may_be_theirs or self.stage not in RETIRES_FROM:
            return [Answer(ticket, self._conflict())]
        if self.record.claim is Claim.LEAVING and self.stage is Stage.IDLE:
            return [Answer(ticket, self._conflict())]
        told = self._answer(HandedOver(0.0))
        self.stage, self._ticket, self._told = Stage.RETIRING, ticket, None
        self.record = replace(self.record, claim=Claim.GONE, order=order.order)
        if self._acting is not None:
            return [Write(self.record), *told]  # discarding already, or lending, which the keeper gives up
        return [Arm(None), Write(self.record), *told, self._do(Act.DISCARD)]

    @property
    def lends_in_vain(self) -> bool:
        """The target has everything, and the source has not heard it from there."""
        return self.stage is Stage.RETIRING and self._acting is Act.LEND

    # --- what came of it -------------------------------------------------------------------------

    def _on_did(self, act: Act, event: Did) -> list[Command]:
        if act is not self._acting:
            return []
        self._acting = None
        match act, self.stage:
            case (Act.PREPARE, Stage.PREPARING) | (Act.COPY, Stage.COPYING):
                return self._finish(event.result if not isinstance(event.result, dict) else None)
            case Act.FREEZE, Stage.FREEZING:
                self.stage = Stage.DUMPING
                return [self._do(Act.DUMP)]
            case Act.DUMP, Stage.DUMPING:
                self.stage = Stage.SENDING
                return [self._do(Act.SEND)]
            case Act.SEND, Stage.SENDING:
                self.stage = Stage.RESTORING
                manifest = event.result if isinstance(event.result, dict) else {}
                migration, order = self.record.migration, self.record.order
                return [self._tell(PeerRestore(migration, order, self._peer_ve, manifest, self.record.post_copy))]
            case Act.THAW, Stage.UNDOING:
                self._thawed = True
                return self._when_told()
            case Act.UNPREPARE, Stage.UNDOING:
                self.record = replace(self.record, settled=True)
                return [Write(self.record), *self._finish(self._fault)]
            case Act.LEND, Stage.LENDING:
                self.stage = Stage.DISCARDING
                return [self._do(Act.DISCARD)]
            case Act.LEND, Stage.RETIRING:
                return [self._do(Act.DISCARD)]
            case Act.DISCARD, Stage.DISCARDING:
                return self._finish(HandedOver(0.0))
            case Act.DISCARD, Stage.RETIRING:
                return [self._do(Act.DESTROY)]
            case Act.DESTROY, Stage.RETIRING:
                self.record = replace(self.record, settled=True)
                return [Write(self.record), *self._finish(None)]
            case _, Stage.UNDOING:
                return self._thaw()
            case _:
                return []

    def _on_did_not(self, act: Act, fault: Fault) -> list[Command]:
        if act is not self._acting:
            return []
        self._acting = None
        match act, self.stage:
            case Act.THAW, Stage.UNDOING:
                # It must run again here, and nobody else sees to that: tried until it does.
                return [*self._answer(fault), Arm(THAW_AGAIN_S)]
            case Act.UNPREPARE, Stage.UNDOING:
                return self._finish(fault)
            case _, Stage.UNDOING:
                return self._thaw()
            case Act.LEND, Stage.RETIRING:
                return [self._do(Act.DISCARD)]
            case Act.LEND, Stage.LENDING:
                return [Arm(LEND_AGAIN_S)]  # as long as the controller does not say that the target has it all
            case Act.DISCARD, Stage.DISCARDING:
                return self._finish(HandedOver(0.0))  # it runs there; `retire` discards again
            case (Act.COPY, Stage.COPYING) | (_, Stage.RETIRING):
                return self._finish(fault)
            case _:
                return self._undo(fault)

    def _on_peer(self, reply: Reply) -> list[Command]:
        match reply, self.stage:
            case _, Stage.UNDOING:
                return self._on_dropped(reply)
            case PeerHolds(), Stage.RESTORING:
                return self._give()
            case Fault(), Stage.RESTORING:
                return self._undo(reply)
            case PeerRuns(), Stage.GIVING:
                return self._gone()
            case Stands(standing=standing), Stage.GIVING | Stage.ASKING:
                return self._on_stands(standing)
            case Fault(), Stage.GIVING | Stage.ASKING:
                if reply.definite and isinstance(self._told, PeerGive):
                    return self._ask(0.0)
                return self._ask_again(f"{self.record.peer} does not say whether it runs the VE: {reply.sentence()}")
            case _:
                return []

    def _on_stands(self, standing: Standing) -> list[Command]:
        """The target's own word, heard directly."""
        target = standing.record
        ours = target.migration == self.record.migration
        as_before = standing.state is VeState.RUNNING or target.rest is not VeState.RUNNING
        runs = target.settled or (as_before and not standing.working)  # what it is still about may fail, and come back
        match target.claim, self.record.claim:
            case _ if not ours:
                return self._ask_again(f"{self.record.peer} knows nothing of this migration")
            case Claim.OWNER, Claim.LEAVING | Claim.GIVEN if runs:
                return self._gone()
            case Claim.REFUSED, _:
                return self._taken_back()
            case Claim.ARRIVING, Claim.LEAVING if target.image_complete:
                return self._give()
            case Claim.ARRIVING, Claim.GIVEN if self.record.post_copy and self.record.cold:
                return [self._tell(self._drop)]  # part of its memory was lost here: it starts here from its files
            case Claim.ARRIVING, Claim.GIVEN if target.image_complete and not target.cold:
                return [self._tell(self._gift, ASK_AGAIN_S)]
            case Claim.ARRIVING, Claim.LEAVING if standing.working and not isinstance(self._told, PeerDrop):
                # What it restores is all that is left of the VE's memory; its own limit ends that one way or another.
                return self._ask_again(f"{self.record.peer} is restoring the VE")
            case Claim.ARRIVING, Claim.LEAVING | Claim.HOME if not isinstance(self._told, PeerDrop):
                return [self._tell(self._drop)]
            case _:
                why = "has been down, and waits for the controller's word" if target.cold else "does not run the VE yet"
                return self._ask_again(f"{self.record.peer} {why}")

    def _ask_again(self, why: str) -> list[Command]:
        """Later; the controller is told that it is not going well."""
        self._asked += 1
        told = self._answer(Fault(FaultCode.UNCERTAIN, why, step="give")) if self._asked >= ASKS_MAX else []
        return [*told, *self._ask(ASK_AGAIN_S)]

    def _on_dropped(self, reply: Reply) -> list[Command]:
        """The VE is thawed or being thawed; has the target let go of it?"""
        refused = isinstance(reply, Stands) and reply.standing.record.claim is Claim.REFUSED
        ours = isinstance(reply, Stands) and reply.standing.record.migration == self.record.migration
        if not self.record.handing_over:
            self._told = None
            return self._when_told()
        if refused and ours:
            self._told = None
            self.record = replace(self.record, handing_over=False)
            return [Write(self.record), *self._when_told()]
        if isinstance(self._told, PeerDrop):
            return self._ask(ASK_AGAIN_S)
        return [self._tell(self._drop, 0.0 if ours else ASK_AGAIN_S)]

    def _when_told(self) -> list[Command]:
        """Unfence, when the VE runs again and nobody can let it run at the target."""
        if not self._thawed or self._acting is not None:
            return []
        if self.record.handing_over:
            return [Arm(None), *self._answer(self._fault)]
        if self._told is not None and not self._answered_for:
            return [Arm(DROP_LIMIT_S)]
        self._told = None
        return [Arm(None), self._do(Act.UNPREPARE)]

    def _on_deadline(self) -> list[Command]:
        if self.stage in BLACKOUT:
            return self._undo(Fault(FaultCode.DEADLINE, "the target did not hold the VE in time", step=str(self.stage)))
        if self.stage is Stage.LENDING and self._acting is None:
            return [self._do(Act.LEND)]
        if self.stage is not Stage.UNDOING or self._acting is not None:
            return []
        if not self._thawed:
            return [self._do(Act.THAW)]
        self._told = None
        return self._when_told()

    def _on_boot(self, event: Booted) -> list[Command]:
        if not judging.in_a_move(self.record):
            return []
        # By post-copy the target cannot run it without this host: as long as it was not given, there is nothing to ask.
        lost = self.record.post_copy and self.record.claim is not Claim.GIVEN
        asks = self.record.handing_over and (event.rebooted or self.record.cold) and not lost
        match self.record.claim:
            case Claim.HOME if not asks:
                return self._thaw()
            case Claim.LEAVING if not asks:
                return self._undo(Fault(FaultCode.INTERNAL, "the agent was started anew"))
            case Claim.HOME | Claim.LEAVING | Claim.GIVEN:
                self.stage = Stage.GIVING if self.record.claim is Claim.GIVEN else Stage.ASKING
                if not event.rebooted:
                    return self._ask(0.0)
                self.record = judging.rebooted(self.record)
                return [Write(self.record), *self._ask(0.0)]
            case Claim.GONE if event.state is VeState.FROZEN and self.record.post_copy:
                self.stage = Stage.LENDING
                return [self._do(Act.LEND)]
            case Claim.GONE if event.state is VeState.FROZEN:
                self.stage = Stage.DISCARDING
                return [self._do(Act.DISCARD)]
            case _:
                return []

    # --- steps -----------------------------------------------------------------------------------

    def _undo(self, fault: Fault, *, sure: bool = False) -> list[Command]:
        """`sure`: nobody can let the VE run at the target any more, or the controller answers for that."""
        self._fault, self.stage, self._told, self._answered_for = fault, Stage.UNDOING, None, sure
        if self._acting is not None:
            # An act is under way: the keeper cancels it and says so; only then is the VE thawed.
            return [Arm(None)]
        return self._thaw()

    def _thaw(self) -> list[Command]:
        """That it is undone is on disk first: what runs from here on must not be overtaken by what the target holds."""
        self.stage, self._thawed = Stage.UNDOING, False
        self.record = judging.home(self.record, sure=self._answered_for)
        return [Arm(None), Write(self.record), self._do(Act.THAW), self._tell(self._drop)]

    def _taken_back(self) -> list[Command]:
        refused = Fault(FaultCode.TOOL_FAILED, "the target refused the VE", host=self.record.peer)
        return self._undo(refused, sure=True)

    def _give(self) -> list[Command]:
        self.stage = Stage.GIVING
        self.record = replace(self.record, claim=Claim.GIVEN)
        return [Write(self.record), Arm(None), self._tell(self._gift)]

    def _gone(self) -> list[Command]:
        self.stage, self._told = Stage.DISCARDING, None
        self.record = replace(self.record, claim=Claim.GONE)
        if self.record.post_copy:
            self.stage = Stage.LENDING
            return [Write(self.record), *self._answer(HandedOver(0.0)), self._do(Act.LEND)]
        return [Write(self.record), self._do(Act.DISCARD)]

    def _ask(self, delay_s: float) -> list[Command]:
        return [self._tell(PeerAsk(self.record.migration, self._peer_ve, self.record.order), delay_s)]

    def _tell(self, message: PeerOrder, delay_s: float = 0.0) -> TellPeer:
        self._told = message
        return TellPeer(message, delay_s)

    def _finish(self, reply: Reply | None) -> list[Command]:
        commands = self._answer(reply)
        self.stage, self._fault = Stage.IDLE, None
        return commands

    def _answer(self, reply: Reply | None) -> list[Command]:
        ticket, self._ticket = self._ticket, 0
        return [Answer(ticket, reply)] if ticket else []

    def _do(self, act: Act) -> Do:
        self._acting = act
        return Do(act)

    def _obey(self, order: int) -> list[Command]:
        self.record = replace(self.record, order=order)
        return [Write(self.record)]

    def _note(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Write):
                self.record = command.record

    @property
    def _gift(self) -> PeerGive:
        return PeerGive(self.record.migration, self.record.order, self._peer_ve)

    @property
    def _drop(self) -> PeerDrop:
        return PeerDrop(self.record.migration, self.record.order, self._peer_ve)

    @property
    def _peer_ve(self) -> str:
        return self.record.peer_ve or self.record.ve

    def _conflict(self) -> Fault:
        return conflict(self.record, self.stage)
