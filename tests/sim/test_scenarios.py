"""The written-down runs: those that must go well, and the planted bugs that must be caught."""

from pathlib import Path

import pytest

from migrator.sim.bugs import BUGS
from migrator.sim.scenarios import read

HERE = Path(__file__).parents[2] / "scenarios"
NEGATIVE = sorted((HERE / "negative").glob("*.toml"))
GOOD = sorted([*(HERE / "fast").glob("*.toml"), *(HERE / "rare").glob("*.toml")])


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_it_ends_as_written(path: Path) -> None:
    """Whatever the plan leaves open, the migration ends as the file says, with the VE where the file says."""
    scenario = read(path)
    for seed in range(scenario.seeds):
        outcome = scenario.play(seed)
        assert outcome.breach is None, f"seed {seed}: {outcome.breach}"
        assert outcome.end in scenario.ends, f"seed {seed}"
        assert outcome.on == scenario.on, f"seed {seed}"


@pytest.mark.parametrize("path", NEGATIVE, ids=lambda path: path.stem)
def test_the_planted_bug_is_caught(path: Path) -> None:
    """Without the rule that the file names, a checker finds the promise broken."""
    scenario = read(path)

    assert scenario.caught() is not None, f"{scenario.bug} breaks none of {scenario.breaks} in {scenario.seeds} runs"


@pytest.mark.parametrize("path", [path for path in NEGATIVE if read(path).plan], ids=lambda path: path.stem)
def test_the_same_run_without_the_bug_is_well(path: Path) -> None:
    """What catches the bug is the bug: the product comes through the same faults."""
    scenario = read(path)
    for seed in range(scenario.seeds):
        assert scenario.play(seed).breach is None, f"seed {seed}"


def test_every_bug_has_its_file() -> None:
    """No bug is planted that nobody looks for."""
    assert {read(path).bug for path in NEGATIVE} == set(BUGS)
