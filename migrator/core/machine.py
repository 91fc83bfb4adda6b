"""PURE. One migration, from request to end: events in, commands out; the only code that changes its phase.

Four rules:
1. An indefinite fault leads to `settling`: both hosts are asked, and `recovery.decide` says what their words mean.
2. Orders rise with every request that changes something, above all that either host says to have obeyed; so a late one
   finds a host that has obeyed a newer one. What was sent follows from the events, so a replay knows it too.
3. It ends only when both hosts have obeyed an order above all others: nothing that is still under way can do harm.
4. The VE is told to be the target's for good (Confirm), or to be the source's again (TakeBack); never both, unless the source
   has certainly refused the second.
"""

from dataclasses import dataclass, replace
from typing import assert_never

from migrator.core import convergence, plan, recovery
from migrator.core.convergence import Prediction, Verdict
from migrator.core.memory import TRACKING
from migrator.core.phases import ENDED, STOPPED, TABLE, Phase
from migrator.core.plan import Plan
from migrator.core.recovery import Action, Known
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
from migrator.wire.facts import Claim, MemoryMethod, Mode, Record, Standing, VeFacts, VeState
from migrator.wire.faults import Fault, FaultCode
from migrator.wire.messages import (
    Adopt,
    Ask,
    Confirm,
    Copied,
    Depart,
    Departing,
    HandedOver,
    HandOver,
    PreCopy,
    Release,
    Reply,
    Request,
    Reserve,
    Reserved,
    Retire,
    Settle,
    Stands,
    TakeBack,
    Undo,
)

KEY_LIFE_S = 2 * 86400
HOLD_LIMIT_S = 30.0
CHECKPOINT_STEPS = frozenset({"freeze", "dump", "restore"})
"""A tool that fails in one of these cannot checkpoint this VE; stopping and starting it may still work."""
TRIES_MAX = 4
"""So often the hosts are asked anew without anything from outside, before it is left to whoever takes it up again."""
WAITS_MAX = 2
"""So often the hosts are found about it, before the controller carries the word between them."""
GO_ON_MAX = 3


@dataclass(slots=True)
class Sent:
    """What the hosts were told, as far as it decides what they may be told later."""

    confirm: bool = False
    adopt: bool = False
    """Because the source was declared off."""
    take_back: bool = False
    hand_over: bool = False
    undo: bool = False
    """Since the hand-over was sent."""


class Migration:
    """The machine. `handle` is the only thing that changes it."""

    def __init__(self, request: MigrationRequest) -> None:
        self.request = request
        self.phase = Phase.INSPECTING
        self.fault: Fault | None = None
        self.doubt: Fault | None = None
        """The first answer that did not come, or did not say what had become of the request."""
        self.plan: Plan | None = None
        self.mode = request.policy.mode or Mode.LIVE
        self.rounds: list[Copied] = []
        self.prediction: Prediction | None = None
        self.handed_over: HandedOver | None = None
        self.blocked_on: Role | None = None
        """In phase `blocked`: the host that has to answer, or to get done."""
        self.words: dict[Role, Standing | None] = {}
        """What each host said when they were asked last; None: nothing."""
        self.off: set[Role] = set()
        """Declared off by the operator, and not heard of since."""
        self.aborted = False
        self.confirmed = False
        """The target has said that the VE is its own for good."""
        self.sent = Sent()
        self._order = 0
        self._number = 0
        self._awaited: dict[Role, int] = {}
        self._facts: VeFacts | None = None
        self._source_undid = False
        self._reserved = Reserved(())
        self._copying = False
        self._falls_back = False
        self.post_copy = False
        """The hand-over leaves a part of the memory on the source until the VE runs."""
        self.unfilled = False
        """The target says that the source does not send that part."""
        self.memory_lost = False
        """And the target was told that it will not come."""
        self._tries = self._waits = self._went_on = 0

    def handle(self, event: Event) -> list[Command]:
        """What is to be done now that this has happened."""
        if self.phase in ENDED:
            # Taken up again after its end: whoever drove it died before the journal noted the end.
            return self._end(self.phase) if isinstance(event, Resumed) else []
        match event:
            case Started():
                return self._begin(event)
            case Replied():
                return self._on_reply(event)
            case AbortRequested(who=who):
                return self._on_abort(who)
            case CutoverReached():
                return self._enter_blackout() if self.phase is Phase.WAITING else []
            case Resumed():
                self._tries, self.unfilled = 0, False
                return self._settle()
            case Fenced(role=role):
                self.off.add(role)
                self._tries = 0
                return self._settle()
            case _:
                assert_never(event)

    @property
    def known(self) -> Known:
        """What the story so far says that the hosts may not know."""
        return Known(
            aborted=self.aborted,
            copying=self._copying and self._went_on < GO_ON_MAX,
            waited=self._waits >= WAITS_MAX,
            source_off=Role.SOURCE in self.off,
            target_off=Role.TARGET in self.off,
            source_may_have_run=not self.sent.hand_over or self.sent.undo or self._source_undid,
            adopting=self.sent.adopt,
            confirming=self.sent.confirm,
            confirmed=self.confirmed,
            taken_back=self.sent.take_back,
        )

    @property
    def why(self) -> Fault | None:
        """Why it does not go, or has not gone, as it was to: what certainly failed, else the first answer that was lost."""
        return self.fault or self.doubt

    @property
    def abort_refused(self) -> Fault | None:
        """Why an abort is not possible any more; None: it is, or is noted and done if the VE was not given."""
        request = self.request
        match self.phase:
            case Phase.VERIFYING | Phase.RETIRING | Phase.DONE:
                where = f"{request.target_ve} was given to {request.target} and runs there; nothing is undone"
                back = f"to bring it back: migrator migrate {request.target_ve} {request.source}"
                return Fault(FaultCode.TOO_LATE, f"{where}; {back}", request.target, str(self.phase))
            case Phase.UNDONE | Phase.REFUSED:
                where = f"{request.ve} is on {request.source}: the migration has ended ({self.phase})"
                return Fault(FaultCode.TOO_LATE, where, request.source, str(self.phase))
            case _:
                return None

    def _begin(self, event: Started) -> list[Command]:
        # Later than every migration before it, also where its late orders have not come yet.
        self._order = max(event.order_floor, int(event.at_unix_s * 1000))
        self.plan = plan.make(self.request, event)
        self.mode = self.plan.mode
        if self.plan.refusals:
            return self._end(Phase.REFUSED)
        self._facts = next(each for each in event.source_ves if each.ve == self.request.ve)
        return self._reserve()

    def _reserve(self) -> list[Command]:
        self.phase, self.rounds = Phase.RESERVING, []
        self._copying, self.sent, self._source_undid = False, Sent(), False
        request = self.request
        depart = Depart(
            request.migration,
            self._next(),
            request.ve,
            request.target,
            mode=self.mode,
            target_ve=request.target_ve,
            keep=request.policy.keep_source,
        )
        return [self._send(Role.SOURCE, depart)]

    # --- replies ---------------------------------------------------------------------------------

    def _on_reply(self, event: Replied) -> list[Command]:
        reply, role = event.reply, event.role
        if isinstance(reply, Stands):
            self._order = max(self._order, reply.standing.record.order)
        if isinstance(reply, HandedOver) and reply.blackout_s:
            self.handed_over = reply
        if role not in self._awaited or event.number not in (0, self._awaited[role]):
            return []
        del self._awaited[role]
        if isinstance(reply, Fault) and not reply.definite and self.phase is not Phase.SETTLING:
            self.doubt = self.doubt or self._placed(reply, role)
        if isinstance(reply, Stands) and self._is_ours(reply):
            self.off.discard(role)  # declared off, and it speaks: that word is not true any more
        match self.phase:
            case Phase.SETTLING:
                return self._on_word(role, reply)
            case Phase.UNDOING:
                return self._on_undone(role, reply)
            case Phase.VERIFYING | Phase.RETIRING:
                return self._on_forward(reply)
            case _ if isinstance(reply, Fault):
                return self._on_fault(reply, role)
            case _:
                return self._on_good(event)

    def _on_good(self, event: Replied) -> list[Command]:
        match self.phase, event.reply:
            case Phase.RESERVING, Departing(public_key=key):
                return [self._send(Role.TARGET, self._reservation(key, event.at_unix_s))]
            case Phase.RESERVING, Reserved() as reserved:
                self.phase, self._reserved, self._copying, self._went_on = Phase.COPYING, reserved, True, 0
                return self._round()
            case Phase.COPYING, Copied() as copied:
                self.rounds.append(copied)
                self._went_on = 0
                return self._after_round(event.at_unix_s)
            case Phase.HANDING_OVER, HandedOver() as handed_over:
                self.handed_over = handed_over
                return self._forward()
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
        request, moving = self.request, self.plan.memory if self.plan is not None else None
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
            moving.method if moving is not None else MemoryMethod.DUMP,
            moving.compare_bytes if moving is not None else 0,
            request.policy.compress,
        )
        return [self._send(Role.SOURCE, pre_copy)]

    def _after_round(self, now_unix_s: float) -> list[Command]:
        assert self._facts is not None
        policy = self.request.policy
        memory = self._facts.memory_bytes if self.mode is Mode.LIVE else 0
        verdict, self.prediction = convergence.decide(
            self.rounds,
            memory,
            policy.blackout_budget_s,
            policy.rounds_max,
            self.request.link_bytes_per_s,
            self.mode,
        )
        if verdict is Verdict.AGAIN and self._facts.state is VeState.RUNNING:
            return self._round()
        self.post_copy = False
        if verdict is Verdict.OVER_BUDGET and self.mode is Mode.LIVE:
            if policy.over_budget is OverBudget.ABORT:
                predicted = f"the blackout would take {self.prediction.blackout_s:.2f} s"
                return self._on_fault(
                    Fault(FaultCode.OVER_BUDGET, f"{predicted}; the budget is {policy.blackout_budget_s:.2f} s")
                )
            if policy.over_budget is OverBudget.STOP_COPY:
                self._falls_back = True
                return self._undo()
            if policy.over_budget is OverBudget.POST_COPY:
                if self.rounds[-1].memory_method not in TRACKING:
                    why = f"post-copy is not possible when memory moves by {self.rounds[-1].memory_method}"
                    return self._on_fault(Fault(FaultCode.OVER_BUDGET, why))
                self.post_copy = True
        if policy.cutover_at_unix_s > now_unix_s:
            self.phase = Phase.WAITING
            return [WaitUntil(policy.cutover_at_unix_s)]
        return self._enter_blackout()

    def _enter_blackout(self) -> list[Command]:
        if self.phase is Phase.WAITING:
            self.phase = Phase.COPYING
            return self._round()  # what changed while it waited must not be sent in the blackout
        self.phase, self._copying, self.sent.hand_over = Phase.HANDING_OVER, False, True
        request = self.request
        limit_s = request.policy.blackout_limit_s or convergence.limit_s(self.mode, self.prediction)
        hand_over = HandOver(request.migration, self._next(), request.ve, limit_s, self.post_copy)
        return [self._send(Role.SOURCE, hand_over)]

    def _on_fault(self, fault: Fault, role: Role = Role.SOURCE) -> list[Command]:
        if not fault.definite:
            return self._settle()
        self.fault = self.fault or fault
        self._source_undid = self._source_undid or role is Role.SOURCE
        self._falls_back = self._may_fall_back(fault)
        return self._undo()

    def _may_fall_back(self, fault: Fault) -> bool:
        policy = self.request.policy
        refused = fault.code is FaultCode.TOOL_FAILED and fault.step in CHECKPOINT_STEPS
        return self.mode is Mode.LIVE and policy.mode is None and policy.fallback and refused

    def _on_abort(self, who: str) -> list[Command]:
        self._falls_back, self.aborted, self._tries = False, True, 0
        self.fault = self.fault or Fault(FaultCode.ABORTED, f"aborted by {who}")
        match self.phase:
            case Phase.INSPECTING:
                return self._end(Phase.UNDONE)
            case Phase.VERIFYING | Phase.RETIRING | Phase.UNDOING | Phase.SETTLING:
                return []
            case Phase.BLOCKED | Phase.NEEDS_OPERATOR:
                return self._settle()
            case _:
                return self._undo()

    # --- forward ---------------------------------------------------------------------------------

    def _forward(self) -> list[Command]:
        if self.confirmed:
            self.phase = Phase.RETIRING
            return [self._send(Role.SOURCE, Retire(self.request.migration, self._next(), self.request.ve))]
        self.phase, self.sent.confirm = Phase.VERIFYING, True
        alone = self._stands_alone
        self.unfilled, self.memory_lost = False, self.memory_lost or (alone and self.post_copy)
        return [self._send(Role.TARGET, Confirm(self.request.migration, self._next(), self.request.target_ve, alone))]

    @property
    def _stands_alone(self) -> bool:
        """By post-copy: what the target lacks will not come, since the source is off, or has been down."""
        source = self.words.get(Role.SOURCE)
        given = source is not None and source.record.claim in (Claim.GIVEN, Claim.GONE) and source.record.post_copy
        return Role.SOURCE in self.off or (given and source is not None and source.state is not VeState.FROZEN)

    def _on_forward(self, reply: Reply) -> list[Command]:
        match reply:
            case Stands(standing=Standing(record=Record(claim=Claim.OWNER, settled=True))) if self._is_ours(reply):
                self.confirmed = True
                return self._forward()
            case Stands(standing=Standing(record=Record(claim=Claim.GONE, settled=True))) if self._is_ours(reply):
                return self._end(Phase.DONE)
            case Fault(definite=True):
                self.fault = self.fault or reply
                return self._settle()
            case Fault(step="fill memory"):
                self.unfilled = True
                return self._settle()
            case _:
                return self._settle()

    # --- undoing ---------------------------------------------------------------------------------

    def _undo(self) -> list[Command]:
        """The source first: as long as it may not be there any more, the target may hold the only copy."""
        self.phase, self._copying, self.sent.undo = Phase.UNDOING, False, True
        return [self._send(Role.SOURCE, Undo(self.request.migration, self._next(), self.request.ve))]

    def _on_undone(self, role: Role, reply: Reply) -> list[Command]:
        match role, reply:
            case Role.SOURCE, Stands(standing=standing) if self._is_home(standing):
                return [self._send(Role.TARGET, self._release())]
            case Role.TARGET, Stands(standing=standing) if self._is_clear(standing):
                return self._undone()
            case Role.TARGET, Fault(code=FaultCode.UNKNOWN_VE):
                return self._undone()
            case Role.TARGET, Fault(definite=False):
                return self._block(Role.TARGET)
            case _, Fault(definite=True):
                self.fault = self.fault or reply
                return self._settle()
            case _:
                return self._settle()

    def _undone(self) -> list[Command]:
        if self._falls_back:
            self._falls_back, self.mode = False, Mode.STOP_COPY
            return self._reserve()
        return self._end(Phase.UNDONE)

    def _release(self) -> Release:
        migration, ve = self.request.migration, self.request.target_ve
        return Release(migration, self._next(), ve, taken_back=self.sent.take_back)

    def _is_home(self, standing: Standing) -> bool:
        record = standing.record
        ours = record.migration == self.request.migration
        return not ours or (record.claim is Claim.HOME and record.settled)

    def _is_clear(self, standing: Standing) -> bool:
        record = standing.record
        ours = record.migration == self.request.migration
        return not ours or (record.claim is Claim.REFUSED and record.settled)

    # --- settling --------------------------------------------------------------------------------

    def _settle(self) -> list[Command]:
        self._tries += 1
        if self._tries > TRIES_MAX:
            return self._stop(Phase.NEEDS_OPERATOR)
        self.phase, self.words, self.blocked_on = Phase.SETTLING, {}, None
        return [
            self._send(Role.SOURCE, Ask(self.request.ve)),
            self._send(Role.TARGET, Ask(self.request.target_ve)),
        ]

    def _on_word(self, role: Role, reply: Reply) -> list[Command]:
        if len(self.words) == len(Role):
            if role is Role.SOURCE and isinstance(reply, Fault) and reply.code is FaultCode.TOO_LATE:
                self.sent.take_back = False  # it heard from the target in time, and will never take the VE back
            return self._settle()  # the answer to what one of them was told then
        self.words[role] = self._standing(role, reply)
        if len(self.words) < len(Role):
            return []
        source, target = self.words[Role.SOURCE], self.words[Role.TARGET]
        migration = self.request.migration
        says = recovery.source_says(source, migration)
        self._source_undid = self._source_undid or (source is not None and source.record.claim is Claim.HOME)
        hears = recovery.target_says(target, migration)
        action = recovery.decide(says, hears, self.known)
        self._waits = self._waits + 1 if action is Action.WAIT else 0
        return self._act_on(action)

    def _act_on(self, action: Action) -> list[Command]:
        migration, ve, target_ve = self.request.migration, self.request.ve, self.request.target_ve
        match action:
            case Action.UNDO:
                return self._undo()
            case Action.GO_ON:
                self.phase = Phase.COPYING
                self._went_on += 1
                return self._round()
            case Action.FORWARD if self.unfilled and self.words[Role.SOURCE] is None and Role.SOURCE not in self.off:
                return self._block(Role.SOURCE)
            case Action.FORWARD:
                return self._forward()
            case Action.DONE:
                return self._end(Phase.DONE)
            case Action.TELL_SOURCE:
                target = self.words[Role.TARGET]
                assert target is not None
                return [self._send(Role.SOURCE, Settle(migration, self._next(), ve, target.record))]
            case Action.GIVE:
                return [self._send(Role.TARGET, Adopt(migration, self._next(), target_ve))]
            case Action.ADOPT:
                self.sent.adopt = True
                return [self._send(Role.TARGET, Adopt(migration, self._next(), target_ve))]
            case Action.TAKE_BACK:
                self.sent.take_back = self.sent.undo = True
                return [self._send(Role.SOURCE, TakeBack(migration, self._next(), ve))]
            case Action.RELEASE:
                return [self._send(Role.TARGET, self._release())]
            case Action.WAIT | Action.BLOCKED_ON_SOURCE:
                return self._block(Role.SOURCE)
            case Action.BLOCKED_ON_TARGET:
                return self._block(Role.TARGET)
            case Action.NEEDS_OPERATOR:
                return self._stop(Phase.NEEDS_OPERATOR)
            case _:
                assert_never(action)

    def _standing(self, role: Role, reply: Reply) -> Standing | None:
        match reply:
            case Stands(standing=standing):
                return standing
            case Fault(code=FaultCode.UNKNOWN_VE):
                ve = self.request.ve if role is Role.SOURCE else self.request.target_ve
                return Standing(Record(ve, Claim.HOME, 0), VeState.ABSENT, False)
            case _:
                return None

    def _placed(self, fault: Fault, role: Role) -> Fault:
        """With the host and the step that it is about, which a connection that broke does not name."""
        host = self.request.source if role is Role.SOURCE else self.request.target
        return replace(fault, host=fault.host or host, step=fault.step or str(self.phase))

    def _is_ours(self, reply: Stands) -> bool:
        return reply.standing.record.migration == self.request.migration

    # --- steps -----------------------------------------------------------------------------------

    def _block(self, role: Role) -> list[Command]:
        self.blocked_on = role
        return self._stop(Phase.BLOCKED)

    def _stop(self, phase: Phase) -> list[Command]:
        assert phase in STOPPED
        self.phase = phase
        return []

    def _end(self, phase: Phase) -> list[Command]:
        self.phase, self.blocked_on = phase, None
        return [Finish(phase, self.why if phase is Phase.UNDONE else None)]

    def _send(self, role: Role, request: Request) -> Send:
        self._number += 1
        self._awaited[role] = self._number
        return Send(role, request, TABLE[self.phase].limit_s, self._number)

    def _next(self) -> int:
        self._order += 1
        return self._order
