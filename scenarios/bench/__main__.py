"""`make bench`: our migration against peers, and how our blackout grows.

Rule: this is a program, not a test: it ends with 0 when it measured, whatever the figures are, and with 1 when our own way
could not be measured at all. All figures are in build/bench.json, also those of a bench that was interrupted.
"""

import json
import math
import os
import platform
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
from rich.console import Console

from scenarios.bench import chart, series, tables, ways
from scenarios.bench.measuring import Run
from scenarios.bench.port import Way
from scenarios.bench.series import AXES
from scenarios.bench.stage import Stage
from scenarios.bench.summary import Line, lines, verdict
from scenarios.bench.workload import BenchError, Workload, compile_program

PARTS = ("compare", "growth", "slowdown")


@dataclass(slots=True)
class Bench:
    """What one bench has measured so far."""

    workload: Workload
    chosen: tuple[Way, ...]
    directory: Path
    console: Console
    runs: list[Run] = field(default_factory=list)
    growth: dict[str, dict[int, list[Run]]] = field(default_factory=dict)
    slowdown: list[Run] = field(default_factory=list)
    began_s: float = field(default_factory=time.time)

    def add(self, run: Run) -> None:
        """A run of the comparison."""
        self.runs.append(run)
        self._told(run, "")

    def add_growth(self, axis: str, value: int, run: Run) -> None:
        """A run along an axis."""
        self.growth.setdefault(axis, {}).setdefault(value, []).append(run)
        self._told(run, f" {axis} {value:,}")

    def add_slowdown(self, run: Run) -> None:
        """A run with a VE that also works flat out."""
        self.slowdown.append(run)
        self._told(run, " busy")

    def _told(self, run: Run, what: str) -> None:
        figures = f"blackout {run.blackout_ms:,.0f} ms, total {run.total_s:.1f} s, {run.wire_bytes / 1e6:,.0f} MB"
        said = f"FAILED: {run.failure}" if run.failure else figures
        stamp = f"[{time.time() - self.began_s:5.0f} s]"
        self.console.print(
            f"{stamp} {run.way} {run.start}{what} #{run.number}: {said}", markup=False, highlight=False, soft_wrap=True
        )
        self.save()

    @property
    def verdict(self) -> str:
        """The last line."""
        return verdict(self.lines)

    @property
    def lines(self) -> list[Line]:
        """A line for each way and start."""
        return lines(self.runs, [way.name for way in self.chosen if way.peer])

    def save(self) -> None:
        """All figures, whole or not at all."""
        data = {
            "machine": machine(),
            "workload": asdict(self.workload),
            "took_s": time.time() - self.began_s,
            "verdict": self.verdict,
            "lines": [asdict(each) for each in self.lines],
            "runs": [asdict(each) for each in self.runs],
            "growth": {
                axis: {str(value): [asdict(run) for run in runs] for value, runs in points.items()}
                for axis, points in self.growth.items()
            },
            "slowdown": tables.slowdown_figures(self.slowdown),
            "slowdown_runs": [asdict(each) for each in self.slowdown],
        }
        fresh = self.directory / "bench.json.new"
        fresh.write_text(json.dumps(_without_nan(data), indent=1) + "\n")
        fresh.rename(self.directory / "bench.json")

    def show(self) -> None:
        """Tables, chart, verdict."""
        if self.runs:
            tables.comparison(self.console, self.lines)
        units = {axis.name: axis.unit for axis in AXES}
        for axis, points in self.growth.items():
            tables.growth(self.console, axis, units[axis], points)
        if self.slowdown:
            tables.slowdown(self.console, self.slowdown)
        self.console.print(
            f"all figures: {self.directory / 'bench.json'}; {self._drawn()}", markup=False, soft_wrap=True
        )
        if self.runs:
            self.console.print(self.verdict, markup=False, soft_wrap=True)

    def _drawn(self) -> str:
        path = self.directory / "bench.svg"
        try:
            chart.draw(path, self.lines, self.growth, f"{self.workload.words}; 1 Gbit/s; {machine()['kernel']}")
        except ImportError:
            return "no chart: matplotlib is not installed (make bench installs it)"
        return f"chart: {path}"


def machine() -> dict[str, object]:
    """Where it ran."""
    return {"kernel": platform.release(), "processors": os.cpu_count(), "load_1min": os.getloadavg()[0]}


def _without_nan(value: object) -> object:
    """JSON has no NaN: what was not measured is null."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


@click.command()
@click.option("--runs", type=click.IntRange(1), default=5, show_default=True, help="Of each way from each start.")
@click.option(
    "--ways",
    "names",
    default=",".join(ways.USUAL),
    show_default=True,
    help=f"Comma between; there are {', '.join(way.name for way in ways.WAYS)}.",
)
@click.option("--parts", default=",".join(PARTS), show_default=True, help="What to measure.")
@click.option("--full", is_flag=True, help="Long growth series, three runs of each point.")
@click.option("--lab", "lab_name", default="bench", show_default=True, help="Name of the lab it makes and removes.")
@click.option("--rate", default="1gbit", show_default=True, help="Of each host's line, as tc writes it.")
@click.option("--memory", "memory_mib", type=click.IntRange(1), default=512, show_default=True, help="MiB.")
@click.option("--dirty", "dirty_mb_s", type=click.FloatRange(0), default=20, show_default=True, help="MB/s.")
@click.option("--files", type=click.IntRange(0), default=4000, show_default=True)
@click.option("--files-mb", type=click.IntRange(0), default=221, show_default=True, help="In all of them.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("build"), show_default=True, help="Directory.")
def main(
    runs: int, names: str, parts: str, full: bool, lab_name: str, rate: str, memory_mib: int, dirty_mb_s: float,
    files: int, files_mb: int, out: Path,
) -> None:  # fmt: skip
    """Compare our migration with peers on two hosts made on this machine; needs root."""
    if os.geteuid() != 0:
        raise click.ClickException("the bench makes namespaces and mounts: run it as root")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the lab is taken down on this signal as well
    try:
        chosen, wanted = ways.named(names.split(",")), _parts(parts)
        bench = Bench(
            Workload(memory_mib, dirty_mb_s, files=files, files_mb=files_mb),
            chosen,
            out,
            Console(width=None if sys.stdout.isatty() else 120),
        )
        program = compile_program(out / "bench")
        packages = sorted({package for way in chosen for package in way.packages})
        with Stage.up(lab_name, program, packages, rate) as stage:
            measure_parts(bench, stage, wanted, runs, full=full)
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    bench.show()
    sys.exit(0 if any(not run.failure for run in _ours(bench)) else 1)


def measure_parts(bench: Bench, stage: Stage, wanted: tuple[str, ...], runs: int, *, full: bool) -> None:
    """Everything that was asked for, the comparison first."""
    ours = next((way for way in bench.chosen if not way.peer), None)
    if "compare" in wanted:
        series.compare(stage, bench.chosen, bench.workload, runs, bench.add)
    if ours is None:
        return
    if "slowdown" in wanted:
        series.slow_down(stage, ours, min(runs, 3), bench.add_slowdown)
    if "growth" in wanted:
        for axis in AXES:
            series.grow(stage, ours, axis, min(runs, 3) if full else 1, bench.add_growth, full=full)


def _parts(text: str) -> tuple[str, ...]:
    wanted = tuple(text.split(","))
    if unknown := sorted(set(wanted) - set(PARTS)):
        raise BenchError(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return wanted


def _ours(bench: Bench) -> list[Run]:
    names = {way.name for way in bench.chosen if not way.peer}
    grown = [run for points in bench.growth.values() for runs in points.values() for run in runs]
    return [run for run in (*bench.runs, *bench.slowdown, *grown) if run.way in names or not names]


if __name__ == "__main__":
    main()
