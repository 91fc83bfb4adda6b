"""Runs one migration: gives its machine events, carries out the commands, and tells the story to whoever listens.

Rule: it decides nothing. Every event is in the journal before the machine sees it; a controller that has lost its lease
stops at once and sends nothing more.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import trio

from migrator.app.hosts import clock_skew_s
from migrator.core.phases import ENDED, Phase
from migrator.core.plan import choose_mode
from migrator.core.story import Story
from migrator.core.vocabulary import (
    AbortRequested,
    CutoverReached,
    Event,
    Finish,
    MigrationRequest,
    Replied,
    Resumed,
    Role,
    Send,
    Started,
    WaitUntil,
)
from migrator.ports.agents import AgentLink
from migrator.ports.journal import Journal
from migrator.ports.observer import Observer
from migrator.wire.facts import Objection
from migrator.wire.faults import Fault, FaultError
from migrator.wire.messages import HostInspected, InspectHost, ListVes, VesListed, Vet, Vetted

INSPECT_LIMIT_S = 30.0
RENEW_S = 1.0
ASK_AGAIN_S = 2.0
GIVE_UP_LIMIT_S = 5.0
ON_ITS_WAY = frozenset({Phase.INSPECTING, Phase.RESERVING, Phase.COPYING, Phase.WAITING, Phase.HANDING_OVER})
"""Phases whose end says that it goes on; the others come and go while a host that does not answer is asked again."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every driver of one controller uses."""

    journal: Journal
    links: Mapping[str, AgentLink]
    """By host name."""
    now_unix_s: Callable[[], float]
    holder: str
    """Names this controller in leases."""
    observers: Sequence[Observer] = field(default=())
    patience_s: float = 30.0
    """How long a host that does not answer is asked again before the migration is left blocked."""


async def inspect(request: MigrationRequest, around: Surroundings) -> Started:
    """What both hosts say, asked at once. Raises FaultError when one cannot be asked."""
    said: dict[Role, tuple[HostInspected, VesListed]] = {}
    skews_s: dict[Role, float] = {}
    hosts = {Role.SOURCE: request.source, Role.TARGET: request.target}

    async def ask(role: Role) -> None:
        link = around.links[hosts[role]]
        began_unix_s = around.now_unix_s()
        host = _good(await link.ask(InspectHost(), INSPECT_LIMIT_S), hosts[role])
        skews_s[role] = clock_skew_s(_clock(host), began_unix_s, around.now_unix_s())
        ves = _good(await link.ask(ListVes(), INSPECT_LIMIT_S), hosts[role])
        assert isinstance(host, HostInspected)
        assert isinstance(ves, VesListed)
        said[role] = (host, ves)

    try:
        async with trio.open_nursery() as nursery:
            for role in Role:
                nursery.start_soon(ask, role)
    except* FaultError as group:
        raise first_fault(group) from None
    (source, here), (target, there) = said[Role.SOURCE], said[Role.TARGET]
    facts = next((each for each in here.ves if each.ve == request.ve), None)
    objections: tuple[Objection, ...] = ()
    if facts is not None:
        mode, _ = choose_mode(request, facts)
        vet = Vet(facts, request.target_ve, mode, request.names)
        vetted = await around.links[request.target].ask(vet, INSPECT_LIMIT_S)
        # An engine that the target does not know is a refusal like others, found from the facts.
        objections = vetted.objections if isinstance(vetted, Vetted) else ()
    records = [each for each in (*here.records, *there.records) if each.ve in (request.ve, request.target_ve)]
    floor = max((record.order for record in records), default=0)
    now_unix_s = around.now_unix_s()
    # The hosts were not asked at the same instant: both clocks are told as of now.
    source_facts = replace(source.facts, clock_unix_s=now_unix_s + skews_s[Role.SOURCE])
    target_facts = replace(target.facts, clock_unix_s=now_unix_s + skews_s[Role.TARGET])
    return Started(now_unix_s, source_facts, target_facts, here.ves, there.ves, floor, objections)


class Driver:
    """One migration under way."""

    def __init__(self, story: Story, epoch: int, around: Surroundings) -> None:
        self.story, self._epoch, self._around = story, epoch, around
        self._hosts = {Role.SOURCE: story.request.source, Role.TARGET: story.request.target}
        self._send, self._events = trio.open_memory_channel[Event](100)
        self._under_way = 0

    @classmethod
    async def begin(
        cls, request: MigrationRequest, around: Surroundings, most: Mapping[str, int] | None = None
    ) -> "Driver":
        """Note a new migration in the journal. Raises NoPlace: see `Journal.begin`."""
        now_unix_s = around.now_unix_s()
        epoch = await trio.to_thread.run_sync(around.journal.begin, request, now_unix_s, around.holder, most)
        return cls(Story(request, now_unix_s), epoch, around)

    @classmethod
    async def take_up(cls, migration: str, around: Surroundings) -> "Driver":
        """Take an unfinished migration over from the journal. Raises LeaseLost, KeyError."""
        epoch = await trio.to_thread.run_sync(around.journal.lease, migration, around.now_unix_s(), around.holder)
        entry = await trio.to_thread.run_sync(around.journal.read, migration)
        if entry is None:
            raise KeyError(migration)
        return cls(Story.replay(entry.request, entry.began_unix_s, entry.events), epoch, around)

    async def run(self) -> Story:
        """A new one, to its end, or until it is blocked. Raises FaultError when a host cannot even be inspected."""
        try:
            started = await inspect(self.story.request, self._around)
        except BaseException:  # a host cannot be asked, or whoever asked has left: nothing was changed anywhere
            with trio.CancelScope(shield=True, deadline=trio.current_time() + GIVE_UP_LIMIT_S):
                await self._in_journal(self._around.journal.end, str(Phase.REFUSED))
            raise
        return await self._drive([started])

    async def resume(self, *first: Event) -> Story:
        """One that was taken up: what was under way is unknown, so both hosts are asked."""
        return await self._drive([*first, Resumed(self._around.now_unix_s())])

    def abort(self, who: str) -> None:
        """An operator wants it undone."""
        self._send.send_nowait(AbortRequested(self._around.now_unix_s(), who))

    async def _drive(self, first: Sequence[Event]) -> Story:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_lease)
                await self._loop(nursery, first)
                nursery.cancel_scope.cancel()
        finally:
            if not self.story.ended:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + GIVE_UP_LIMIT_S):
                    await self._in_journal(self._around.journal.give_up)
        return self.story

    async def _loop(self, nursery: trio.Nursery, first: Sequence[Event]) -> None:
        for event in first:
            await self._happened(nursery, event)
        waiting_since_s = trio.current_time()
        while not self.story.ended:
            if self._under_way or self.story.machine.phase is Phase.WAITING:
                event = await self._events.receive()
            elif trio.current_time() - waiting_since_s > self._around.patience_s:
                return  # blocked, and the operator has to know
            else:
                event = await self._again()
            self._under_way -= isinstance(event, Replied)
            await self._happened(nursery, event)
            if self.story.machine.phase in ON_ITS_WAY or isinstance(event, AbortRequested):
                waiting_since_s = trio.current_time()

    async def _again(self) -> Event:
        """Blocked: ask once more in a moment, unless the operator says something first."""
        with trio.move_on_after(ASK_AGAIN_S):
            return await self._events.receive()
        return Resumed(self._around.now_unix_s())

    async def _happened(self, nursery: trio.Nursery, event: Event) -> None:
        await self._in_journal(self._around.journal.append, event, self._around.now_unix_s())
        commands = self.story.tell(event)
        for observer in self._around.observers:
            observer.told(self.story, event, commands)
        for command in commands:
            match command:
                case Send():
                    self._under_way += 1
                    nursery.start_soon(self._ask, command)
                case WaitUntil(unix_s=unix_s):
                    nursery.start_soon(self._wait, unix_s)
                case Finish(phase=phase):
                    await self._in_journal(self._around.journal.end, str(phase))

    async def _ask(self, command: Send) -> None:
        link = self._around.links[self._hosts[command.role]]
        reply = await link.ask(command.request, command.limit_s, self._progressed)
        if isinstance(reply, Fault) and not reply.host:
            reply = Fault(reply.code, reply.message, self._hosts[command.role], reply.step, reply.tool, reply.log_tail)
        await self._send.send(Replied(self._around.now_unix_s(), command.role, reply, command.number))

    async def _wait(self, unix_s: float) -> None:
        await trio.sleep(max(0.0, unix_s - self._around.now_unix_s()))
        await self._send.send(CutoverReached(self._around.now_unix_s()))

    def _progressed(self, progress: object) -> None:
        for observer in self._around.observers:
            observer.progressed(self.story, progress)  # type: ignore[arg-type]  # a link passes Progress on

    async def _keep_lease(self) -> None:
        """Hold on to the lease, and hear of an abort that another program wished for."""
        heard = False
        while self.story.machine.phase not in ENDED:
            await trio.sleep(RENEW_S)
            await self._in_journal(self._around.journal.renew, self._around.now_unix_s())
            who = await trio.to_thread.run_sync(self._around.journal.wished, self.story.request.migration)
            if who and not heard:
                heard = True
                self.abort(who)

    async def _in_journal(self, write: Callable[..., None], *what: object) -> None:
        await trio.to_thread.run_sync(partial(write, self.story.request.migration, self._epoch, *what))


def _clock(reply: object) -> float:
    assert isinstance(reply, HostInspected)
    return reply.facts.clock_unix_s


def _good(reply: object, host: str) -> object:
    if isinstance(reply, Fault):
        raise FaultError(Fault(reply.code, reply.message, reply.host or host, "inspect", reply.tool, reply.log_tail))
    return reply


def first_fault(group: BaseExceptionGroup[FaultError]) -> FaultError:
    """The first of several faults, however deep it lies."""
    error = group.exceptions[0]
    return first_fault(error) if isinstance(error, BaseExceptionGroup) else error
