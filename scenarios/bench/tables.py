"""The tables that a bench prints.

Rule: a figure that was not measured is a dash, never a zero.
"""

import math
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from scenarios.bench.measuring import Run
from scenarios.bench.summary import Line, line, slowdown_percent


def comparison(console: Console, lines: Sequence[Line]) -> None:
    """All ways beside each other; ratios are to the first of ours."""
    base = next((each for each in lines if not each.peer), None)
    console.print(_times(lines, base), _costs(lines))
    for each in lines:
        if each.parts_ms:
            parts = ", ".join(f"{name} {took:.0f}" for name, took in each.parts_ms.items())
            method = f" [memory: {each.memory_method}]" if each.memory_method else ""
            console.print(f"{each.way} {each.start}{method}, ms: {parts}", markup=False, soft_wrap=True)
    for each in lines:
        for failure in each.failures:
            console.print(f"{each.way} {each.start} FAILED: {failure}", markup=False, soft_wrap=True)


def _times(lines: Sequence[Line], base: Line | None) -> Table:
    table = _table("how long (median; the worst run in brackets)", "way", "start", "runs", "blackout ms")
    for heading in ("/ ours", "mover says", "next stall", "before", "total s"):
        table.add_column(heading, justify="right")
    for each in lines:
        table.add_row(
            each.way,
            each.start,
            f"{each.runs - len(each.failures)}/{each.runs}",
            with_worst(each.blackout_ms, each.blackout_max_ms),
            number(each.blackout_ms / base.blackout_ms if base is not None else math.nan, 2),
            "-" if each.agents_ms is None else number(each.agents_ms),
            number(each.next_stall_ms),
            number(each.noise_ms),
            with_worst(each.total_s, each.total_max_s, 1),
        )
    return table


def _costs(lines: Sequence[Line]) -> Table:
    table = _table("what it costs (medians; the VE included)", "way", "start", "wire MB", "/ data")
    for heading in ("CPU s source", "target", "peak MiB source", "target"):
        table.add_column(heading, justify="right")
    for each in lines:
        table.add_row(
            each.way,
            each.start,
            number(each.wire_mb),
            number(each.wire_ratio, 2),
            number(each.source_cpu_s, 1),
            number(each.target_cpu_s, 1),
            number(each.source_peak_mib),
            number(each.target_peak_mib),
        )
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column(first, no_wrap=True)
    for heading in others:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def growth(console: Console, axis: str, unit: str, points: Mapping[int, Sequence[Run]]) -> None:
    """One axis: the blackout against it."""
    base = line(next(iter(points.values())), peer=False)
    table = _table(f"growth of our blackout with {axis}", unit, "runs", "blackout ms", "/ first", "agents say ms")
    for heading in ("last file pass ms", "total s", "wire / data"):
        table.add_column(heading, justify="right")
    for value, runs in points.items():
        each = line(runs, peer=False)
        table.add_row(
            f"{value:,}",
            f"{each.runs - len(each.failures)}/{each.runs}",
            with_worst(each.blackout_ms, each.blackout_max_ms),
            number(each.blackout_ms / base.blackout_ms, 2),
            "-" if each.agents_ms is None else number(each.agents_ms),
            number(each.parts_ms.get("last file pass", math.nan)),
            number(each.total_s, 1),
            number(each.wire_ratio, 2),
        )
    console.print(table)
    for value, runs in points.items():
        for run in runs:
            if run.failure:
                console.print(f"{axis} {value:,} FAILED: {run.failure}", markup=False, soft_wrap=True)


def slowdown(console: Console, runs: Sequence[Run]) -> None:
    """What the VE's own work lost while it was copied."""
    figures = slowdown_figures(runs)
    console.print(
        f"slowdown of the VE's own work during pre-copy: {number(figures['wall_percent'], 1)} % by the wall clock "
        f"(source, target and line share this machine's processors), {number(figures['cpu_percent'], 1)} % per second of "
        f"its own processor time, {number(figures['pages_percent'], 1)} % of its paced writes",
        soft_wrap=True,
    )
    for run in runs:
        if run.failure:
            console.print(f"slowdown run {run.number} FAILED: {run.failure}", markup=False, soft_wrap=True)


def slowdown_figures(runs: Sequence[Run]) -> dict[str, float]:
    """The same as numbers."""
    return {
        "wall_percent": slowdown_percent(runs, lambda run: (run.before.units_per_s, run.during.units_per_s)),
        "cpu_percent": slowdown_percent(runs, lambda run: (run.before.units_per_cpu_s, run.during.units_per_cpu_s)),
        "pages_percent": slowdown_percent(runs, lambda run: (run.before.pages_per_s, run.during.pages_per_s)),
    }


def number(value: float, digits: int = 0) -> str:
    """A figure for a table; NaN is a dash."""
    return f"{value:,.{digits}f}" if not math.isnan(value) else "-"


def with_worst(middle: float, worst: float, digits: int = 0) -> str:
    """A median with the worst of its runs."""
    return "-" if math.isnan(middle) else f"{number(middle, digits)} ({number(worst, digits)})"
