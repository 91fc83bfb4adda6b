"""The driver carries out what the machine wants, in front of a journal, and stops the moment it has lost its lease."""

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from migrator.adapters.journal import LEASE_S, SqlJournal
from migrator.app.driver import Driver
from migrator.core.phases import Phase
from migrator.core.story import Story
from migrator.core.vocabulary import Command, CutoverReached, Event, Policy, Replied, Resumed
from migrator.ports.journal import LeaseLost
from migrator.wire.facts import Claim, HostFacts, Objection
from migrator.wire.faults import Fault, FaultCode, FaultError
from migrator.wire.messages import HandOver, HostInspected, PreCopy, Progress, Reply, Request, Vetted
from tests.app.made_up import Agent, Answer, Told, for_ever, pair, surroundings
from tests.stories import ALPHA, BETA, BROKEN, LOST, REQUEST, request, stands

GIVEN, OWNER = stands(Claim.GIVEN), stands(Claim.OWNER)


class Witness:
    """An Observer that looks into the journal whenever it is told something."""

    def __init__(self, journal: SqlJournal) -> None:
        self.journal, self.agree = journal, list[bool]()

    def told(self, story: Story, event: Event, commands: list[Command]) -> None:
        """See Observer."""
        entry = self.journal.read(story.request.migration)
        self.agree.append(entry is not None and list(entry.events) == story.events and story.events[-1] == event)

    def progressed(self, story: Story, progress: Progress) -> None:
        """See Observer."""


async def test_good_migration(journal: SqlJournal) -> None:
    """Each host is asked what it has to do, in order; the journal has the whole story and its end, and the lease is free."""
    agents, told = pair(), Told()
    driver = await Driver.begin(REQUEST, surroundings(journal, agents, told))
    story = await driver.run()

    assert story.machine.phase is Phase.DONE
    assert agents["alpha"].changed == ["Depart", "PreCopy", "PreCopy", "HandOver", "Retire"]
    assert agents["beta"].changed == ["Reserve", "Confirm"]
    entry = journal.read("m1")
    assert entry is not None
    assert (entry.ended, list(entry.events), entry.leased_until_unix_s) == ("done", story.events, 0)
    assert told.events == story.events
    assert told.notices == [Progress("copy files", 1, 2)] * 2


async def test_event_is_in_the_journal_before_anyone_acts_on_it(journal: SqlJournal) -> None:
    """When observers hear of an event, and before its commands go out, it is on disk."""
    witness = Witness(journal)
    await (await Driver.begin(REQUEST, surroundings(journal, pair(), witness))).run()

    assert witness.agree == [True] * 8


async def test_host_that_cannot_be_asked_changes_nothing(journal: SqlJournal) -> None:
    """An unreachable host before anything began: a fault that names host and step, and no host was told to do anything."""
    agents = pair(target={"InspectHost": replace(LOST, host="")})
    driver = await Driver.begin(REQUEST, surroundings(journal, agents))

    with pytest.raises(FaultError) as caught:
        await driver.run()

    assert (caught.value.fault.host, caught.value.fault.step) == ("beta", "inspect")
    assert [each.changed for each in agents.values()] == [[], []]
    entry = journal.read("m1")
    assert entry is not None
    assert (entry.ended, entry.leased_until_unix_s) == ("refused", 0)


async def test_refusal_changes_nothing(journal: SqlJournal) -> None:
    """What stands against it, from the facts and from the target's engine, ends it before any host does anything."""
    agents = pair(target={"Vet": Vetted((Objection("template", "no template", "copy it"),))})
    agents["beta"].answers |= Agent(replace(BETA, bridges=())).answers | {"Vet": agents["beta"].answers["Vet"]}
    story = await (await Driver.begin(REQUEST, surroundings(journal, agents))).run()

    assert story.machine.phase is Phase.REFUSED
    assert story.machine.plan is not None
    assert {each.name for each in story.machine.plan.refusals} == {"bridge", "template"}
    assert [each.changed for each in agents.values()] == [[], []]


async def test_definite_fault_is_undone_and_named(journal: SqlJournal) -> None:
    """A failure that is certain: both hosts undo, the story ends undone, and a fault without a host gets the one asked."""
    agents = pair(source={"HandOver": replace(BROKEN, host="")})
    strict = request(policy=Policy(fallback=False))
    story = await (await Driver.begin(strict, surroundings(journal, agents))).run()

    assert story.machine.phase is Phase.UNDONE
    assert story.machine.fault == BROKEN
    assert agents["alpha"].changed[-1] == "Undo"
    assert agents["beta"].changed[-1] == "Release"


async def test_lost_answer_is_asked_about(journal: SqlJournal) -> None:
    """The answer to the hand-over is lost; both hosts say that it happened: forward, and nobody is told to do it again."""
    agents = pair(source={"HandOver": LOST, "Ask": GIVEN}, target={"Ask": OWNER})
    story = await (await Driver.begin(REQUEST, surroundings(journal, agents))).run()

    assert story.machine.phase is Phase.DONE
    assert agents["alpha"].changed.count("HandOver") == 1


async def test_blocked_is_left_for_a_person(journal: SqlJournal, quick_clock: MockClock) -> None:
    """A host stays silent: it is asked again for as long as patience lasts, then the migration is left, unfinished and free."""
    agents = pair(source={"HandOver": LOST, "Ask": GIVEN}, target={"Ask": LOST})
    story = await (await Driver.begin(REQUEST, surroundings(journal, agents))).run()

    assert story.machine.phase is Phase.BLOCKED
    assert agents["beta"].words.count("Ask") > 1
    [entry] = journal.unfinished()
    assert entry.leased_until_unix_s == 0


async def test_taken_up_by_another_controller(journal: SqlJournal, quick_clock: MockClock) -> None:
    """What one left blocked another brings to its end, from the journal and the hosts' own words."""
    silent = pair(source={"HandOver": LOST, "Ask": GIVEN}, target={"Ask": LOST})
    left = await (await Driver.begin(REQUEST, surroundings(journal, silent))).run()
    back = pair(source={"Ask": GIVEN}, target={"Ask": OWNER})

    driver = await Driver.take_up("m1", surroundings(journal, back, holder="there:2"))
    story = await driver.resume()

    assert story.machine.phase is Phase.DONE
    assert story.events[: len(left.events)] == left.events
    assert isinstance(story.events[len(left.events)], Resumed)
    assert back["alpha"].words[0] == back["beta"].words[0] == "Ask"
    entry = journal.read("m1")
    assert entry is not None
    assert (entry.holder, entry.ended) == ("there:2", "done")


async def test_driven_migration_is_not_taken_up(journal: SqlJournal) -> None:
    """As long as somebody drives it nobody else may; one that there is not is a KeyError."""
    around = surroundings(journal, pair())
    await Driver.begin(REQUEST, around)

    with pytest.raises(LeaseLost, match="here:1"):
        await Driver.take_up("m1", surroundings(journal, pair(), holder="there:2"))
    with pytest.raises(KeyError):
        await Driver.take_up("zz", around)


async def test_lost_lease_stops_at_once(journal: SqlJournal, quick_clock: MockClock) -> None:
    """Another controller has taken over while this one waited for a host: it ends, and sends nothing more."""
    agents = pair(source={"PreCopy": for_ever})
    driver = await Driver.begin(REQUEST, surroundings(journal, agents))

    with pytest.RaisesGroup(LeaseLost, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver.run)
            await agents["alpha"].was_asked(PreCopy)
            journal.lease("m1", 1e9 + trio.current_time() + 2 * LEASE_S, "there:2")

    assert agents["alpha"].changed == ["Depart", "PreCopy"]
    entry = journal.read("m1")
    assert entry is not None
    assert entry.holder == "there:2"
    assert entry.leased_until_unix_s > 1e9


@pytest.mark.parametrize("by", ["this program", "another program"])
async def test_abort_while_copying(journal: SqlJournal, quick_clock: MockClock, by: str) -> None:
    """An operator's abort, here or from another terminal, undoes both hosts and says who wanted it."""
    agents = pair(source={"PreCopy": for_ever})
    driver = await Driver.begin(REQUEST, surroundings(journal, agents))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(driver.run)
        await agents["alpha"].was_asked(PreCopy)
        if by == "this program":
            driver.abort("ops")
        else:
            journal.wish("m1", "ops", 1e9)

    assert driver.story.machine.phase is Phase.UNDONE
    assert driver.story.machine.fault == Fault(FaultCode.ABORTED, "aborted by ops")
    assert (agents["alpha"].changed[-1], agents["beta"].changed[-1]) == ("Undo", "Release")


async def test_blackout_waits_for_its_time(journal: SqlJournal, quick_clock: MockClock) -> None:
    """Everything is copied, the blackout begins when the operator's time has come, after one more round."""
    at = 1e9 + trio.current_time() + 60
    agents = pair()
    story = await (
        await Driver.begin(request(policy=Policy(cutover_at_unix_s=at)), surroundings(journal, agents))
    ).run()

    [reached] = [each for each in story.events if isinstance(each, CutoverReached)]
    handed = next(each for each in story.events if isinstance(each, Replied) and each.at_unix_s > at)
    assert reached.at_unix_s >= at
    assert handed.at_unix_s > at
    assert agents["alpha"].words[-4:] == ["PreCopy", "PreCopy", "HandOver", "Retire"]
    assert isinstance(agents["alpha"].asked[-2], HandOver)


async def test_clock_of_a_host_that_answers_late_is_not_wrong(journal: SqlJournal, quick_clock: MockClock) -> None:
    """A host that takes eight seconds to answer is not taken for one whose clock is off by eight."""

    def slow(facts: HostFacts, took_s: float) -> Answer:
        async def answer(_: Request) -> Reply:
            now = replace(facts, clock_unix_s=1e9 + trio.current_time())
            await trio.sleep(took_s)
            return HostInspected(now)

        return answer

    agents = pair(source={"InspectHost": slow(ALPHA, 8)}, target={"InspectHost": slow(BETA, 0)})
    story = await (await Driver.begin(REQUEST, surroundings(journal, agents))).run()

    assert story.machine.phase is Phase.DONE
