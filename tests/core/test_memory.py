"""By which method memory moves: the best that is offered, or what the operator names, or a refusal."""

from dataclasses import replace

from migrator.cli import render
from migrator.core import memory, plan
from migrator.core.machine import Migration
from migrator.core.vocabulary import Policy, Replied, Role, Send
from migrator.wire.facts import MemoryMethod, MemoryOffer, Mode
from migrator.wire.messages import Departing, PreCopy, Reserved
from tests.stories import ALPHA, REQUEST, STARTED, VE

TRACKED, SOFT_DIRTY, CONTENT, DUMP = (MemoryOffer(each) for each in MemoryMethod)
OLD_KERNEL = replace(TRACKED, why_not="this kernel does not tell which pages are written")
ALL = replace(VE, memory_offers=(TRACKED, CONTENT, DUMP))
OLD = replace(VE, memory_offers=(OLD_KERNEL, CONTENT, DUMP))


def test_the_first_that_is_offered() -> None:
    """The plan takes the best there is and says why no better one."""
    assert memory.choose(None, ALL, ALPHA).method is MemoryMethod.TRACKED
    chosen = memory.choose(None, OLD, ALPHA)
    assert chosen.method is MemoryMethod.CONTENT
    assert "not tracked: this kernel does not tell which pages are written" in chosen.reason
    marking = replace(OLD, memory_offers=(OLD_KERNEL, SOFT_DIRTY, CONTENT, DUMP))
    assert memory.choose(None, marking, ALPHA).method is MemoryMethod.SOFT_DIRTY
    assert memory.choose(None, VE, ALPHA).method is MemoryMethod.DUMP


def test_comparing_has_its_price_in_the_plan() -> None:
    """What is remembered costs at most a quarter of the source's free memory, and no more than the VE has."""
    small = memory.choose(None, OLD, replace(ALPHA, memory_free_bytes=1 << 30))
    large = memory.choose(None, replace(OLD, memory_bytes=1 << 40), replace(ALPHA, memory_free_bytes=1 << 30))
    assert (small.compare_bytes, small.cost_bytes) == (1 << 28, OLD.memory_bytes)
    assert (large.compare_bytes, large.cost_bytes) == (1 << 28, 1 << 28)
    started = replace(STARTED, source_ves=(OLD,))
    assert "remembered in 1.0 MiB of alpha's memory, 2.0 GiB at most" in render.plan(
        REQUEST, plan.make(REQUEST, started)
    )


def test_what_is_named_and_cannot_be_had_is_refused() -> None:
    """A method is never replaced in silence; one that can be had, and `dump`, are never refused."""
    [refused] = memory.objections(MemoryMethod.TRACKED, OLD)
    assert (refused.name, refused.remedy, refused.waivable) == ("memory-method", "--memory auto", False)
    assert "this kernel does not tell" in refused.evidence
    assert len(memory.objections(MemoryMethod.TRACKED, VE)) == 1
    for ve, wanted in ((OLD, MemoryMethod.CONTENT), (OLD, MemoryMethod.DUMP), (VE, MemoryMethod.DUMP), (OLD, None)):
        assert memory.objections(wanted, ve) == []
    asked = replace(REQUEST, policy=Policy(memory=MemoryMethod.TRACKED))
    made = plan.make(asked, replace(STARTED, source_ves=(OLD,)))
    assert [each.name for each in made.refusals] == ["memory-method"]
    stopping = replace(REQUEST, policy=Policy(mode=Mode.STOP_COPY, memory=MemoryMethod.TRACKED))
    assert plan.make(stopping, replace(STARTED, source_ves=(OLD,))).refusals == ()


def test_the_source_is_told() -> None:
    """A round is ordered with the method of the plan, and with what comparing may take."""
    machine = Migration(replace(REQUEST, policy=Policy(memory=MemoryMethod.CONTENT)))
    machine.handle(replace(STARTED, source_ves=(ALL,)))
    machine.handle(Replied(1.0, Role.SOURCE, Departing("key")))
    [command] = machine.handle(Replied(2.0, Role.TARGET, Reserved(("host key",))))
    assert isinstance(command, Send)
    assert isinstance(command.request, PreCopy)
    assert command.request.memory_method is MemoryMethod.CONTENT
    assert command.request.compare_bytes == ALPHA.memory_free_bytes // memory.COMPARE_SHARE


def test_all_of_it_in_the_blackout_is_foreseen() -> None:
    """With `dump` the forecast has the whole memory in the blackout and not in the time before it."""
    big = replace(ALL, memory_bytes=10**9)
    started = replace(STARTED, source_ves=(big,))
    ahead = plan.make(REQUEST, started).forecast
    dumped = plan.make(replace(REQUEST, policy=Policy(memory=MemoryMethod.DUMP)), started).forecast
    assert dumped.blackout_s > 10 * ahead.blackout_s
    assert dumped.blackout_s > 10**9 / REQUEST.link_bytes_per_s
