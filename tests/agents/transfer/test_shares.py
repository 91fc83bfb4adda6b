"""Files and memory of one migration share one budget of bandwidth."""

import pytest

from agents.transfer.shares import Shares

BUDGET = 10_000_000


def test_no_budget_no_limit() -> None:
    """For neither, whatever files take."""
    shares = Shares(0, beside_memory=True)
    shares.files_take(5e6)

    assert (shares.files_bytes_per_s, shares.memory_bytes_per_s) == (0, 0)


def test_files_alone_have_all_of_it() -> None:
    """Where no memory moves ahead nothing is kept for it."""
    assert Shares(BUDGET, beside_memory=False).files_bytes_per_s == BUDGET


@pytest.mark.parametrize(("taken", "left"), [(0.0, 10e6), (1e6, 9e6), (5e6, 5e6), (9e6, 5e6)])
def test_memory_takes_what_files_leave(taken: float, left: float) -> None:
    """Never less than half, and never more than the budget together with what files are limited to."""
    shares = Shares(BUDGET, beside_memory=True)
    assert shares.files_bytes_per_s + shares.memory_bytes_per_s == BUDGET
    shares.files_take(taken)

    assert shares.memory_bytes_per_s == left
