"""PURE. One migration, from request to end: events in, commands out; the only code that changes its phase.

Two rules:
1. An indefinite fault leads to `settling`: both hosts are asked, and `recovery.decide` says what their words mean.
2. Orders rise with every request that changes something, so that a late one finds a host that has obeyed a newer one.
"""

from typing import assert_never

from migrator.core import convergence, plan
from migrator.core.convergence import Prediction, Verdict
from migrator.core.phases import ENDED, TABLE, Phase
from migrator.core.plan import Plan
from migrator.core.recovery import Action, decide
from migrator.core.vocabulary import (
    AbortRequested,
    Command,
    CutoverReached,
    Event,
    Fenced,
    Finish,
    MigrationRequest,
    OverBudget,
    Replied,
    Resumed,
    Role,
    Send,
    Started,
    WaitUntil,
)
from migrator.wire.facts import Claim, Mode, Record, VeFacts, VeState
from migrator.wire.faults import Fault, FaultCode
from migrator.wire.messages import (
    Ask,
    Confirm,
    Copied,
    Depart,
    Departing,
    HandedOver,
    HandOver,
    PreCopy,
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
CHECKPOINT_STEPS = frozenset({"freeze", "dump", "restore"})
"""A tool that fails in one of these cannot checkpoint this VE; stopping and starting it may still work."""


class Migration:
    """The machine. `handle` is the only thing that changes it."""

    def __init__(self, request: MigrationRequest) -> None:
        self.request = request
        self.phase = Phase.INSPECTING
        self.fault: Fault | None = None
        self.plan: Plan | None = None
        self.mode = request.policy.mode or Mode.LIVE
        self.rounds: list[Copied] = []
        self.prediction: Prediction | None = None
        self.handed_over: HandedOver | None = None
        self._order = 0
        self._facts: VeFacts | None = None
        self._words: dict[Role, Record | None] = {}
        self._undoing: set[Role] = set()
        self._settled = False
        self._reserved = Reserved(())
        self._falls_back = False

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
            case CutoverReached():
                return self._enter_blackout() if self.phase is Phase.WAITING else []
            case Resumed() | Fenced():
                return self._settle()
            case _:
                assert_never(event)

    def _begin(self, event: Started) -> list[Command]:
        self._order = event.order_floor
        self.plan = plan.make(self.request, event)
        self.mode = self.plan.mode
        if self.plan.refusals:
            return self._end(Phase.REFUSED, None)
        self._facts = next(each for each in event.source_ves if each.ve == self.request.ve)
        return self._reserve()

    def _reserve(self) -> list[Command]:
        self.phase, self.rounds = Phase.RESERVING, []
        request = self.request
        depart = Depart(
            request.migration, self._next(), request.ve, request.target, mode=self.mode, target_ve=request.target_ve
        )
        return [self._send(Role.SOURCE, depart)]

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
                return [self._send(Role.TARGET, self._reservation(key, event.at_unix_s))]
            case Phase.RESERVING, Reserved():
                self.phase, self._reserved = Phase.COPYING, reply
                return self._round()
            case Phase.COPYING, Copied():
                self.rounds.append(reply)
                return self._after_round(event.at_unix_s)
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

    def _reservation(self, key: str, now_unix_s: float) -> Reserve:
        assert self._facts is not None
        request = self.request
        return Reserve(
            request.migration,
            self._next(),
            request.source,
            self._facts,
            key,
            int(max(now_unix_s, request.policy.cutover_at_unix_s)) + KEY_LIFE_S,
            HOLD_LIMIT_S,
            ve=request.target_ve,
            mode=self.mode,
            names=request.names,
        )

    def _round(self) -> list[Command]:
        request = self.request
        pre_copy = PreCopy(
            request.migration,
            self._next(),
            request.ve,
            request.target_address,
            request.target_port,
            self._reserved.host_keys,
            self._reserved.places,
            request.policy.bandwidth_bytes_per_s,
            len(self.rounds) + 1,
        )
        return [self._send(Role.SOURCE, pre_copy)]

    def _after_round(self, now_unix_s: float) -> list[Command]:
        assert self._facts is not None
        policy = self.request.policy
        memory = self._facts.memory_bytes if self.mode is Mode.LIVE else 0
        verdict, self.prediction = convergence.decide(
            self.rounds, memory, policy.blackout_budget_s, policy.rounds_max, self.request.link_bytes_per_s
        )
        if verdict is Verdict.AGAIN and self._facts.state is VeState.RUNNING:
            return self._round()
        if verdict is Verdict.OVER_BUDGET and self.mode is Mode.LIVE:
            if policy.over_budget is OverBudget.ABORT:
                predicted = f"the blackout would take {self.prediction.blackout_s:.2f} s"
                return self._on_fault(
                    Fault(FaultCode.OVER_BUDGET, f"{predicted}; the budget is {policy.blackout_budget_s:.2f} s")
                )
            if policy.over_budget is OverBudget.STOP_COPY:
                self._falls_back = True
                return self._undo()
        if policy.cutover_at_unix_s > now_unix_s:
            self.phase = Phase.WAITING
            return [WaitUntil(policy.cutover_at_unix_s)]
        return self._enter_blackout()

    def _enter_blackout(self) -> list[Command]:
        if self.phase is Phase.WAITING:
            self.phase = Phase.COPYING
            return self._round()  # what changed while it waited must not be sent in the blackout
        self.phase = Phase.HANDING_OVER
        request = self.request
        limit_s = request.policy.blackout_limit_s
        return [self._send(Role.SOURCE, HandOver(request.migration, self._next(), request.ve, limit_s))]

    def _on_fault(self, fault: Fault) -> list[Command]:
        self.fault = self.fault or fault
        if not fault.definite:
            return self._settle()
        if TABLE[self.phase].undo:
            self._falls_back = self._may_fall_back(fault)
            return self._undo()
        return self._end(Phase.NEEDS_OPERATOR, fault)

    def _may_fall_back(self, fault: Fault) -> bool:
        policy = self.request.policy
        refused = fault.code is FaultCode.TOOL_FAILED and fault.step in CHECKPOINT_STEPS
        return self.mode is Mode.LIVE and policy.mode is None and policy.fallback and refused

    def _on_abort(self, who: str) -> list[Command]:
        self._falls_back = False
        self.fault = self.fault or Fault(FaultCode.ABORTED, f"aborted by {who}")
        if self.phase in (Phase.VERIFYING, Phase.RETIRING, Phase.UNDOING, Phase.SETTLING):
            return []
        return self._undo()

    def _verify(self) -> list[Command]:
        self.phase = Phase.VERIFYING
        return [self._send(Role.TARGET, Confirm(self.request.migration, self._next(), self.request.target_ve))]

    # --- undoing ---------------------------------------------------------------------------------

    def _undo(self) -> list[Command]:
        self.phase, self._undoing = Phase.UNDOING, {Role.SOURCE, Role.TARGET}
        migration, ve = self.request.migration, self.request.ve
        return [
            self._send(Role.SOURCE, Undo(migration, self._next(), ve)),
            self._send(Role.TARGET, Release(migration, self._next(), self.request.target_ve)),
        ]

    def _on_undone(self, event: Replied) -> list[Command]:
        if isinstance(event.reply, Fault):
            unknown_at_target = event.role is Role.TARGET and event.reply.code is FaultCode.UNKNOWN_VE
            if not unknown_at_target:
                return self._settle()
        self._undoing.discard(event.role)
        if self._undoing:
            return []
        if self._falls_back:
            self._falls_back, self.mode = False, Mode.STOP_COPY
            return self._reserve()
        return self._end(Phase.UNDONE, self.fault)

    # --- settling --------------------------------------------------------------------------------

    def _settle(self) -> list[Command]:
        self.phase, self._words, self._settled = Phase.SETTLING, {}, False
        return [
            self._send(Role.SOURCE, Ask(self.request.ve)),
            self._send(Role.TARGET, Ask(self.request.target_ve)),
        ]

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
