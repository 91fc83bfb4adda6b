"""PURE. One VE's coming, as its target host sees it.

Four rules:
1. The VE runs here only after `owner` is on disk, and `owner` is written only on the source's word (PeerGive) or the
   controller's (Adopt).
2. `refused` is for ever under its order: what was refused is never run, however late the source's word comes.
3. What is held is kept until somebody says what becomes of it: no deadline drops it, it may be the only copy.
4. A host that has been down since the VE came runs it on the controller's word only: its operator may have declared it
   off, and the source may have taken the VE back.

The claims on disk and what they permit here:

    arriving  receive, restore, hold; not run
    owner     run; cold and not confirmed: only when the controller says so
    refused   nothing of the VE; settled when the source or the controller knows; then a newer order may try again
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
    PeerSaid,
    Write,
)
from migrator.wire.facts import Claim, Mode, Record, VeState
from migrator.wire.faults import Fault, FaultCode
from migrator.wire.messages import (
    Adopt,
    Confirm,
    PeerAsk,
    PeerDrop,
    PeerGive,
    PeerHolds,
    PeerRestore,
    PeerRuns,
    Release,
    Reply,
    Reserve,
)

AGAIN_S = 2.0
"""After so long a failed `run`, or `halt`, is tried again."""


class Stage(StrEnum):
    """What is under way; lost with the agent's process, unlike the record."""

    IDLE = "idle"
    ACCEPTING = "accepting"
    HOLDING = "holding"
    HELD = "held"
    STARTING = "starting"
    HALTING = "halting"
    """It could not be run; is it certain that it has not run?"""
    LIFTING = "lifting"
    DROPPING = "dropping"
    WAITING = "waiting"
    """Owned, and this host has been down since: the controller has to say whether it still is."""


class Target:
    """The machine. `handle` is the only thing that changes it."""

    def __init__(self, record: Record, state: VeState = VeState.ABSENT) -> None:
        """`state` is what there is of the VE here now."""
        self.record = record
        self.stage = Stage.IDLE
        self._state_before = state
        self._ticket = 0
        self._hold_limit_s = 0.0
        self._acting: Act | None = None
        self._runs = False
        """It has been let run here since the agent started, or there is nothing to run."""
        self._may_give_back = False
        """The source is there and keeps its frozen copy until it hears that the VE runs here."""
        self._then_lift = False
        self._confirmed: Confirm | None = None
        """What is being obeyed."""
        self._then_forbid = False
        self._fault: Fault | None = None

    def handle(self, event: Event) -> list[Command]:
        """What is to be done now that this has happened."""
        match event:
            case Ordered():
                return self._on_order(event)
            case Did():
                return self._on_did(event)
            case DidNot():
                return self._on_did_not(event)
            case DeadlinePassed():
                return self._on_deadline()
            case Booted():
                return self._on_boot(event)
            case PeerSaid():
                return []
            case _:
                assert_never(event)

    # --- orders ----------------------------------------------------------------------------------

    def _on_order(self, event: Ordered) -> list[Command]:
        order, ticket = event.order, event.ticket
        if judging.late(order, self.record):
            return [Answer(ticket, stale(order.order, self.record))]
        if isinstance(order, PeerAsk):
            return [Answer(ticket, None)]
        if isinstance(order, Reserve):
            return self._reserve(order, ticket)
        if order.migration != self.record.migration:
            commands = judging.on_foreign(order, self.record, self.stage, ticket)
            self._note(commands)
            return commands
        match order:
            case PeerRestore():
                return self._restore(order, ticket)
            case PeerGive():
                return self._give(order, ticket)
            case PeerDrop():
                return self._drop(order, ticket)
            case Release():
                return self._release(order, ticket)
            case Confirm():
                return self._confirm(order, ticket)
            case Adopt():
                return self._adopt(order, ticket)
            case _:
                return [Answer(ticket, self._conflict())]

    def _reserve(self, order: Reserve, ticket: int) -> list[Command]:
        if self.stage is not Stage.IDLE or not judging.may_come(self.record, self._state_before):
            taken = f"VE {self.record.ve} is already here ({self._state_before}, {self.record.claim})"
            return [Answer(ticket, Fault(FaultCode.CONFLICT, taken))]
        self.stage, self._ticket, self._hold_limit_s = Stage.ACCEPTING, ticket, order.hold_limit_s
        self._runs = self._then_lift = False
        self.record = Record(
            order.ve or order.facts.ve,
            Claim.ARRIVING,
            order.order,
            order.migration,
            order.source,
            order.facts.engine,
            mode=order.mode,
            rest=order.facts.state,
            peer_ve=order.facts.ve,
        )
        return [Write(self.record), self._do(Act.ACCEPT, order)]

    def _restore(self, order: PeerRestore, ticket: int) -> list[Command]:
        if self.record.claim is not Claim.ARRIVING or self.record.image_complete or self.stage is not Stage.IDLE:
            return [Answer(ticket, self._conflict())]
        self.stage, self._ticket = Stage.HOLDING, ticket
        self.record = replace(self.record, order=order.order, post_copy=order.post_copy)  # on disk when it is held
        return [Arm(self._hold_limit_s), self._do(Act.HOLD, order)]

    def _give(self, order: PeerGive, ticket: int) -> list[Command]:
        if self.record.claim is Claim.OWNER:
            return [Answer(ticket, PeerRuns(0.0) if self._runs else None)]
        if self.stage is not Stage.HELD or self.record.cold:
            return [Answer(ticket, self._conflict())]
        self._may_give_back = True
        return self._own(order.order, ticket)

    def _adopt(self, order: Adopt, ticket: int) -> list[Command]:
        if self.stage is Stage.HELD:
            self._may_give_back = False
            return self._own(order.order, ticket)
        return self._confirm(order, ticket)

    def _own(self, order: int, ticket: int) -> list[Command]:
        self.record = replace(self.record, claim=Claim.OWNER, order=order, cold=False)
        return [Arm(None), Write(self.record), *self._run(ticket)]

    def _run(self, ticket: int = 0) -> list[Command]:
        self.stage, self._ticket = Stage.STARTING, ticket
        return [self._do(Act.RUN)]

    def _confirm(self, order: Confirm | Adopt, ticket: int) -> list[Command]:
        if self.record.claim is not Claim.OWNER or self.stage not in (Stage.IDLE, Stage.WAITING):
            return [Answer(ticket, self._conflict())]
        self.record = replace(self.record, order=order.order, cold=False)
        self._confirmed = order if isinstance(order, Confirm) else None
        self._may_give_back, self._then_lift = False, self._confirmed is not None
        if self.record.settled or (self._runs and not self._then_lift):
            return [Write(self.record), Answer(ticket, None)]
        return [Write(self.record), *(self._lift(ticket) if self._runs else self._run(ticket))]

    def _lift(self, ticket: int) -> list[Command]:
        self.stage, self._ticket, self._then_lift = Stage.LIFTING, ticket, False
        return [self._do(Act.LIFT, self._confirmed)]

    def _drop(self, order: PeerDrop, ticket: int) -> list[Command]:
        if self.record.claim is Claim.OWNER:
            return [Answer(ticket, self._too_late())]
        if self.record.claim is Claim.ARRIVING:
            commands = self._refuse(self._dropped(), order.order)
            self._then_forbid = True
            return [*commands, Answer(ticket, None)]
        return [Answer(ticket, None), *self._forbid()]

    def _release(self, order: Release, ticket: int) -> list[Command]:
        match self.record.claim:
            case Claim.OWNER if not (order.taken_back and self.record.cold and not self._has_run):
                return [Answer(ticket, self._too_late())]
            case Claim.OWNER | Claim.ARRIVING:
                commands = self._refuse(self._dropped(), order.order)
                self._then_forbid = True
            case _:
                self.record = replace(self.record, order=order.order)
                commands = [Write(self.record), *self._answer(self._dropped()), *self._forbid()]
                if self.record.settled:
                    return [*commands, Answer(ticket, None)]
        self._ticket = ticket
        return commands

    def _forbid(self) -> list[Command]:
        """Refused before, and now the source knows; what a failed drop left is removed first."""
        if self.record.settled:
            return []
        self._then_forbid = True
        if self.stage is Stage.DROPPING:
            return []
        self.stage = Stage.DROPPING
        return [self._do(Act.DROP)]

    @property
    def _has_run(self) -> bool:
        """Whether it may have run here since this host came up."""
        return self.stage is not Stage.WAITING

    # --- what came of it -------------------------------------------------------------------------

    def _on_did(self, event: Did) -> list[Command]:
        if event.act is not self._acting:
            return []
        self._acting = None
        match event.act, self.stage:
            case Act.ACCEPT, Stage.ACCEPTING:
                return self._finish(event.result)
            case Act.HOLD, Stage.HOLDING:
                self.stage = Stage.HELD
                self.record = replace(self.record, image_complete=True)
                holds = event.result if isinstance(event.result, PeerHolds) else PeerHolds(0.0, 0.0)
                return [Arm(None), Write(self.record), *self._answer(holds)]
            case Act.RUN, Stage.STARTING:
                return self._on_running(event)
            case Act.HALT, Stage.HALTING:
                return self._refuse(self._fault)
            case Act.DROP, Stage.DROPPING:
                return [self._do(Act.FORBID)] if self._then_forbid else self._finish(None)
            case (Act.FORBID, Stage.DROPPING) | (Act.LIFT, Stage.LIFTING):
                self.record = replace(self.record, settled=True)
                return [Write(self.record), *self._finish(None)]
            case _, Stage.DROPPING:
                return [self._do(Act.DROP)]
            case _:
                return []

    def _on_running(self, event: Did) -> list[Command]:
        self._runs = True
        if self._then_lift:
            return [*self._lift(self._ticket), Do(Act.ANNOUNCE)]
        runs = event.result if isinstance(event.result, PeerRuns) else PeerRuns(0.0)
        return [*self._finish(runs if self._may_give_back else None), Do(Act.ANNOUNCE)]

    def _on_did_not(self, event: DidNot) -> list[Command]:
        if event.act is not self._acting:
            return []
        self._acting = None
        match event.act, self.stage:
            case Act.RUN, Stage.STARTING if self._may_give_back:
                self.stage, self._fault = Stage.HALTING, event.fault
                return [self._do(Act.HALT)]
            case Act.HALT, Stage.HALTING:
                return self._on_not_halted(event.fault)
            case Act.RUN, Stage.STARTING if event.fault.code is not FaultCode.CONFLICT:
                # It is to run here, and nobody else sees to that: tried until it does.
                return [*self._answer(event.fault), Arm(AGAIN_S)]
            case (Act.DROP | Act.FORBID, Stage.DROPPING) | (Act.LIFT, Stage.LIFTING) | (Act.RUN, Stage.STARTING):
                return self._finish(event.fault)
            case _, Stage.DROPPING:
                return [self._do(Act.DROP)]
            case _:
                return self._refuse(event.fault)

    def _on_not_halted(self, fault: Fault) -> list[Command]:
        """The source waits, with its copy, for what becomes of this one: it runs after all, or is halted in the end."""
        reason = f"it could not be let run, and whether it ran is not certain: {fault.sentence()}"
        told = replace(self._fault or fault, code=FaultCode.UNCERTAIN, message=reason)
        return self._finish(told) if fault.code is FaultCode.TOO_LATE else [*self._answer(told), Arm(AGAIN_S)]

    def _on_deadline(self) -> list[Command]:
        match self.stage:
            case Stage.HOLDING:
                late = "the VE could not be restored in time"
                return self._refuse(Fault(FaultCode.DEADLINE, late, step=str(self.stage)))
            case Stage.STARTING if self._acting is None:
                return [self._do(Act.RUN)]
            case Stage.HALTING if self._acting is None:
                return [self._do(Act.HALT)]
            case _:
                return []

    def _on_boot(self, event: Booted) -> list[Command]:
        if not judging.in_a_move(self.record):
            return []
        match self.record.claim:
            case Claim.ARRIVING if self._still_holds(event):
                self.stage = Stage.HELD
                return self._chill() if event.rebooted else []
            case Claim.ARRIVING:
                return self._refuse(None)
            case Claim.OWNER:
                return self._on_boot_of_owner(event)
            case Claim.REFUSED:
                self.stage = Stage.DROPPING
                return [self._do(Act.DROP)]
            case _:
                return []

    def _still_holds(self, event: Booted) -> bool:
        """Frozen processes end with their host; files that are set up do not."""
        survives = self.record.mode is Mode.STOP_COPY or (event.state is VeState.FROZEN and not event.rebooted)
        return self.record.image_complete and survives

    def _on_boot_of_owner(self, event: Booted) -> list[Command]:
        resting = self.record.rest is not VeState.RUNNING
        if event.state is VeState.RUNNING or (resting and not event.rebooted):
            self._runs = True
            return [] if resting else [Do(Act.ANNOUNCE)]
        if event.rebooted or self.record.cold:
            self.stage, self._runs = Stage.WAITING, resting
            return self._chill() if event.rebooted else []
        return self._run()

    # --- steps -----------------------------------------------------------------------------------

    def _chill(self) -> list[Command]:
        self.record = judging.rebooted(self.record)
        return [Write(self.record)]

    def _refuse(self, fault: Fault | None, order: int | None = None) -> list[Command]:
        """Durable first; then the answer, so that the source thaws at once; then the cleaning."""
        self.stage = Stage.DROPPING
        self.record = judging.refused(replace(self.record, order=self.record.order if order is None else order))
        commands = [Arm(None), Write(self.record), *self._answer(fault)]
        # An act that is under way is ended by the keeper; only then is what it made removed.
        return commands if self._acting is not None else [*commands, self._do(Act.DROP)]

    def _finish(self, reply: Reply | dict[str, str] | None) -> list[Command]:
        self.stage, self._fault, self._then_forbid = Stage.IDLE, None, False
        return self._answer(None if isinstance(reply, dict) else reply)

    def _answer(self, reply: Reply | None) -> list[Command]:
        ticket, self._ticket = self._ticket, 0
        return [Answer(ticket, reply)] if ticket else []

    def _do(self, act: Act, order: Reserve | PeerRestore | Confirm | None = None) -> Do:
        self._acting = act
        return Do(act, order)

    def _note(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Write):
                self.record = command.record

    def _dropped(self) -> Fault:
        return Fault(FaultCode.ABORTED, "the move was undone, and what came here is dropped", step=str(self.stage))

    def _too_late(self) -> Fault:
        return Fault(FaultCode.TOO_LATE, f"VE {self.record.ve} was given to this host")

    def _conflict(self) -> Fault:
        return conflict(self.record, self.stage)
