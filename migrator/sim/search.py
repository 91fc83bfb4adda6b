"""Searches that leave nothing out: every fault at every step, and pairs of those that decide something together.

Rule: a search says how many runs it made; what it does not cover is said where it is called.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from migrator.sim.faults import ACTS, CRASHES, OF_ACTS, Fault, Kind
from migrator.sim.hosts import STOPPED
from migrator.sim.runs import Outcome, play_plan
from migrator.sim.world import Setup
from migrator.wire.facts import Mode

PLAIN = Setup(eager=0.9)
FALL_BACK = (Fault(Kind.ACT_FAILS, mark="alpha: do dump"),)
"""Makes a live migration go on as stop-copy."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way in which a VE moves."""

    name: str
    setup: Setup
    first: tuple[Fault, ...] = ()


WAYS = (
    Way("live", Setup(mode=Mode.LIVE, eager=0.9)),
    Way("post-copy", Setup(mode=Mode.LIVE, eager=0.9, post_copy=True)),
    Way("stop-copy", Setup(mode=Mode.STOP_COPY, eager=0.9)),
    Way("resting", Setup(rest=STOPPED, eager=0.9)),
    Way("fall-back", PLAIN, FALL_BACK),
)


def steps_of(way: Way) -> int:
    """How many steps it takes when nothing else goes wrong; the checks after the end not counted."""
    outcome = play_plan(way.first, way.setup)
    assert outcome.breach is None
    return outcome.steps_to_end


def every_single(way: Way, seconds: float, seed: int = 0) -> Iterator[Outcome]:
    """Every kind of fault at every step."""
    for step in range(1, steps_of(way) + 1):
        for kind in Kind:
            yield play_plan((*way.first, Fault(kind, step, seconds=seconds)), way.setup, seed)


def every_pair(
    way: Way,
    firsts: tuple[Kind, ...] = CRASHES,
    seconds: tuple[Kind, ...] = CRASHES,
    stride: int = 1,
    lasts_s: float = 3.0,
) -> Iterator[Outcome]:
    """Every two of these kinds, at every step and every `stride`-th step after it."""
    steps = steps_of(way)
    for step in range(1, steps + 1):
        for one in firsts:
            for after in range(1 + step % stride, steps - step + 2, stride):
                for other in seconds:
                    plan = (*way.first, Fault(one, step, seconds=lasts_s), Fault(other, after=after, seconds=lasts_s))
                    yield play_plan(plan, way.setup, step)


def failing_acts(way: Way, within: int = 40) -> Iterator[Outcome]:
    """Every act failing in every manner, and beside it every crash at each of the steps that follow."""
    for mark in ACTS:
        for kind in sorted(OF_ACTS):
            failing = Fault(kind, mark=mark)
            yield play_plan((*way.first, failing), way.setup)
            for after in range(1, within):
                for crash in CRASHES:
                    yield play_plan((*way.first, failing, Fault(crash, after=after, seconds=3.0)), way.setup, after)
