"""The recovery table has an answer for everything, and no answer makes two copies or none."""

import itertools

import pytest

from migrator.core.phases import ENDED, TABLE, Phase
from migrator.core.recovery import Action, decide
from migrator.wire.facts import Claim

PAIRS = list(itertools.product([*Claim, None], repeat=2))


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_every_combination_has_an_answer(source: Claim | None, target: Claim | None) -> None:
    """Whatever the two hosts say, there is one action."""
    assert isinstance(decide(source, target), Action)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_undo_only_where_the_target_cannot_run_it(source: Claim | None, target: Claim | None) -> None:
    """The VE is started again at the source only if it was never given away."""
    if decide(source, target) is Action.UNDO:
        assert source in (Claim.HOME, Claim.LEAVING)
        assert target is not Claim.OWNER


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_forward_only_where_the_target_owns_it(source: Claim | None, target: Claim | None) -> None:
    """The source's copy is given up only on the target's word, or after the source had it."""
    if decide(source, target) is Action.FORWARD:
        assert target is Claim.OWNER or source is Claim.GONE


def test_every_phase_is_a_row_or_an_end() -> None:
    """A phase without a row is an end, and every way leads to an end."""
    assert set(TABLE) | ENDED == set(Phase)
    reached = {Phase.INSPECTING}
    for _ in Phase:
        reached |= {after for phase in reached - ENDED for after in TABLE[phase].after}
    assert reached == set(Phase)
