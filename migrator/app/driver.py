"""Runs one migration: gives its machine events, carries out the commands, and tells the story to whoever listens.

Rule: it decides nothing. Every event is told (and so journalled) before the machine sees it.
"""

from collections.abc import Callable, Mapping

import trio

from migrator.core.machine import Migration
from migrator.core.vocabulary import Command, Event, Finish, MigrationRequest, Replied, Resumed, Role, Send, Started
from migrator.ports.agents import AgentLink
from migrator.wire.faults import Fault, FaultError
from migrator.wire.messages import HostInspected, InspectHost, ListVes, Progress, VesListed

Listener = Callable[[Event], None]
INSPECT_LIMIT_S = 30.0


class Driver:
    """One migration under way."""

    def __init__(
        self,
        request: MigrationRequest,
        links: Mapping[Role, AgentLink],
        now_unix_s: Callable[[], float],
        tell: Listener,
        progress: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self.migration = Migration(request)
        self._links, self._now, self._tell, self._progress = links, now_unix_s, tell, progress
        send, self._events = trio.open_memory_channel[Event](100)
        self._send = send

    async def run(self) -> Migration:
        """To its end, or until it is blocked. Raises FaultError when a host cannot even be inspected."""
        started = await self.inspect()
        return await self._loop(started)

    async def resume(self) -> Migration:
        """Go on with a migration whose machine was rebuilt from its journal."""
        return await self._loop(Resumed(self._now()))

    async def inspect(self) -> Started:
        """What both hosts say, asked at once."""
        hosts: dict[Role, HostInspected] = {}
        lists: dict[Role, VesListed] = {}

        async def ask(role: Role) -> None:
            host = await self._links[role].ask(InspectHost(), INSPECT_LIMIT_S)
            ves = host if isinstance(host, Fault) else await self._links[role].ask(ListVes(), INSPECT_LIMIT_S)
            if isinstance(ves, Fault):
                raise FaultError(ves)
            assert isinstance(host, HostInspected)
            assert isinstance(ves, VesListed)
            hosts[role], lists[role] = host, ves

        try:
            async with trio.open_nursery() as nursery:
                for role in Role:
                    nursery.start_soon(ask, role)
        except* FaultError as group:
            raise _first(group) from None
        ve = self.migration.request.ve
        records = [record for listed in lists.values() for record in listed.records if record.ve == ve]
        return Started(
            self._now(),
            hosts[Role.SOURCE].facts,
            hosts[Role.TARGET].facts,
            lists[Role.SOURCE].ves,
            lists[Role.TARGET].ves,
            max((record.order for record in records), default=0),
        )

    async def feed(self, event: Event) -> None:
        """Something from outside: an operator's abort."""
        await self._send.send(event)

    async def _loop(self, event: Event) -> Migration:
        async with trio.open_nursery() as nursery:
            under_way = 0
            while True:
                self._tell(event)
                commands: list[Command] = self.migration.handle(event)
                if any(isinstance(command, Finish) for command in commands):
                    nursery.cancel_scope.cancel()
                    return self.migration
                for command in commands:
                    if isinstance(command, Send):
                        under_way += 1
                        nursery.start_soon(self._ask, command)
                if not under_way:
                    return self.migration  # blocked: nothing is under way and nothing is left to ask
                event = await self._events.receive()
                under_way -= isinstance(event, Replied)

    async def _ask(self, command: Send) -> None:
        reply = await self._links[command.role].ask(command.request, command.limit_s, self._progress)
        await self._send.send(Replied(self._now(), command.role, reply))


def _first(group: BaseExceptionGroup[FaultError]) -> FaultError:
    for error in group.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    raise AssertionError("a group without a member")
