"""Post-copy: only where the operator asks for it, only where it can be had, and what becomes of a VE that lacks memory."""

from dataclasses import replace

from migrator.cli import render
from migrator.core import plan, report
from migrator.core.machine import Migration
from migrator.core.phases import Phase
from migrator.core.vocabulary import Command, Event, Fenced, OverBudget, Policy, Role, Send
from migrator.wire.facts import Claim, MemoryMethod, MemoryOffer, Record, Standing, VeState
from migrator.wire.faults import Fault, FaultCode
from migrator.wire.messages import Confirm, HandedOver, HandOver, Reply, Request, Stands
from tests.stories import GOOD, LOST, REQUEST, STARTED, VE, said, tell

OFFERED = replace(STARTED, source_ves=(replace(VE, memory_offers=(MemoryOffer(MemoryMethod.TRACKED),)),))
UNFILLED = Fault(FaultCode.PEER_LOST, "the source does not send it", "beta", "fill memory")


def asking(budget_s: float = 0.001, over_budget: OverBudget = OverBudget.POST_COPY) -> Migration:
    """A migration that copies over its budget, or not, up to the order to hand over."""
    policy = Policy(blackout_budget_s=budget_s, over_budget=over_budget)
    migration = Migration(replace(REQUEST, policy=policy))
    migration.handle(OFFERED)
    return migration


def orders(migration: Migration, events: list[Event]) -> list[Request]:
    """What is asked after the last of them."""
    commands: list[Command] = []
    for event in events:
        commands = migration.handle(event)
    return [command.request for command in commands if isinstance(command, Send)]


def stands(claim: Claim, state: VeState) -> Stands:
    """The source's word."""
    return Stands(Standing(Record("web", claim, 9, "m1", post_copy=True), state, True))


def owner() -> Stands:
    """The target's, before it has all of the memory."""
    return Stands(Standing(Record("web", Claim.OWNER, 9, "m1", post_copy=True), VeState.RUNNING, False))


def test_only_over_the_budget_and_only_when_asked_for() -> None:
    """Inside the budget nothing is left for later, whatever the policy; over it, only by that policy."""
    for migration, wanted in (
        (asking(), True),
        (asking(budget_s=10.0), False),
        (asking(over_budget=OverBudget.PROCEED), False),
    ):
        found = orders(migration, said(GOOD[:4]))
        while not isinstance(found[0], HandOver):
            found = orders(migration, said([GOOD[3]]))
        assert found[0].post_copy is wanted


def test_refused_where_nobody_knows_what_was_written() -> None:
    """Memory that is compared, or moves in the images, cannot be left for later: refused before anything is changed."""
    for method in (MemoryMethod.CONTENT, MemoryMethod.DUMP):
        policy = Policy(over_budget=OverBudget.POST_COPY, memory=method)
        offers = (MemoryOffer(MemoryMethod.TRACKED), MemoryOffer(MemoryMethod.CONTENT))
        started = replace(STARTED, source_ves=(replace(VE, memory_offers=offers),))
        assert [each.name for each in plan.make(replace(REQUEST, policy=policy), started).refusals] == ["post-copy"]


def test_the_plan_says_what_it_risks() -> None:
    """In words, with the names of the hosts; a plan without it says nothing of it."""
    request = replace(REQUEST, policy=Policy(over_budget=OverBudget.POST_COPY))
    assert "if alpha or the line from there to beta is lost for good, so is that memory" in render.plan(
        request, plan.make(request, OFFERED)
    )
    assert "post-copy" not in render.plan(REQUEST, plan.make(REQUEST, OFFERED))


def given_away() -> Migration:
    """The VE runs on the target, which lacks memory that the source has."""
    migration = asking()
    [order] = orders(migration, said(GOOD[:4]))
    while not isinstance(order, HandOver):
        [order] = orders(migration, said([GOOD[3]]))
    [confirm] = orders(migration, said([(Role.SOURCE, HandedOver(0.2, owed_bytes=9))]))
    assert isinstance(confirm, Confirm)
    assert not confirm.alone
    return migration


def test_a_source_that_does_not_answer_is_waited_for() -> None:
    """The target waits for memory that only the source has: blocked on that, and the fence that helps is named."""
    migration = given_away()
    words: list[tuple[Role, Reply]] = [(Role.TARGET, UNFILLED), (Role.SOURCE, LOST), (Role.TARGET, owner())]

    assert orders(migration, said(words)) == []
    assert (migration.phase, migration.blocked_on) == (Phase.BLOCKED, Role.SOURCE)

    migration.handle(Fenced(2000.0, Role.SOURCE, "ops", "burnt"))
    [confirm] = orders(migration, said([(Role.SOURCE, LOST), (Role.TARGET, owner())], 2001.0))
    assert isinstance(confirm, Confirm)
    assert confirm.alone


def test_a_source_that_was_down_has_nothing_to_lend() -> None:
    """It says so itself: the target is told to do without, and the report does not say that nothing happened."""
    migration = given_away()
    words: list[tuple[Role, Reply]] = [
        (Role.TARGET, UNFILLED),
        (Role.SOURCE, stands(Claim.GONE, VeState.STOPPED)),
        (Role.TARGET, owner()),
    ]

    [confirm] = orders(migration, said(words))

    assert isinstance(confirm, Confirm)
    assert confirm.alone
    assert migration.memory_lost


def test_a_source_that_lends_is_asked_for_no_less() -> None:
    """An answer that was lost changes nothing: the target goes on waiting for the rest."""
    migration = given_away()
    words: list[tuple[Role, Reply]] = [
        (Role.TARGET, LOST),
        (Role.SOURCE, stands(Claim.GONE, VeState.FROZEN)),
        (Role.TARGET, owner()),
    ]

    [confirm] = orders(migration, said(words))

    assert isinstance(confirm, Confirm)
    assert not confirm.alone


def test_the_report_says_what_came_later() -> None:
    """How much of the memory followed when the VE ran."""
    replies = [
        (role, replace(reply, owed_bytes=7 << 20) if isinstance(reply, HandedOver) else reply) for role, reply in GOOD
    ]
    found = report.of(tell(said(replies), started=OFFERED))

    assert found.owed_bytes == 7 << 20
    assert "7.0 MiB of that by post-copy" in render.report(found)
