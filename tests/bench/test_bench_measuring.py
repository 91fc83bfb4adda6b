"""A run that fails is a result."""

from typing import cast

from scenarios.bench.measuring import measure
from scenarios.bench.ours import Ours
from scenarios.bench.port import Start
from scenarios.bench.stage import Stage
from scenarios.bench.workload import BenchError, Workload


class Broken:
    """A stage on which no VE starts."""

    renewed = 0

    def new_id(self) -> str:
        """As ever."""
        return "ve"

    def make_bundle(self, *_: object) -> None:
        """Not today."""
        raise BenchError("no space left")

    def renew(self) -> None:
        """Counts."""
        self.renewed += 1


def test_a_way_that_fails_gives_its_reason_and_a_fresh_lab_to_the_next() -> None:
    """The bench goes on: nothing is raised, the reason is kept, and the next run does not find the ruins of this one."""
    stage = Broken()

    run = measure(cast(Stage, stage), Ours("migrator"), Start.COLD, Workload(), 3)

    assert (run.way, run.number, run.failure) == ("migrator", 3, "no space left")
    assert stage.renewed == 1
