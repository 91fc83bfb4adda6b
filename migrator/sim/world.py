"""The world of one run: clock, queue, steps, the network between everybody, and what anybody may ever see go wrong.

Rule: everything that happens is an entry of one queue, drawn and ordered by one seed. A message may be lost, late, doubled
or overtaken; one for a host that is down is lost, one for a process that was started anew reaches the new one.
"""

import heapq
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

from agents.handover.source import Source
from agents.handover.target import Target
from agents.handover.vocabulary import Answer, Did, Do, Ordered, TellPeer, Write
from migrator.core.vocabulary import Send
from migrator.sim.agents import Agent
from migrator.sim.checks import Breach
from migrator.sim.faults import OF_ACTS, OF_MESSAGES, Fault, Kind
from migrator.sim.hosts import RUNNING, STOPPED, Host
from migrator.wire.facts import Claim, Mode, VeState
from migrator.wire.faults import Fault as WireFault
from migrator.wire.faults import FaultCode
from migrator.wire.messages import PeerRequest, Reply, Request

VE = "web"
SOURCE, TARGET, CONTROLLER = "alpha", "beta", "controller"
NOTICED_S = 3.0
"""After so long a broken connection is noticed."""
LATE_S = (0.3, 2.0, 15.0, 90.0)
MESSAGE_KINDS = (Kind.LOSE, Kind.DELAY, Kind.DOUBLE)
LINKS: dict[Kind, tuple[frozenset[str], ...]] = {
    Kind.CUT_PEERS: (frozenset({SOURCE, TARGET}),),
    Kind.CUT_SOURCE: (frozenset({SOURCE, CONTROLLER}),),
    Kind.CUT_TARGET: (frozenset({TARGET, CONTROLLER}),),
    Kind.ISOLATE_SOURCE: (frozenset({SOURCE, CONTROLLER}), frozenset({SOURCE, TARGET})),
    Kind.ISOLATE_TARGET: (frozenset({TARGET, CONTROLLER}), frozenset({SOURCE, TARGET})),
}


@dataclass(frozen=True, slots=True)
class Setup:
    """What a run begins with."""

    mode: Mode | None = None
    """As in Policy.mode."""
    rest: VeState = RUNNING
    autostart: bool = True
    cutover_in_s: float = 0.0
    eager: float = 0.3
    """How soon the operator does something about a migration that has stopped: chance per look."""
    noise: float = 0.0
    """Share of all messages that are lost, late or doubled beside what the plan says."""
    back_again: bool = False
    """When it has ended another migration moves the VE on, or again, with the first one's messages still under way."""
    post_copy: bool = False
    """A live move leaves a part of the memory on the source until the VE runs."""

    @classmethod
    def draw(cls, random: Random) -> "Setup":
        """The setup of a random run."""
        return cls(
            mode=random.choice((None, None, Mode.LIVE, Mode.STOP_COPY)),
            rest=random.choice((RUNNING, RUNNING, RUNNING, RUNNING, STOPPED)),
            autostart=random.random() < 0.7,
            cutover_in_s=random.choice((0.0, 0.0, 0.0, 20.0)),
            eager=random.choice((0.05, 0.3, 0.9)),
            noise=random.choice((0.0, 0.0, 0.01, 0.05, 0.2)),
            back_again=random.random() < 0.3,
            post_copy=random.random() < 0.3,
        )


class World:
    """See above. Raises Breach out of `run`."""

    def __init__(self, random: Random, setup: Setup, plan: tuple[Fault, ...]) -> None:
        self.random, self.setup, self.ve = random, setup, VE
        self.now = 1000.0
        self.steps = 0
        self.fired: Counter[Kind] = Counter()
        self.claims: set[tuple[Claim, Claim]] = set()
        self.orders: Counter[str] = Counter()
        self.latest = 0
        """The newest state that has run."""
        self.calm = False
        """Nothing goes wrong any more."""
        self.on_kill: Callable[[float], None] = lambda _: None
        """What kills, with a time stalls, the controller."""
        self.on_operator: Callable[[Kind], None] = lambda _: None
        self.forgiven: set[str] = set()
        """Hosts on which an older state may run, because the operator gave the newer one up."""
        self.trace: list[str] | None = None
        self._queue: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._then = {id(one): other for one, other in itertools.pairwise(plan) if other.after}
        self._steps_at = sorted(((each.step, each) for each in plan if each.step), key=_first, reverse=True)
        self._marks_at = [each for each in plan if each.mark]
        self._seen: Counter[str] = Counter()
        self._due: list[Fault] = []
        self._cut: Counter[frozenset[str]] = Counter()
        self.under_way = 0
        """Messages that have not arrived."""
        self.hosts = {name: Host(self, name) for name in (SOURCE, TARGET)}
        self.dead: set[str] = set()
        self.held = False
        """The target holds the VE complete, and nobody who may has told it to let go."""
        self.run_failed = False
        self.source_told = False
        """The source was told to undo since the hand-over was ordered, or has said that it did."""

    # --- time ------------------------------------------------------------------------------------

    def after(self, seconds: float, do: Callable[[], object]) -> None:
        """`do` happens then."""
        heapq.heappush(self._queue, (self.now + seconds, next(self._numbers), do))

    def run(self, until_s: float, stop: Callable[[], bool] = lambda: False) -> None:
        """Go on until then, until nothing is left to happen, or until `stop`."""
        queue = self._queue
        while queue and queue[0][0] <= until_s and not stop():
            self.now, _, do = heapq.heappop(queue)
            do()
        if not stop():
            self.now = max(self.now, until_s)

    def breach(self, name: str, detail: str) -> None:
        """A promise is broken. Raises Breach."""
        raise Breach(name, detail, self.now)

    # --- what goes wrong -------------------------------------------------------------------------

    def step(self, who: str, what: object) -> None:
        """Something is about to be done; a fault may come before it."""
        self.steps += 1
        if self.trace is not None:
            self.trace.append(f"{self.steps:5} {self.now - 1000:9.3f} {who:10} {what}")
        while self._steps_at and self._steps_at[-1][0] <= self.steps:
            self._fire(self._steps_at.pop()[1])
        if self._marks_at:
            self._on_mark(marked(who, what))

    def _on_mark(self, mark: str) -> None:
        self._seen[mark] += 1
        for fault in [each for each in self._marks_at if each.mark == mark and each.nth == self._seen[mark]]:
            self._marks_at.remove(fault)
            self._fire(fault)

    def _fire(self, fault: Fault) -> None:
        if fault.in_s:
            self.after(fault.in_s, lambda: self._strike(fault))
        else:
            self._strike(fault)

    def _strike(self, fault: Fault) -> None:
        kind = fault.kind
        if self.calm:
            return
        if self.trace is not None:
            self.trace.append(f"      {self.now - 1000:9.3f} {'FAULT':10} {fault.words()}")
        if chained := self._then.get(id(fault)):
            self._steps_at.append((self.steps + chained.after, chained))
            self._steps_at.sort(key=_first, reverse=True)
        if kind in OF_MESSAGES or kind in OF_ACTS:
            self._due.append(fault)
            return
        self.fired[kind] += 1
        match kind:
            case Kind.DOWN_SOURCE | Kind.DOWN_TARGET:
                self.hosts[_of(kind)].go_down(max(fault.seconds, 0.1))
            case Kind.DEAD_SOURCE | Kind.DEAD_TARGET:
                self.dead.add(_of(kind))
                self.hosts[_of(kind)].held_off = True
                self.hosts[_of(kind)].go_down(None)
            case Kind.KILL_SOURCE_AGENT | Kind.KILL_TARGET_AGENT:
                host = self.hosts[_of(kind)]
                if host.agent is not None:
                    host.agent.die()
                self.after(fault.seconds, host.start_agent)
            case Kind.KILL_CONTROLLER:
                self.on_kill(0.0)
            case Kind.STALL_CONTROLLER:
                self.on_kill(max(fault.seconds, 0.1))
            case Kind.ABORT | Kind.SECOND_CONTROLLER | Kind.FENCE_SOURCE | Kind.FENCE_TARGET:
                self.on_operator(kind)
            case _:
                for link in LINKS[kind]:
                    self._cut[link] += 1
                    self.after(fault.seconds, partial(self._mend, link))

    def _mend(self, link: frozenset[str]) -> None:
        self._cut[link] -= 1

    def take(self, kinds: frozenset[Kind]) -> Fault | None:
        """The fault of one of these kinds that is due, if there is one; it is used up."""
        for fault in self._due:
            if fault.kind in kinds:
                self._due.remove(fault)
                self.fired[fault.kind] += 1
                return fault
        return None

    def calm_down(self) -> None:
        """From here on nothing new goes wrong; what is under way still arrives when it was to arrive."""
        self.calm = True
        self._due.clear()
        self._cut.clear()

    def act_seconds(self) -> float:
        """How long an act takes."""
        return self.random.choice((0.005, 0.02, 0.1, 0.4))

    # --- hosts -----------------------------------------------------------------------------------

    def other(self, host: Host) -> Host:
        """The other one."""
        return self.hosts[TARGET if host.name == SOURCE else SOURCE]

    def new_agent(self, host: Host) -> None:
        """An agent process begins."""
        host.agent = Agent(self, host)
        host.agent.boot()

    def running(self) -> list[Host]:
        """Where the VE runs."""
        return [host for host in self.hosts.values() if host.state is RUNNING]

    def acting(self) -> bool:
        """Whether an agent is in the middle of an act."""
        return any(host.agent is not None and host.agent.acting for host in self.hosts.values())

    def saw(self, host: str, machine: Source | Target) -> None:
        """Counts what was reached."""
        record = self.hosts[SOURCE if host == TARGET else TARGET].record
        other = record.claim if record is not None else Claim.HOME
        ours = machine.record.claim
        self.claims.add((ours, other) if host == SOURCE else (other, ours))

    def may_roll_back(self, host: Host) -> bool:
        """Whether the operator has given the newer state up."""
        return host.name in self.forgiven

    # --- network ---------------------------------------------------------------------------------

    def reaches(self, one: str, other: str) -> bool:
        """Whether a message sent now would arrive."""
        up = all(self.hosts[each].up for each in (one, other) if each != CONTROLLER)
        return up and self._cut[frozenset((one, other))] <= 0

    def request(
        self,
        sender: str,
        to: str,
        body: Request | PeerRequest,
        then: Callable[[Reply], None],
        limit_s: float,
    ) -> None:
        """Ask an agent; `then` hears the answer once, or Fault UNREACHABLE."""
        answered = False

        def answer(reply: Reply) -> None:
            nonlocal answered
            if not answered:
                answered = True
                then(reply)

        def lost() -> None:
            answer(WireFault(FaultCode.UNREACHABLE, "no answer", to))

        def back(reply: Reply) -> None:
            self._carry(to, sender, lambda: answer(reply), lost)

        def arrive() -> None:
            host = self.hosts[to]
            if host.agent is None or (sender != CONTROLLER and not host.key):
                self.after(0.05, lost)
                return
            self.step(to, body)
            if host.agent is None:
                self.after(0.05, lost)
            else:
                host.agent.receive(body, back)

        self._carry(sender, to, arrive, lost)
        self.after(limit_s, lost)

    def _carry(self, sender: str, to: str, arrive: Callable[[], None], lost: Callable[[], None]) -> None:
        """One message on one way."""
        if not self.reaches(sender, to):
            self.after(NOTICED_S, lost)
            return
        fault, delay = self.take(OF_MESSAGES), self.random.uniform(0.001, 0.004)
        wrong, late = (fault.kind, fault.seconds) if fault is not None else (None, self.random.choice(LATE_S))
        noise = self.setup.noise
        if wrong is None and noise and not self.calm and self.random.random() < noise:
            wrong = self.random.choice(MESSAGE_KINDS)
        if wrong is Kind.LOSE:
            self.after(NOTICED_S, lost)
            return
        if wrong is Kind.DELAY:
            delay += late
        elif wrong is Kind.DOUBLE:
            self._put_under_way(delay + late, to, arrive)
        self._put_under_way(delay, to, arrive)

    def _put_under_way(self, delay: float, to: str, arrive: Callable[[], None]) -> None:
        self.under_way += 1

        def arrived() -> None:
            self.under_way -= 1
            if to == CONTROLLER or self.hosts[to].up:
                arrive()

        self.after(delay, arrived)


def _first(pair: tuple[int, Fault]) -> int:
    return pair[0]


def _of(kind: Kind) -> str:
    return SOURCE if kind in (Kind.DOWN_SOURCE, Kind.DEAD_SOURCE, Kind.KILL_SOURCE_AGENT) else TARGET


def marked(who: str, what: object) -> str:
    """The name of a happening, for plans that say when by name: `beta: do hold`, `controller: send HandOver`, ..."""
    match what:
        case Write(record=record):
            return f"{who}: write {record.claim}"
        case Do(act=act):
            return f"{who}: do {act}"
        case TellPeer(message=message):
            return f"{who}: tell {type(message).__name__}"
        case Send(request=request):
            return f"{who}: send {type(request).__name__}"
        case Did(act=act):
            return f"{who}: did {act}"
        case Ordered(order=order):
            return f"{who}: ordered {type(order).__name__}"
        case Answer(reply=reply):
            return f"{who}: answer {'Stands' if reply is None else type(reply).__name__}"
        case _:
            return f"{who}: {type(what).__name__}"
