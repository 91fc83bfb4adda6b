"""PURE. One VE's coming, as its target host sees it.

Two rules:
1. The VE runs here only after `owner` is on disk, and `owner` is written only on the source's word (PeerGive).
2. `refused` is for ever under its order: what was refused is never run, however late the source's word comes.

The claims on disk and what they permit here:

    arriving  receive, restore, hold; not run
    owner     run                              only forward from here
    refused   nothing of the VE; a newer order may try again
"""

from dataclasses import replace
from enum import StrEnum
from typing import assert_never

from agents.handover.source import stale
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
from migrator.wire.facts import Claim, Record, VeState
from migrator.wire.faults import Fault, FaultCode
from migrator.wire.messages import (
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


class Stage(StrEnum):
    """What is under way; lost with the agent's process, unlike the record."""

    IDLE = "idle"
    ACCEPTING = "accepting"
    HOLDING = "holding"
    HELD = "held"
    STARTING = "starting"
    DROPPING = "dropping"
    LIFTING = "lifting"


class Target:
    """The machine. `handle` is the only thing that changes it."""

    def __init__(self, record: Record, state: VeState = VeState.ABSENT) -> None:
        self.record = record
        self.stage = Stage.IDLE
        self._state_before = state
        self._ticket = 0
        self._hold_limit_s = 0.0
        self._acting = False
        self._drop_when_done = False

    def handle(self, event: Event) -> list[Command]:
        """What is to be done now that this has happened."""
        match event:
            case Ordered():
                return self._on_order(event)
            case Did():
                self._acting = False
                return self._on_did(event)
            case DidNot():
                self._acting = False
                return self._on_did_not(event)
            case DeadlinePassed():
                return self._refuse(Fault(FaultCode.DEADLINE, "the source was not heard of in time"))
            case Booted(state=state):
                return self._on_boot(state)
            case PeerSaid():
                return []
            case _:
                assert_never(event)

    # --- orders ----------------------------------------------------------------------------------

    def _on_order(self, event: Ordered) -> list[Command]:
        order, ticket = event.order, event.ticket
        match order:
            case PeerAsk():
                return [Answer(ticket, None)]
            case Reserve() | Release() | Confirm() if order.order <= self.record.order:
                return [Answer(ticket, stale(order.order, self.record))]
            case Reserve():
                return self._reserve(order, ticket)
            case Release() | PeerDrop():
                return self._release(order, ticket)
            case PeerRestore():
                return self._restore(order, ticket)
            case PeerGive():
                return self._give(order, ticket)
            case Confirm():
                return self._confirm(order, ticket)
            case _:
                return [Answer(ticket, Fault(FaultCode.BAD_REQUEST, f"{type(order).__name__} is not for a target"))]

    def _reserve(self, order: Reserve, ticket: int) -> list[Command]:
        if self.stage is not Stage.IDLE or self._state_before is not VeState.ABSENT:
            taken = f"VE {self.record.ve} is already here ({self._state_before}, {self.record.claim})"
            return [Answer(ticket, Fault(FaultCode.CONFLICT, taken))]
        self.stage, self._ticket, self._hold_limit_s = Stage.ACCEPTING, ticket, order.hold_limit_s
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
        return [Write(self.record), self._do(Act.ACCEPT)]

    def _release(self, order: Release | PeerDrop, ticket: int) -> list[Command]:
        if order.migration != self.record.migration or self.record.claim is Claim.REFUSED:
            return [Answer(ticket, None)]
        if self.record.claim is Claim.OWNER:
            return [Answer(ticket, Fault(FaultCode.TOO_LATE, f"VE {order.ve} was given to this host and runs here"))]
        commands = self._refuse(None, order=max(order.order, self.record.order))
        if self.stage is Stage.DROPPING:
            self._ticket = ticket
            return commands
        return [*commands, Answer(ticket, None)]

    def _restore(self, order: PeerRestore, ticket: int) -> list[Command]:
        if not self._expects(order.migration) or self.stage is not Stage.IDLE:
            return [Answer(ticket, self._not_expected())]
        self.stage, self._ticket = Stage.HOLDING, ticket
        return [Arm(self._hold_limit_s), self._do(Act.HOLD)]

    def _give(self, order: PeerGive, ticket: int) -> list[Command]:
        if order.migration == self.record.migration and self.record.claim is Claim.OWNER:
            return [Answer(ticket, PeerRuns(0.0) if self.stage is Stage.IDLE else None)]
        if not self._expects(order.migration) or self.stage is not Stage.HELD:
            return [Answer(ticket, self._not_expected())]
        self.stage, self._ticket = Stage.STARTING, ticket
        self.record = replace(self.record, claim=Claim.OWNER, order=max(order.order, self.record.order))
        return [Arm(None), Write(self.record), self._do(Act.RUN)]

    def _confirm(self, order: Confirm, ticket: int) -> list[Command]:
        if order.migration != self.record.migration or self.record.claim is not Claim.OWNER:
            return [Answer(ticket, self._not_expected())]
        self.stage, self._ticket = Stage.LIFTING, ticket
        self.record = replace(self.record, order=order.order)
        return [Write(self.record), self._do(Act.LIFT)]

    # --- what came of it -------------------------------------------------------------------------

    def _on_did(self, event: Did) -> list[Command]:
        if self._drop_when_done:
            self._drop_when_done = False
            return [self._do(Act.DROP)]
        match event.act, self.stage:
            case Act.ACCEPT, Stage.ACCEPTING:
                return self._finish(event.result)
            case Act.HOLD, Stage.HOLDING:
                self.stage = Stage.HELD
                self.record = replace(self.record, image_complete=True)
                holds = event.result if isinstance(event.result, PeerHolds) else PeerHolds(0.0, 0.0)
                return [Write(self.record), Answer(self._take_ticket(), holds)]
            case Act.RUN, Stage.STARTING:
                runs = event.result if isinstance(event.result, PeerRuns) else PeerRuns(0.0)
                return [*self._finish(runs), self._do(Act.ANNOUNCE)]
            case (Act.DROP, Stage.DROPPING) | (Act.LIFT, Stage.LIFTING):
                return self._finish(None)
            case _:
                return []

    def _on_did_not(self, event: DidNot) -> list[Command]:
        if self._drop_when_done:
            self._drop_when_done = False
            return [self._do(Act.DROP)]
        match event.act:
            case Act.ACCEPT | Act.HOLD:
                return self._refuse(event.fault)
            case Act.RUN | Act.DROP | Act.LIFT:
                return self._finish(event.fault)
            case _:
                return []

    def _on_boot(self, state: VeState) -> list[Command]:
        match self.record.claim:
            case Claim.ARRIVING:
                return self._refuse(None)
            case Claim.OWNER if state is VeState.FROZEN:
                self.stage = Stage.STARTING
                return [self._do(Act.RUN)]
            case Claim.REFUSED if state is not VeState.ABSENT:
                self.stage = Stage.DROPPING
                return [self._do(Act.DROP)]
            case _:
                return []

    # --- steps -----------------------------------------------------------------------------------

    def _refuse(self, fault: Fault | None, order: int | None = None) -> list[Command]:
        """Durable first; then the answer, so that the source thaws at once; then the cleaning."""
        if self.record.claim is not Claim.ARRIVING:
            return []
        self.stage = Stage.DROPPING
        self.record = replace(self.record, claim=Claim.REFUSED, order=self.record.order if order is None else order)
        told: list[Command] = [Answer(self._take_ticket(), fault)] if self._ticket and fault else []
        if self._acting:
            self._drop_when_done = True
            return [Arm(None), Write(self.record), *told]
        return [Arm(None), Write(self.record), *told, self._do(Act.DROP)]

    def _finish(self, reply: Reply | dict[str, str] | None) -> list[Command]:
        self.stage = Stage.IDLE
        self._state_before = VeState.ABSENT if self.record.claim is Claim.REFUSED else VeState.RUNNING
        if self.record.claim is Claim.ARRIVING:
            self._state_before = VeState.STOPPED
        ticket = self._take_ticket()
        return [Answer(ticket, None if isinstance(reply, dict) else reply)] if ticket else []

    def _take_ticket(self) -> int:
        ticket, self._ticket = self._ticket, 0
        return ticket

    def _do(self, act: Act) -> Do:
        self._acting = True
        return Do(act)

    def _expects(self, migration: str) -> bool:
        return self.record.migration == migration and self.record.claim is Claim.ARRIVING

    def _not_expected(self) -> Fault:
        return Fault(
            FaultCode.CONFLICT,
            f"VE {self.record.ve} is {self.record.claim} here ({self.stage}, migration {self.record.migration})",
        )
