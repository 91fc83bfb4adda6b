"""PURE. One migration, from request to end: events in, commands out; the only code that changes its phase.

Two rules:
1. An indefinite fault leads to `settling`: both hosts are asked, and `recovery.decide` says what their words mean.
2. Orders rise with every request that changes something, so that a late one finds a host that has obeyed a newer one.
"""

from typing import assert_never

from migrator.core.phases import ENDED, TABLE, Phase
from migrator.core.recovery import Action, decide
from migrator.core.refusals import Refusal, refusals
from migrator.core.vocabulary import (
    AbortRequested,
    Command,
    Event,
    Finish,
    MigrationRequest,
    Replied,
    Resumed,
    Role,
    Send,
    Started,
)
from migrator.wire.facts import Claim, Record, VeFacts
from migrator.wire.faults import Fault, FaultCode
from migrator.wire.messages import (
    Ask,
    Confirm,
    CopyFiles,
    Depart,
    Departing,
    HandedOver,
    HandOver,
    Release,
    Request,
    Reserve,
    Reserved,
    Retire,
    Settle,
    Stands,
    Undo,
)

KEY_LIFE_S = 2 * 86400
HOLD_LIMIT_S = 30.0


class Migration:
    """The machine. `handle` is the only thing that changes it."""

    def __init__(self, request: MigrationRequest) -> None:
        self.request = request
        self.phase = Phase.INSPECTING
        self.fault: Fault | None = None
        self.refusals: list[Refusal] = []
        self.handed_over: HandedOver | None = None
        self._order = 0
        self._facts: VeFacts | None = None
        self._words: dict[Role, Record | None] = {}
        self._undoing: set[Role] = set()
        self._settled = False

    def handle(self, event: Event) -> list[Command]:
        """What is to be done now that this has happened."""
        if self.phase in ENDED:
            return []
        match event:
            case Started():
                return self._begin(event)
            case Replied():
                return self._on_reply(event)
            case AbortRequested(who=who):
                return self._on_abort(who)
            case Resumed():
                return self._settle()
            case _:
                assert_never(event)

    def _begin(self, event: Started) -> list[Command]:
        self._order = event.order_floor
        self.refusals = refusals(self.request, event)
        if self.refusals:
            return self._end(Phase.REFUSED, None)
        self._facts = next(each for each in event.source_ves if each.ve == self.request.ve)
        self.phase = Phase.RESERVING
        ask = Depart(self.request.migration, self._next(), self.request.ve, self.request.target)
        return [self._send(Role.SOURCE, ask)]

    # --- replies ---------------------------------------------------------------------------------

    def _on_reply(self, event: Replied) -> list[Command]:
        reply = event.reply
        if self.phase in (Phase.SETTLING, Phase.UNDOING):
            return self._on_word(event) if self.phase is Phase.SETTLING else self._on_undone(event)
        if isinstance(reply, Fault):
            return self._on_fault(reply)
        ve, migration = self.request.ve, self.request.migration
        match self.phase, reply:
            case Phase.RESERVING, Departing(public_key=key):
                assert self._facts is not None
                expires = int(event.at_unix_s) + KEY_LIFE_S
                order = self._next()
                ask = Reserve(migration, order, self.request.source, self._facts, key, expires, HOLD_LIMIT_S)
                return [self._send(Role.TARGET, ask)]
            case Phase.RESERVING, Reserved(host_keys=keys):
                self.phase = Phase.COPYING
                where = (self.request.target_address, self.request.target_port)
                limit = self.request.bandwidth_bytes_per_s
                return [self._send(Role.SOURCE, CopyFiles(migration, self._next(), ve, *where, keys, limit))]
            case Phase.COPYING, _:
                self.phase = Phase.HANDING_OVER
                limit_s = self.request.blackout_limit_s
                return [self._send(Role.SOURCE, HandOver(migration, self._next(), ve, limit_s))]
            case Phase.HANDING_OVER, HandedOver():
                self.handed_over = reply
                return self._verify()
            case Phase.VERIFYING, _:
                self.phase = Phase.RETIRING
                return [self._send(Role.SOURCE, Retire(migration, self._next(), ve))]
            case Phase.RETIRING, _:
                return self._end(Phase.DONE, None)
            case _:
                return self._settle()

    def _on_fault(self, fault: Fault) -> list[Command]:
        self.fault = self.fault or fault
        if not fault.definite:
            return self._settle()
        if TABLE[self.phase].undo:
            return self._undo()
        return self._end(Phase.NEEDS_OPERATOR, fault)

    def _on_abort(self, who: str) -> list[Command]:
        self.fault = self.fault or Fault(FaultCode.CONFLICT, f"aborted by {who}")
        if self.phase in (Phase.VERIFYING, Phase.RETIRING, Phase.UNDOING, Phase.SETTLING):
            return []
        return self._undo()

    def _verify(self) -> list[Command]:
        self.phase = Phase.VERIFYING
        return [self._send(Role.TARGET, Confirm(self.request.migration, self._next(), self.request.ve))]

    # --- undoing ---------------------------------------------------------------------------------

    def _undo(self) -> list[Command]:
        self.phase, self._undoing = Phase.UNDOING, {Role.SOURCE, Role.TARGET}
        migration, ve = self.request.migration, self.request.ve
        return [
            self._send(Role.SOURCE, Undo(migration, self._next(), ve)),
            self._send(Role.TARGET, Release(migration, self._next(), ve)),
        ]

    def _on_undone(self, event: Replied) -> list[Command]:
        if isinstance(event.reply, Fault):
            unknown_at_target = event.role is Role.TARGET and event.reply.code is FaultCode.UNKNOWN_VE
            if not unknown_at_target:
                return self._settle()
        self._undoing.discard(event.role)
        return [] if self._undoing else self._end(Phase.UNDONE, self.fault)

    # --- settling --------------------------------------------------------------------------------

    def _settle(self) -> list[Command]:
        self.phase, self._words, self._settled = Phase.SETTLING, {}, False
        ask = Ask(self.request.ve)
        return [self._send(Role.SOURCE, ask), self._send(Role.TARGET, ask)]

    def _on_word(self, event: Replied) -> list[Command]:
        self._words[event.role] = self._record(event)
        if len(self._words) < len(Role):
            return []
        source, target = self._words[Role.SOURCE], self._words[Role.TARGET]
        match decide(source.claim if source else None, target.claim if target else None):
            case Action.UNDO:
                return self._undo()
            case Action.FORWARD:
                return self._verify()
            case Action.WAIT:
                if target is None or self._settled:
                    # The source has the target's word already and asks it by itself: nothing to hurry here.
                    self.phase = Phase.BLOCKED
                    return []
                self._settled = True
                settle = Settle(self.request.migration, self._next(), self.request.ve, target)
                self._words = {Role.TARGET: target}
                return [self._send(Role.SOURCE, settle)]
            case Action.BLOCKED_ON_SOURCE | Action.BLOCKED_ON_TARGET:
                self.phase = Phase.BLOCKED
                return []
            case Action.NEEDS_OPERATOR:
                return self._end(Phase.NEEDS_OPERATOR, self.fault)

    def _record(self, event: Replied) -> Record | None:
        match event.reply:
            case Stands(standing=standing):
                ours = standing.record.migration == self.request.migration
                return standing.record if ours else Record(self.request.ve, Claim.HOME, standing.record.order)
            case Fault(code=FaultCode.UNKNOWN_VE):
                return Record(self.request.ve, Claim.HOME, 0)
            case _:
                return None

    # --- steps -----------------------------------------------------------------------------------

    def _end(self, phase: Phase, fault: Fault | None) -> list[Command]:
        self.phase = phase
        return [Finish(phase, fault)]

    def _send(self, role: Role, request: Request) -> Send:
        return Send(role, request, TABLE[self.phase].limit_s)

    def _next(self) -> int:
        self._order += 1
        return self._order
