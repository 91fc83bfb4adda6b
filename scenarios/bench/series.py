"""Which runs a bench makes, and in which order.

Rule: ways are interleaved (A B C, A B C, ...), so that what else the machine does at the time meets all of them alike.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scenarios.bench.measuring import Run, measure
from scenarios.bench.port import Start, Way
from scenarios.bench.stage import Stage
from scenarios.bench.workload import Workload

Told = Callable[[Run], None]


@dataclass(frozen=True, slots=True)
class Axis:
    """One property of the workload and the values it takes while the others stay."""

    name: str
    unit: str
    """What the values count, as a heading."""
    base: Workload
    short: tuple[int, ...]
    full: tuple[int, ...]

    def workloads(self, *, full: bool) -> Iterator[tuple[int, Workload]]:
        """Each value with its workload."""
        for value in self.full if full else self.short:
            changed: dict[str, Any] = {self.name: value}
            yield value, replace(self.base, **changed)


PLAIN = Workload()
SMALL = Workload(memory_mib=64, files=1000, files_mb=55)
AXES = (
    Axis("memory_mib", "MiB of memory", PLAIN, (64, 512, 2048), (64, 128, 256, 512, 1024, 2048, 4096)),
    Axis("dirty_mb_s", "MB/s rewritten", PLAIN, (0, 20, 100), (0, 10, 20, 50, 100, 200)),
    Axis(
        "files",
        "files",
        replace(SMALL, files_mb=221, hot_files=500),
        (1000, 20_000),
        (1000, 4000, 20_000, 50_000, 200_000),
    ),
    Axis("processes", "processes", SMALL, (1, 20, 50), (1, 10, 20, 50, 100, 200)),
)
"""For each figure that may grow. `files`: the same bytes in more and more files, 500 of them changed each second."""


def compare(stage: Stage, ways: Sequence[Way], workload: Workload, runs: int, told: Told) -> None:
    """Every way from every start it has, `runs` times."""
    for number in range(1, runs + 1):
        for way in ways:
            for start in way.starts:
                told(measure(stage, way, start, workload, number))


def grow(stage: Stage, way: Way, axis: Axis, runs: int, told: Callable[[str, int, Run], None], *, full: bool) -> None:
    """One way along one axis."""
    for number in range(1, runs + 1):
        for value, workload in axis.workloads(full=full):
            told(axis.name, value, measure(stage, way, Start.COLD, workload, number))


def slow_down(stage: Stage, way: Way, runs: int, told: Told) -> None:
    """One way with a VE that also works flat out."""
    for number in range(1, runs + 1):
        told(measure(stage, way, Start.COLD, replace(PLAIN, busy=True), number))
