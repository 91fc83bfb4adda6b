"""One agent process on a made-up host: does with the hand-over's machine what `agents.keeper` and `agents.serve` do.

Rule: the machines are the product's. What is lost when the process dies is lost here: the machine, its timers, its acts,
and everybody who waits for an answer.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from agents.handover import judging, roles
from agents.handover.source import Source
from agents.handover.target import Stage, Target
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
from migrator.sim.faults import OF_ACTS, Kind
from migrator.sim.hosts import ABSENT, Host, NotYet, Order
from migrator.wire.facts import Claim, Record, Standing
from migrator.wire.faults import Fault, FaultCode, FaultError
from migrator.wire.messages import Ask, Depart, PeerDrop, PeerRequest, Release, Reply, Request, Reserve, Stands, Undo

if TYPE_CHECKING:
    from migrator.sim.world import World

CARRIED_TO_THE_END = frozenset({Act.THAW, Act.UNPREPARE, Act.HALT, Act.DROP, Act.FORBID})
PEER_LIMIT_S = 60.0
SLOW_S = 100.0
LENDER_LIMIT_S, LOOK_AGAIN_S = 20.0, 1.0
GIVEN_UP = Fault(FaultCode.CONFLICT, "given up because the move is undone")
STEPS = {Act.HOLD: "restore"}
"""What an act is called in its faults, where that is not its own name."""
AnswerTo = Callable[[Reply], None]


class Agent:
    """One process."""

    def __init__(self, world: "World", host: Host) -> None:
        self.world, self.host = world, host
        self.alive = True
        self.machine: Source | Target | None = None
        self._waiting: dict[int, AnswerTo] = {}
        self._tickets = 0
        self._told = 0
        self._deadline = 0
        self._act: tuple[Act, Order] | None = None
        self._acts = 0

    def boot(self) -> None:
        """Go on where the record says that this host was."""
        record = self.host.read()
        if record is not None:
            self.machine = roles.machine_for(record)
            rebooted = record.boot_id != str(self.host.boot)
            self.feed(Booted(self.host.state, rebooted))

    def die(self) -> None:
        """Killed: an act that is under way has had its effect, or has not."""
        self.alive = False
        self.host.agent = None
        if self._act is not None and self.machine is not None:
            self._maybe_effect(*self._act)
        for answer in self._waiting.values():
            self.world.after(0.2, partial(answer, Fault(FaultCode.UNREACHABLE, "the agent has died")))
        self._waiting.clear()

    @property
    def acting(self) -> bool:
        """Whether an act is under way."""
        return self._act is not None

    # --- requests --------------------------------------------------------------------------------

    def receive(self, request: Request | PeerRequest, answer: AnswerTo) -> None:
        """As `agents.serve` does."""
        ve = self.world.ve
        if self.machine is None and self.host.state is ABSENT and not isinstance(request, Reserve):
            if isinstance(request, Undo | Release):
                record = judging.barred(request, Record(ve, Claim.HOME, 0))
                self._write(record)
                self.machine = roles.machine_for(record)
                answer(Stands(Standing(record, ABSENT, False)))
            else:
                answer(Fault(FaultCode.UNKNOWN_VE, f"there is no VE {ve} on {self.host.name}"))
            return
        if self.machine is None:
            self.machine = roles.machine_for(Record(ve, Claim.HOME, 0))
        if isinstance(request, Ask):
            answer(self._standing())
            return
        if isinstance(request, Depart | Reserve):
            self.machine = roles.machine_after(self.machine, request, self.host.state)
        if isinstance(request, Reserve):
            self.host.restored_too_late = False
        if isinstance(request, PeerDrop) or (isinstance(request, Release) and self._is_undone()):
            self.world.held = False
        self._tickets += 1
        self._waiting[self._tickets] = answer
        self.feed(Ordered(request, self._tickets))  # type: ignore[arg-type]  # the controller sends orders only

    def _is_undone(self) -> bool:
        record = self.world.other(self.host).record
        return record is None or record.claim is Claim.HOME

    def _standing(self) -> Stands:
        assert self.machine is not None
        return Stands(Standing(self.machine.record, self.host.state, self.machine.stage != roles.IDLE))

    # --- the machine -----------------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        """Let the machine handle an event, and carry out what it wants; a crash may come before any of it."""
        if not self.alive:
            return
        machine, world = self.machine, self.world
        assert machine is not None
        world.step(self.host.name, event)
        if not self.alive:
            return
        commands = machine.handle(event)
        world.saw(self.host.name, machine)
        for command in commands:
            world.step(self.host.name, command)
            if not self.alive:
                return
            self._carry_out(command)
        if self._act is not None and roles.undoing(machine) and self._act[0] not in CARRIED_TO_THE_END:
            self._cancel()

    def _carry_out(self, command: Command) -> None:
        match command:
            case Write(record=record):
                self._write(record)
            case Do(act=act, order=order):
                self._begin(act, order)
            case TellPeer(message=message, delay_s=delay_s):
                self._told += 1
                number = self._told
                if delay_s:
                    self.world.after(delay_s, lambda: self._tell(message, number))
                else:
                    self._tell(message, number)
            case Arm(limit_s=limit_s):
                self._deadline += 1
                number = self._deadline
                if limit_s is not None:
                    self.world.after(limit_s, partial(self._on_deadline, number))
            case Answer(ticket=ticket, reply=reply):
                if answer := self._waiting.pop(ticket, None):
                    answer(self._standing() if reply is None else reply)

    def _on_deadline(self, number: int) -> None:
        if self._deadline == number:
            if isinstance(self.machine, Target) and self.machine.stage is Stage.HOLDING:
                self.host.restored_too_late = True
            self.feed(DeadlinePassed())

    def _write(self, record: Record) -> None:
        self.host.write(replace(record, boot_id=str(self.host.boot)))

    def _tell(self, message: PeerOrder, number: int) -> None:
        if self.alive and number == self._told:
            target = self.world.other(self.host).name
            self.world.request(self.host.name, target, message, lambda reply: self._said(reply, message), PEER_LIMIT_S)

    def _said(self, reply: Reply, to: PeerOrder) -> None:
        if isinstance(reply, Fault) and reply.code is FaultCode.UNREACHABLE:
            reply = replace(reply, code=FaultCode.PEER_LOST)
        self.feed(PeerSaid(reply, to))

    # --- acts ------------------------------------------------------------------------------------

    def _begin(self, act: Act, order: Order) -> None:
        if act is Act.ANNOUNCE:
            self.world.after(7.0, lambda: self.feed(Did(act)))
            return
        world = self.world
        fault = world.take(OF_ACTS)
        went_wrong = fault.kind if fault is not None else None
        seconds = world.act_seconds()
        if went_wrong is Kind.ACT_SLOW:
            seconds, went_wrong = SLOW_S, world.random.choice((None, Kind.ACT_FAILS, Kind.ACT_FAILS_LATE))
        self._acts += 1
        self._act, number = (act, order), self._acts
        began_s = world.now
        world.after(seconds, lambda: self._end(number, act, order, went_wrong, began_s))

    def _end(self, number: int, act: Act, order: Order, went_wrong: Kind | None, began_s: float) -> None:
        if not self.alive or number != self._acts or self._act is None:
            return
        self._act = None
        assert self.machine is not None
        broken = Fault(FaultCode.TOOL_FAILED, f"{act} failed", self.host.name, STEPS.get(act, str(act)))
        if act is Act.RUN and went_wrong is not None:
            self.world.run_failed = True
        if went_wrong is Kind.ACT_FAILS:
            self.feed(DidNot(act, broken))
            return
        try:
            result = self.host.perform(act, self.machine.record, order)
        except FaultError as error:
            self.feed(DidNot(act, error.fault))
            return
        except NotYet as waits:
            if waits.fault is not None and self.world.now > began_s + LENDER_LIMIT_S:
                self.feed(DidNot(act, waits.fault))
                return
            self._act = (act, order)
            self.world.after(LOOK_AGAIN_S, lambda: self._end(number, act, order, went_wrong, began_s))
            return
        self.feed(DidNot(act, broken) if went_wrong is Kind.ACT_FAILS_LATE else Did(act, result))

    def _cancel(self) -> None:
        assert self._act is not None
        act, order = self._act
        self._act = None
        self._maybe_effect(act, order)
        self.world.after(0.001, lambda: self.feed(DidNot(act, GIVEN_UP)))

    def _maybe_effect(self, act: Act, order: Order) -> None:
        """It was broken off: with its effect or without."""
        assert self.machine is not None
        if self.world.random.random() < 0.5:
            try:
                self.host.perform(act, self.machine.record, order)
            except (FaultError, NotYet):
                return
