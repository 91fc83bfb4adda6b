"""Agents that are made up: what they answer is a table, what they were asked is kept."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from migrator.adapters.journal import SqlJournal
from migrator.app.driver import Surroundings
from migrator.core.story import Story
from migrator.core.vocabulary import Command, Event
from migrator.ports.observer import Observer
from migrator.wire.facts import Claim, HostFacts, MemoryMethod
from migrator.wire.messages import (
    Ask,
    Confirm,
    Copied,
    Depart,
    Departing,
    HandOver,
    HostInspected,
    InspectHost,
    ListVes,
    PreCopy,
    Progress,
    Release,
    Reply,
    Request,
    Reserve,
    Reserved,
    Retire,
    Undo,
    VesListed,
    Vet,
    Vetted,
)
from tests.stories import ALPHA, BETA, HANDED, VE, stands

Answer = Reply | Callable[[Any], Awaitable[Reply]]
CHANGING = (Depart, Reserve, PreCopy, HandOver, Confirm, Retire, Undo, Release)
"""Requests that change something on a host."""


async def for_ever(_: Request) -> Reply:
    """An answer that does not come."""
    await trio.sleep_forever()
    raise AssertionError


class Agent:
    """See `migrator.ports.agents.AgentLink`."""

    def __init__(self, facts: HostFacts, **answers: Answer) -> None:
        """`answers` by the name of the request's type; what is not named goes well."""
        ves = VesListed((VE,) if facts is ALPHA else (), ())
        self.answers: dict[str, Answer] = {"InspectHost": HostInspected(facts), "ListVes": ves, **answers}
        self.asked: list[Request] = []
        self._heard = trio.Condition()

    async def ask(self, request: Request, limit_s: float, progress: Callable[[Progress], None] | None = None) -> Reply:
        """By the table."""
        self.asked.append(request)
        async with self._heard:
            self._heard.notify_all()
        if isinstance(request, PreCopy) and progress is not None:
            progress(Progress("copy files", 1, 2))
        answer = self.answers.get(type(request).__name__)
        if answer is None:
            return _good(request)
        return await answer(request) if callable(answer) else answer

    async def close(self) -> None:
        """Nothing is held."""

    async def was_asked(self, kind: type[Request]) -> None:
        """Returns when it has been."""
        async with self._heard:
            while not any(isinstance(each, kind) for each in self.asked):
                await self._heard.wait()

    @property
    def words(self) -> list[str]:
        """The types of what it was asked, in order."""
        return [type(each).__name__ for each in self.asked]

    @property
    def changed(self) -> list[str]:
        """Those of them that change something."""
        return [type(each).__name__ for each in self.asked if isinstance(each, CHANGING)]


def _good(request: Request) -> Reply:
    match request:
        case InspectHost() | ListVes():
            raise AssertionError("is in the table")
        case Vet():
            return Vetted()
        case Depart():
            return Departing("ssh-ed25519 AAAA")
        case Reserve():
            return Reserved(("ssh-ed25519 BBBB",), {"bundle": "/there"})
        case PreCopy():
            return Copied(
                request.round,
                0.1,
                1000 // request.round,
                0.1,
                dirty_bytes_per_s=0.0,
                memory_method=MemoryMethod.TRACKED,
            )
        case HandOver():
            return HANDED
        case Confirm():
            return stands(Claim.OWNER, request.migration, request.order)
        case Retire():
            return stands(Claim.GONE, request.migration, request.order)
        case Undo():
            return stands(Claim.HOME, request.migration, request.order)
        case Release():
            return stands(Claim.REFUSED, request.migration, request.order)
        case Ask():
            return stands(Claim.HOME, "none", 1)
        case _:
            raise AssertionError(request)


@dataclass
class Told:
    """An Observer that keeps what it hears."""

    events: list[Event] = field(default_factory=list)
    notices: list[Progress] = field(default_factory=list)

    def told(self, story: Story, event: Event, commands: list[Command]) -> None:
        """See Observer."""
        self.events.append(event)

    def progressed(self, story: Story, progress: Progress) -> None:
        """See Observer."""
        self.notices.append(progress)


def surroundings(
    journal: SqlJournal, agents: dict[str, Agent], *observers: Observer, holder: str = "here:1"
) -> Surroundings:
    """A controller's, with a clock that goes with trio's and little patience."""
    return Surroundings(journal, agents, lambda: 1e9 + trio.current_time(), holder, observers, patience_s=5.0)


def pair(source: dict[str, Answer] | None = None, target: dict[str, Answer] | None = None) -> dict[str, Agent]:
    """Two hosts, alpha with the VE and beta without."""
    return {"alpha": Agent(ALPHA, **(source or {})), "beta": Agent(replace(BETA), **(target or {}))}
