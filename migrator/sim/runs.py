"""One run from its seed to its end, and what must be true then; many runs, and what they reached."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from random import Random

from migrator.core.phases import Phase
from migrator.core.vocabulary import Event, MigrationRequest, OverBudget, Policy, Started
from migrator.sim import checks, faults
from migrator.sim.checks import Breach
from migrator.sim.controllers import Journal, Operator
from migrator.sim.faults import Fault, Kind
from migrator.sim.hosts import ABSENT, FROZEN, RUNNING, STOPPED, Host
from migrator.sim.world import SOURCE, TARGET, VE, Setup, World
from migrator.wire.facts import Claim, HostFacts, MemoryMethod, MemoryOffer, VeFacts

CHAOS_S = 120.0
SETTLES_IN_S = 600.0
ALONE_S = 60.0
"""So long the agents are left alone after the faults, before a controller comes: a VE must run by then."""
RECOVER_S = 10.0
GIB = 1 << 30
FACTS = HostFacts(
    SOURCE, "6.12", "x86_64", "1", "3.13", 1000.0, 2, (), GIB, GIB, GIB, GIB, (), (), (), ("oci",)
)  # fmt: skip
OTHER_FACTS = replace(FACTS, host=TARGET, boot_id="2")


@dataclass(slots=True)
class Outcome:
    """What came of one run."""

    seed: int
    phases: set[Phase] = field(default_factory=set)
    fired: Counter[Kind] = field(default_factory=Counter)
    claims: set[tuple[Claim, Claim]] = field(default_factory=set)
    orders: Counter[str] = field(default_factory=Counter)
    end: str = ""
    on: str = ""
    """Where the VE was when the first migration had ended; empty: not in one place."""
    fences: int = 0
    controllers: int = 0
    steps: int = 0
    steps_to_end: int = 0
    """Until the migration had ended; what follows only looks for late harm."""
    breach: Breach | None = None
    plan: tuple[Fault, ...] = ()
    trace: list[str] | None = None


def play(seed: int, *, trace: bool = False) -> Outcome:
    """One random run."""
    random = Random(seed)
    return Run(seed, random, Setup.draw(random), faults.draw(random), trace=trace).play()


def play_plan(plan: Iterable[Fault], setup: Setup, seed: int = 0, *, trace: bool = False) -> Outcome:
    """One run with a given plan; `seed` draws what the plan leaves open."""
    return Run(seed, Random(seed), setup, tuple(plan), trace=trace).play()


class Run:
    """One run."""

    def __init__(
        self, seed: int, random: Random, setup: Setup, plan: tuple[Fault, ...], *, trace: bool = False
    ) -> None:
        self.world = World(random, setup, plan)
        self.world.trace = [] if trace else None
        self.outcome = Outcome(seed, plan=plan)
        self.source, self.target = self.world.hosts[SOURCE], self.world.hosts[TARGET]
        self._install(self.source)
        self.rest = RUNNING
        """The state the VE was in before the migration."""
        self.operator = self._operator("m1", SOURCE, TARGET)

    def play(self) -> Outcome:
        """To its end, or to a breach."""
        outcome = self.outcome
        try:
            self._play()
        except Breach as breach:
            outcome.breach = breach
        outcome.fired, outcome.claims, outcome.steps = self.world.fired, self.world.claims, self.world.steps
        outcome.orders, outcome.trace = self.world.orders, self.world.trace
        return outcome

    def _play(self) -> None:
        world = self.world
        for host in world.hosts.values():
            host.start_agent()
        self._begin(self.operator)
        world.run(world.now + CHAOS_S, lambda: self._over(self.operator))
        self.outcome.steps_to_end = world.steps
        self._calm_down()
        self._settle(self.operator)
        self._check_end(self.operator)
        places = [host.name for host in world.hosts.values() if host.state is not ABSENT]
        self.outcome.on = places[0] if len(places) == 1 else ""
        if world.setup.back_again and self.operator.journal.ended is not None:
            self._go_on()
        self._check_late()

    # --- the beginning ---------------------------------------------------------------------------

    def _install(self, host: Host) -> None:
        host.state, host.version, host.files = STOPPED, 0, 0
        host.autostart = self.world.setup.autostart
        if self.world.setup.rest is RUNNING:
            host.state = RUNNING

    def _operator(self, migration: str, source: str, target: str) -> Operator:
        setup, now = self.world.setup, self.world.now
        cutover_s = now + setup.cutover_in_s if setup.cutover_in_s else 0.0
        policy = Policy(mode=setup.mode, cutover_at_unix_s=cutover_s)
        if setup.post_copy:
            policy = replace(policy, over_budget=OverBudget.POST_COPY, blackout_budget_s=0.001)
        request = MigrationRequest(migration, VE, source, target, "192.0.2.2", policy=policy)
        return Operator(self.world, Journal(request, now))

    def _begin(self, operator: Operator) -> None:
        """The operator asks for it; both hosts are inspected, which changes nothing and is not part of the run."""
        request = operator.journal.request
        source = self.world.hosts[request.source]
        self.rest = source.state
        for host in self.world.hosts.values():
            host.by_init = None
        records = [host.record for host in self.world.hosts.values() if host.record is not None]
        floor = max((record.order for record in records), default=0)
        ve = VeFacts(VE, "oci", source.state, memory_offers=(MemoryOffer(MemoryMethod.TRACKED),))
        facts = (FACTS, OTHER_FACTS) if request.source == SOURCE else (OTHER_FACTS, FACTS)
        started: Event = Started(self.world.now, *facts, (ve,), (), floor)
        operator.start(started)

    def _over(self, operator: Operator) -> bool:
        return operator.journal.ended is not None and not self.world.under_way

    # --- the end ---------------------------------------------------------------------------------

    def _calm_down(self) -> None:
        world = self.world
        world.calm_down()
        for host in world.hosts.values():
            if host.name not in world.dead:
                host.held_off = False
                host.come_up()
                host.start_agent()
        world.run(world.now + 1.0)
        world.run(world.now + SETTLES_IN_S, lambda: not world.acting())
        world.run(world.now + ALONE_S, lambda: self._over(self.operator))
        if not world.dead:
            self._check_alone()
        else:
            self._without_the_dead()

    def _check_alone(self) -> None:
        """Both agents are there and nobody else needs to be: the VE runs, unless only a controller may decide."""
        world = self.world
        if self.rest is not RUNNING or self._by_init() or world.running() or self.operator.alive() is not None:
            return
        records = [host.record for host in world.hosts.values() if host.record is not None]
        if any(record.cold for record in records):
            return
        world.breach(checks.NOT_RUNNING, f"nobody runs the VE {ALONE_S:g} s after the last fault: {self._where()}")

    def _by_init(self) -> bool:
        return any(host.by_init for host in self.world.hosts.values())

    def _without_the_dead(self) -> None:
        """A host is dead for good: its operator says so, and what can be done without it is done."""
        world, operator = self.world, self.operator
        self._settle_once(operator)
        for name in sorted(world.dead):
            if operator.journal.ended is None:
                held = self._adoptable(operator) if name == SOURCE else self._comes_back(operator)
                operator.fence(name)
                self._settle_once(operator)
                if held and not world.running() and not self._by_init():
                    world.breach(checks.NOT_RUNNING, f"{name} is dead and declared so: {self._where()}")
        for name in sorted(world.dead):
            world.hosts[name].held_off = False
            world.hosts[name].come_up()

    def _adoptable(self, operator: Operator) -> bool:
        """The source died while the target held the VE, and cannot have run since: it has to run there."""
        alone = self.world.dead == {SOURCE} and self.rest is RUNNING and not self.world.run_failed
        return alone and self.world.held and not self.world.source_told and not operator.journal.replay().sent.take_back

    def _comes_back(self, operator: Operator) -> bool:
        machine, record = operator.journal.replay(), self.source.record
        there = record is None or record.claim in (Claim.HOME, Claim.LEAVING, Claim.GIVEN)
        alone = self.world.dead == {TARGET} and self.rest is RUNNING
        return alone and there and not machine.sent.confirm

    def _settle(self, operator: Operator) -> None:
        """Controllers are started until it has ended."""
        world = self.world
        until_s = world.now + SETTLES_IN_S
        while operator.journal.ended is None and world.now < until_s:
            operator.recover()
            world.run(world.now + RECOVER_S, lambda: operator.journal.ended is not None)
        if operator.journal.ended is None:
            machine = operator.journal.replay()
            if not self._is_the_operators(operator):
                world.breach(checks.NOT_ENDED, f"{machine.phase} on {machine.blocked_on}: {self._where()}")
        world.run(world.now + 1.0)
        world.run(world.now + SETTLES_IN_S, lambda: not world.under_way)
        self.outcome.phases |= operator.journal.phases
        self.outcome.fences += operator.fenced
        self.outcome.controllers += len(operator.controllers)
        self.outcome.end = str(operator.journal.ended or operator.journal.replay().phase)

    def _settle_once(self, operator: Operator) -> None:
        world = self.world
        for _ in range(8):
            if operator.journal.ended is None:
                operator.recover()
                world.run(world.now + RECOVER_S, lambda: operator.journal.ended is not None)

    def _is_the_operators(self, operator: Operator) -> bool:
        """The one end that is nobody's but the operator's: he declared a source off that had run unheard by anybody."""
        source, target = self.source.record, self.target.record
        both = source is not None and target is not None
        return bool(
            both
            and operator.fenced
            and operator.journal.replay().phase is Phase.NEEDS_OPERATOR
            and source.claim is Claim.HOME  # type: ignore[union-attr]
            and target.claim is Claim.OWNER  # type: ignore[union-attr]
        )

    def _check_end(self, operator: Operator) -> None:
        world, journal = self.world, operator.journal
        self._check_replay(operator)
        if journal.ended is None:
            return
        request = journal.request
        there = request.target if journal.ended is Phase.DONE else request.source
        here, away = world.hosts[there], world.other(world.hosts[there])
        if away.state is not ABSENT or here.state is ABSENT:
            world.breach(checks.WRONG_END, f"{journal.ended}, and {self._where()}")
        wanted = here.by_init or self.rest
        if wanted is RUNNING and here.state is not RUNNING:
            world.breach(checks.NOT_RUNNING, f"{journal.ended}, and {self._where()}")
        if here.lacks:
            world.breach(
                checks.NOT_RUNNING, f"{journal.ended}, and it waits for memory that does not come; {self._where()}"
            )
        if wanted is not RUNNING and here.state in (RUNNING, FROZEN):
            world.breach(checks.WRONG_END, f"it rested before, and {self._where()}")
        self._check_left_over(here, away)

    def _check_left_over(self, here: Host, away: Host) -> None:
        world = self.world
        for host in (here, away):
            record = host.record
            if record is not None and record.migration and not record.settled:
                world.breach(checks.LEFT_OVER, f"the record of {host.name} is {record.claim}, not settled")
            if host.images is not None:
                world.breach(checks.LEFT_OVER, f"images on {host.name}")
            if host.key:
                world.breach(checks.LEFT_OVER, f"a key on {host.name}")
        if here.fenced or here.autostart is not world.setup.autostart:
            fence = f"fenced {here.fenced}, autostart {here.autostart}"
            world.breach(checks.LEFT_OVER, f"on {here.name}: {fence}; was {world.setup.autostart}")
        if away.files is not None or away.fenced or away.autostart:
            world.breach(checks.LEFT_OVER, f"files {away.files} on {away.name}, fenced {away.fenced}")

    def _check_replay(self, operator: Operator) -> None:
        machine = operator.journal.replay()
        for controller in operator.controllers:
            if controller.epoch == operator.journal.lease.epoch and not controller.alive:
                mine, replayed = vars(controller.machine), vars(machine)
                if len(operator.journal.events) == controller.handled and mine != replayed:
                    different = [name for name in mine if mine[name] != replayed[name]]
                    self.world.breach(checks.REPLAY, ", ".join(different))

    def _check_late(self) -> None:
        """What is still under way arrives, the agents are started anew, both hosts are booted: nothing changes."""
        world = self.world
        if self.operator.journal.ended is None:
            return
        before = self._where()
        for host in world.hosts.values():
            if host.agent is not None:
                host.agent.die()
            host.start_agent()
        world.run(world.now + 30.0)
        if self._where() != before:
            world.breach(checks.LATE_HARM, f"before: {before}; after: {self._where()}")
        for host in world.hosts.values():
            host.go_down(1.0)
        world.run(world.now + 30.0)
        starts = world.setup.autostart
        if len(world.running()) != int(starts):
            world.breach(checks.LATE_HARM, f"after both hosts were booted: {self._where()}")

    def _go_on(self) -> None:
        """Another migration, from where the VE is to the other host, while late messages of the first still come."""
        where = next(host for host in self.world.hosts.values() if host.state is not ABSENT)
        self.operator = self._operator("m2", where.name, self.world.other(where).name)
        self._begin(self.operator)
        self._settle(self.operator)
        self._check_end(self.operator)

    def _where(self) -> str:
        said = []
        for host in self.world.hosts.values():
            record = host.record
            claim = f"{record.claim}{'' if record.settled else '*'}{' cold' if record.cold else ''}" if record else "-"
            said.append(f"{host.name} {host.state} ({claim})")
        return ", ".join(said)
