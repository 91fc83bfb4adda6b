"""Our way, with the program of this checkout, as an operator would use it."""

import json
from dataclasses import dataclass
from typing import Any

from scenarios.bench.port import Moved, Start, first_pid, scrub
from scenarios.bench.stage import Stage
from scenarios.bench.workload import Workload
from scenarios.lab.hosts import Host

DEADLINE_S = 120
"""The hosts undo a blackout after so long. The default, 10 s, is shorter than a VE of 4 GiB without pre-copy takes."""


@dataclass(frozen=True, slots=True)
class Ours:
    """`migrator migrate`."""

    name: str
    options: tuple[str, ...] = ()
    """For `migrator migrate`."""
    runtime: str = "crun"
    peer: bool = False
    packages: tuple[str, ...] = ()
    starts: tuple[Start, ...] = (Start.COLD,)
    """It copies the files by itself before the freeze; a target that already has the bundle is refused."""

    def place(self, stage: Stage, ve: str, workload: Workload) -> None:
        """By `migrator ve start`."""
        stage.make_bundle(ve, workload, self.runtime)
        stage.migrator("ve", "start", ve)

    def warm(self, stage: Stage, ve: str) -> None:
        """Never asked for."""
        raise ValueError(f"{self.name} starts cold")

    def move(self, stage: Stage, ve: str) -> Moved:
        """`migrator migrate`, and what its report says."""
        words = ["migrate", ve, stage.target.name, "--json", "--deadline", str(DEADLINE_S), *self.options]
        return read(json.loads(stage.migrator(*words)))

    def pid(self, host: Host, ve: str) -> int:
        """By its cgroup."""
        return first_pid(host, ve)

    def remove(self, stage: Stage, ve: str) -> None:
        """As every bundle."""
        scrub(stage, ve)


def read(report: dict[str, Any]) -> Moved:
    """What the bench shows of migrator's own report."""
    blackout = report["blackout"] or {}
    return Moved(
        blackout.get("parts_ms", {}),
        blackout.get("blackout_ms"),
        report["predicted_blackout_ms"],
        report["memory_method"],
        len(report["rounds"]),
        report,
    )
