"""Many migrations at once: limits hold at every instant, nobody waits for ever, and one that fails disturbs no other."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from migrator.adapters.journal import LEASE_S, SqlJournal
from migrator.app.driver import Surroundings
from migrator.app.fleet import Fleet
from migrator.core.phases import Phase
from migrator.core.story import Story
from migrator.core.vocabulary import MigrationRequest, Policy, Replied
from migrator.wire.facts import MemoryMethod
from migrator.wire.faults import FaultCode, FaultError
from migrator.wire.messages import Copied, Depart, PreCopy, Reply, VesListed
from tests.app.made_up import Agent, for_ever, surroundings
from tests.stories import ALPHA, BROKEN, HANDED, REQUEST, VE

HOSTS = ("alpha", "beta", "gamma")


class World:
    """Hosts whose VEs take a moment to copy, and who is copying when."""

    def __init__(self, journal: SqlJournal, requests: list[MigrationRequest]) -> None:
        self.under_way: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.agents = {name: self._agent(name, requests) for name in HOSTS}
        self.around: Surroundings = surroundings(journal, self.agents)
        self.outcomes: dict[str, Story | FaultError] = {}

    def _agent(self, name: str, requests: list[MigrationRequest]) -> Agent:
        agent = Agent(replace(ALPHA, host=name, boot_id=name))
        here = tuple(replace(VE, ve=each.ve, interfaces=()) for each in requests if each.source == name)
        agent.answers["ListVes"] = VesListed(here, ())
        agent.answers["PreCopy"] = self._copy
        return agent

    async def _copy(self, request: PreCopy) -> Reply:
        hosts = ("all", *request.migration.split("-")[:2])
        for each in hosts:
            self.under_way[each] += 1
            self.most[each] = max(self.most[each], self.under_way[each])
        try:
            await trio.sleep(3.0)  # 100 ms of ours: longer than the journal takes, so that those that may overlap do
        finally:
            for each in hosts:
                self.under_way[each] -= 1
        return Copied(request.round, 3.0, 10, 0.1, dirty_bytes_per_s=0.0, memory_method=MemoryMethod.TRACKED)

    def ended(self, request: MigrationRequest, how: Story | FaultError) -> None:
        """Keep it."""
        self.outcomes[request.migration] = how


def migration(source: str, target: str, number: int, **policy: Any) -> MigrationRequest:
    """One that has its hosts in its id."""
    name = f"{source}-{target}-{number}"
    return replace(REQUEST, migration=name, ve=f"ve{number}", source=source, target=target, policy=Policy(**policy))


def in_all_directions() -> list[MigrationRequest]:
    """Ten between three hosts, each pair both ways."""
    ways = [(one, other) for one in HOSTS for other in HOSTS if one != other]
    return [migration(*ways[number % len(ways)], number) for number in range(10)]


@pytest.mark.parametrize(("per_host", "parallel"), [(1, 10), (2, 10), (3, 2)])
async def test_ten_in_all_directions(journal: SqlJournal, quick_clock: MockClock, per_host: int, parallel: int) -> None:
    """All end well, no host ever has more than it takes, and the whole never more than was asked for."""
    requests = in_all_directions()
    world = World(journal, requests)
    with trio.fail_after(600):
        await Fleet(world.around, dict.fromkeys(HOSTS, per_host), parallel).run(requests, world.ended)

    assert {each.machine.phase for each in world.outcomes.values() if isinstance(each, Story)} == {Phase.DONE}
    assert len(world.outcomes) == 10
    assert all(world.most[host] <= per_host for host in HOSTS)
    assert world.most["all"] <= parallel
    assert world.most["all"] > 1 or per_host == 1
    assert {each.ended for each in journal.history(99)} == {"done"}


async def test_other_controllers_count(journal: SqlJournal, quick_clock: MockClock) -> None:
    """Two programs with one journal keep a host's limit together; the one that waits says so once a migration."""
    requests = [migration("alpha", "beta", number) for number in range(4)]
    world, waited = World(journal, requests), list[str]()

    def waits(request: MigrationRequest, why: str) -> None:
        waited.append(f"{request.migration}: {why}")

    with trio.fail_after(600):
        async with trio.open_nursery() as nursery:
            for number in (0, 2):
                fleet = Fleet(world.around, dict.fromkeys(HOSTS, 1), 2, waits)
                nursery.start_soon(fleet.run, requests[number : number + 2], world.ended)

    assert len(world.outcomes) == 4
    assert world.most["alpha"] == 1
    assert "alpha has as many migrations under way as its `parallel` allows (1)" in waited[0]
    assert len(waited) == len(set(waited))


async def test_one_that_fails_disturbs_no_other(journal: SqlJournal, quick_clock: MockClock) -> None:
    """A fault, a host that is silent from the first, a lease that is lost: each is told, and the rest end well."""
    requests = [migration("alpha", "beta", number, fallback=False) for number in range(4)]
    world = World(journal, requests)
    copy = world.agents["alpha"].answers["PreCopy"]

    async def one_breaks_and_one_is_taken(request: PreCopy) -> Reply:
        if request.ve == "ve1":
            return BROKEN
        if request.ve == "ve2":
            journal.lease(request.migration, 1e9 + trio.current_time() + 2 * LEASE_S, "there:2")
            return await for_ever(request)
        assert callable(copy)
        return await copy(request)

    world.agents["alpha"].answers["PreCopy"] = one_breaks_and_one_is_taken
    await Fleet(world.around, dict.fromkeys(HOSTS, 4), 4).run(requests, world.ended)

    phases = {name: how.machine.phase for name, how in world.outcomes.items() if isinstance(how, Story)}
    assert phases == {
        "alpha-beta-0": Phase.DONE, "alpha-beta-1": Phase.UNDONE, "alpha-beta-2": Phase.COPYING, "alpha-beta-3": Phase.DONE
    }  # fmt: skip


async def test_silent_host_is_told_and_others_go_on(journal: SqlJournal, quick_clock: MockClock) -> None:
    """A migration whose host cannot be asked ends with that fault; those of other hosts end well."""
    requests = [migration("alpha", "beta", 0), migration("alpha", "gamma", 1)]
    world = World(journal, requests)
    world.agents["gamma"].answers["InspectHost"] = replace(BROKEN, code=FaultCode.UNREACHABLE, host="")
    await Fleet(world.around, dict.fromkeys(HOSTS, 4), 4).run(requests, world.ended)

    lost, good = world.outcomes["alpha-gamma-1"], world.outcomes["alpha-beta-0"]
    assert isinstance(lost, FaultError)
    assert lost.fault.host == "gamma"
    assert isinstance(good, Story)
    assert good.machine.phase is Phase.DONE


async def test_abort_undoes_what_is_under_way_and_begins_nothing_more(
    journal: SqlJournal, quick_clock: MockClock
) -> None:
    """Of three with one at a time, the first is undone, the others never begin; each is told, and no host heard of them."""
    requests = [migration("alpha", "beta", number) for number in range(3)]
    world = World(journal, requests)
    world.agents["alpha"].answers["PreCopy"] = for_ever
    fleet = Fleet(world.around, dict.fromkeys(HOSTS, 1), 3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fleet.run, requests, world.ended)
        await world.agents["alpha"].was_asked(PreCopy)
        fleet.abort("ops")

    stories = [each for each in world.outcomes.values() if isinstance(each, Story)]
    others = [each for each in world.outcomes.values() if isinstance(each, FaultError)]
    assert [each.machine.phase for each in stories] == [Phase.UNDONE]
    assert [each.fault.code for each in others] == [FaultCode.ABORTED] * 2
    assert len([each for each in world.agents["alpha"].asked if isinstance(each, Depart)]) == 1
    assert len(journal.history(9)) == 1
    assert not any(isinstance(each, Replied) and each.reply == HANDED for each in stories[0].events)
