"""The rule of one running copy, in thousands of worlds in which everything goes wrong."""

import pytest

from migrator.cli.simulate import in_words
from migrator.core.phases import Phase
from migrator.sim.faults import Kind
from migrator.sim.runs import Outcome, play, play_plan
from migrator.sim.search import WAYS, Way, every_pair, every_single, failing_acts, steps_of
from migrator.sim.tally import tally

pytestmark = pytest.mark.slow
SEEDS = 10_000
MOVING = (WAYS[0], WAYS[1])


def no_breach(outcomes: list[Outcome], way: Way | None = None) -> None:
    """Fails with the line that repeats the first breach."""
    broken = [each for each in outcomes if each.breach is not None]
    again = f"or: play_plan({broken[0].plan!r}, {way.setup!r}, {broken[0].seed})" if broken and way else ""
    assert not broken, f"{len(broken)} of {len(outcomes)}\n{in_words(broken[0])}\n{again}"


def test_no_seed_breaks_the_rule() -> None:
    """Ten thousand random runs: never two running, nothing lost, nothing left over, every one ends; and all is reached."""
    found = tally(range(SEEDS), breaches_max=5)

    no_breach(found.breaches)
    assert found.runs == SEEDS
    assert found.never == []
    for order in ("Adopt", "TakeBack", "Settle", "Retire", "Release"):
        assert found.orders[order], f"no run sent {order}"
    assert found.ends["done"] > SEEDS / 4
    assert found.ends["undone"] > SEEDS / 20


def test_a_seed_repeats_itself() -> None:
    """A seed gives the same run, step by step."""
    for seed in range(20):
        assert play(seed, trace=True).trace == play(seed, trace=True).trace


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_every_fault_at_every_step(way: Way) -> None:
    """Nothing that can go wrong once, at whatever step, breaks a promise."""
    outcomes = list(every_single(way, 12.0))

    assert len(outcomes) == steps_of(way) * len(Kind)
    no_breach(outcomes, way)


@pytest.mark.parametrize("way", MOVING, ids=lambda way: way.name)
def test_every_failing_act_and_a_crash_after_it(way: Way) -> None:
    """Every act that fails, in every manner, and then any process or host that dies at any of the next steps."""
    no_breach(list(failing_acts(way)), way)


@pytest.mark.parametrize("way", MOVING, ids=lambda way: way.name)
def test_pairs_of_crashes(way: Way) -> None:
    """Two crashes of any two of controller, agents and hosts: the first at every step, the second at every 11th after it."""
    no_breach(list(every_pair(way, stride=11)), way)


def test_a_good_run_goes_all_the_way() -> None:
    """A search over the steps of a run is worth what that run goes through."""
    for way in MOVING:
        outcome = play_plan(way.first, way.setup)
        assert outcome.breach is None
        assert {Phase.HANDING_OVER, Phase.VERIFYING, Phase.RETIRING, Phase.DONE} <= outcome.phases
        assert outcome.on == "beta"
