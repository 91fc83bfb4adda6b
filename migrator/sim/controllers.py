"""The journal, the controllers that drive a migration from it, and an operator who has no patience.

Rule: a controller does what `app.driver` does: an event is in the journal, under its lease, before the machine sees it.
The journal and the lease survive everything; a controller process survives nothing.
"""

from collections.abc import Callable, Sequence
from functools import partial

from migrator.core import lease as leases
from migrator.core.lease import Lease
from migrator.core.machine import Migration
from migrator.core.phases import ENDED, STOPPED, TABLE, Phase
from migrator.core.vocabulary import (
    AbortRequested,
    Command,
    CutoverReached,
    Event,
    Fenced,
    Finish,
    MigrationRequest,
    Replied,
    Resumed,
    Role,
    Send,
    WaitUntil,
)
from migrator.sim import checks
from migrator.sim.faults import Kind
from migrator.sim.world import CONTROLLER, World
from migrator.wire.facts import Claim
from migrator.wire.faults import Fault
from migrator.wire.messages import HandOver, Reply, TakeBack, Undo

ASK_AGAIN_S = 2.0
PATIENCE_S = 15.0
RENEW_S = 6.0
LOOK_S = 5.0
"""So often the operator looks."""


class Journal:
    """Of one migration: its events, its lease, its end."""

    def __init__(self, request: MigrationRequest, now_s: float) -> None:
        self.request = request
        self.events: list[Event] = []
        self.lease: Lease = leases.give_up(leases.first("nobody", now_s), 1)
        self.ended: Phase | None = None
        self.phases: set[Phase] = {Phase.INSPECTING}

    def append(self, epoch: int, event: Event, now_s: float) -> bool:
        """Whether it was added; not under a lease that is another's by now."""
        renewed = leases.renew(self.lease, epoch, now_s)
        if renewed is None:
            return False
        self.lease = renewed
        self.events.append(event)
        return True

    def replay(self) -> Migration:
        """The machine as the events make it."""
        machine = Migration(self.request)
        for event in self.events:
            machine.handle(event)
        return machine


class Controller:
    """One process that drives the migration, under one epoch."""

    def __init__(self, world: World, journal: Journal, epoch: int, name: str) -> None:
        self.world, self.journal, self.epoch, self.name = world, journal, epoch, name
        self.alive = True
        self.machine = journal.replay()
        self.awake_s = 0.0
        """Stalled until then."""
        self.handled = len(journal.events)
        self._stopped_since_s: float | None = None
        self.world.after(RENEW_S, self._renew)

    def die(self) -> None:
        """At once, and without a word to the journal."""
        self.alive = False

    def feed(self, event: Event) -> None:
        """As `app.driver.Driver` does; it may die or be held up before each step."""
        if not self.alive:
            return
        if self.world.now < self.awake_s:
            self.world.after(self.awake_s - self.world.now, lambda: self.feed(event))
            return
        self.world.step(CONTROLLER, event)
        if not self.alive:
            return
        if not self.journal.append(self.epoch, event, self.world.now):
            self.alive = False  # another drives it: nothing more is sent
            return
        if self.handled + 1 != len(self.journal.events):
            self.world.breach(checks.TWO_DRIVERS, f"{self.name} drives on without knowing what another has noted")
        before = self.machine.phase
        commands = self.machine.handle(event)
        self.handled += 1
        self._check(before)
        self._carry_out(commands)
        self._if_stopped()

    def _check(self, before: Phase) -> None:
        after = self.machine.phase
        self.journal.phases.add(after)
        if after is not before and after not in TABLE[before].after:
            # One event may pass through `settling`.
            through = {each for way in TABLE[before].after if way not in ENDED for each in TABLE[way].after}
            if after not in through:
                self.world.breach(checks.PHASES, f"{before} -> {after}")

    def _carry_out(self, commands: Sequence[Command]) -> None:
        for at, command in enumerate(commands):
            self.world.step(CONTROLLER, command)
            if not self.alive:
                return
            if self.world.now < self.awake_s:
                rest = commands[at:]
                self.world.after(self.awake_s - self.world.now, partial(self._go_on, rest))
                return
            self._one(command)

    def _go_on(self, commands: Sequence[Command]) -> None:
        if self.alive:
            for command in commands:
                self._one(command)

    def _one(self, command: Command) -> None:
        match command:
            case Send(role=role, request=request, limit_s=limit_s, number=number):
                to = self.journal.request.source if role is Role.SOURCE else self.journal.request.target
                self.world.orders[type(request).__name__] += 1
                if isinstance(request, HandOver | Undo | TakeBack):
                    self.world.source_told = not isinstance(request, HandOver)
                self.world.request(CONTROLLER, to, request, lambda reply: self._replied(role, reply, number), limit_s)
            case WaitUntil(unix_s=unix_s):
                self.world.after(max(0.0, unix_s - self.world.now), lambda: self.feed(CutoverReached(self.world.now)))
            case Finish(phase=phase):
                if self.journal.lease.epoch == self.epoch:
                    self.journal.ended = phase
                self.alive = False

    def _replied(self, role: Role, reply: Reply, number: int) -> None:
        if self.alive and role is Role.SOURCE and isinstance(reply, Fault) and reply.definite:
            self.world.source_told = True
        self.feed(Replied(self.world.now, role, reply, number))

    def _if_stopped(self) -> None:
        if not self.alive or self.machine.phase not in STOPPED:
            if self.machine.phase is not Phase.SETTLING:
                self._stopped_since_s = None
            return
        now = self.world.now
        self._stopped_since_s = self._stopped_since_s if self._stopped_since_s is not None else now
        if now - self._stopped_since_s > PATIENCE_S:
            self.journal.lease = leases.give_up(self.journal.lease, self.epoch)
            self.alive = False
        else:
            self.world.after(ASK_AGAIN_S, self._again)

    def _again(self) -> None:
        if self.machine.phase in STOPPED:
            self.feed(Resumed(self.world.now))

    def _renew(self) -> None:
        if not self.alive:
            return
        if self.world.now >= self.awake_s:
            renewed = leases.renew(self.journal.lease, self.epoch, self.world.now)
            if renewed is None:
                self.alive = False
                return
            self.journal.lease = renewed
        self.world.after(RENEW_S, self._renew)


class Operator:
    """Starts controllers, aborts, and declares hosts off; the last only when they are."""

    def __init__(self, world: World, journal: Journal) -> None:
        self.world, self.journal = world, journal
        self.controllers: list[Controller] = []
        self.fenced = 0
        world.on_kill, world.on_operator = self._kill, self._does
        world.after(LOOK_S, self._look)

    def alive(self) -> Controller | None:
        """The controller that is at it; the one with the newest lease if a stalled one lives beside it."""
        found = [each for each in self.controllers if each.alive]
        return max(found, key=lambda each: each.epoch, default=None)

    def start(self, *first: Event) -> Controller | None:
        """A controller, if the lease can be had; it takes up what the journal says."""
        if self.journal.ended is not None:
            return None
        name = f"controller-{len(self.controllers) + 1}"
        lease = leases.take(self.journal.lease, name, self.world.now)
        if lease is None:
            return None
        self.journal.lease = lease
        controller = Controller(self.world, self.journal, lease.epoch, name)
        self.controllers.append(controller)
        for event in first:
            controller.feed(event)
        return controller

    def recover(self, *first: Event) -> Controller | None:
        """`migrator recover`."""
        return self.start(*first, Resumed(self.world.now))

    def abort(self) -> None:
        """`migrator abort`."""
        wish = AbortRequested(self.world.now, "ops")
        if controller := self.alive():
            controller.feed(wish)
        else:
            self.recover(wish)

    def fence(self, name: str) -> None:
        """`migrator fence`: the host is off, and is kept off until the word has been heard."""
        host = self.world.hosts[name]
        assert not host.up
        self.fenced += 1
        host.held_off = True
        if name not in self.world.dead:
            self.world.after(self.world.random.choice((0.5, 8.0, 40.0)), lambda: self._power_on(name))
        role = Role.SOURCE if name == self.journal.request.source else Role.TARGET
        event = Fenced(self.world.now, role, "ops", "its power is off")
        self._forgive(role)
        if controller := self.alive():
            controller.feed(event)
        else:
            self.recover(event)

    def _fence_if_off(self, name: str) -> None:
        if not self.world.hosts[name].up and self.journal.ended is None:
            self.fence(name)

    def _forgive(self, role: Role) -> None:
        """What an operator gives up with that word: what ran on that host and was not heard of by anybody."""
        request, world = self.journal.request, self.world
        if role is Role.TARGET:
            world.forgiven.add(request.source)
            return
        record = world.hosts[request.source].record
        if record is not None and record.claim is Claim.HOME and not world.source_told:
            world.forgiven.add(request.target)

    def _power_on(self, name: str) -> None:
        host = self.world.hosts[name]
        host.held_off = False
        host.come_up()

    def _kill(self, stall_s: float) -> None:
        if controller := self.alive():
            if stall_s:
                controller.awake_s = self.world.now + stall_s
            else:
                controller.die()

    def _does(self, kind: Kind) -> None:
        # An operator is another person at another terminal: not in the middle of somebody's step.
        request = self.journal.request
        acts: dict[Kind, Callable[[], object]] = {
            Kind.ABORT: self.abort,
            Kind.SECOND_CONTROLLER: self.recover,
            Kind.FENCE_SOURCE: lambda: self._fence_if_off(request.source),
            Kind.FENCE_TARGET: lambda: self._fence_if_off(request.target),
        }
        self.world.after(0.0, acts[kind])

    def _look(self) -> None:
        if self.world.calm or self.journal.ended is not None:
            return
        self.world.after(LOOK_S, self._look)
        if self.world.random.random() > self.world.setup.eager:
            return
        controller = self.alive()
        if controller is None or controller.awake_s > self.world.now:
            self.recover()  # nothing happens; the lease says whether another may take it up
        elif controller.machine.phase is Phase.BLOCKED and controller.machine.blocked_on is not None:
            request = self.journal.request
            name = request.source if controller.machine.blocked_on is Role.SOURCE else request.target
            if not self.world.hosts[name].up and self.world.random.random() < 0.5:
                self.fence(name)
