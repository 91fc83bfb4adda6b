"""The chart of a bench: one SVG with the ways beside each other and the blackout's growth.

Rule: matplotlib is asked for by name when a chart is drawn, because only a bench needs it; `make bench` installs it.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from scenarios.bench.measuring import Run
from scenarios.bench.series import AXES
from scenarios.bench.summary import Line, line

UNITS = {axis.name: axis.unit for axis in AXES}
OURS, PEER = "#1f6f4a", "#8a8f98"


def draw(path: Path, lines: Sequence[Line], growth: Mapping[str, Mapping[int, Sequence[Run]]], title: str) -> None:
    """Write the chart. Raises ImportError when matplotlib is not there."""
    figure: Any = import_module("matplotlib.figure").Figure(figsize=(11, 4.2 + 3.2 * ((len(growth) + 1) // 2)))
    rows = 1 + (len(growth) + 1) // 2
    grid = figure.add_gridspec(rows, 2)
    _bars(figure.add_subplot(grid[0, :]), [each for each in lines if each.blackout_ms > 0])
    for at, (name, points) in enumerate(growth.items()):
        _curve(figure.add_subplot(grid[1 + at // 2, at % 2]), UNITS[name], points)
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    figure.savefig(path)


def _bars(axes: Any, lines: Sequence[Line]) -> None:
    names = [f"{each.way} ({each.start})" for each in lines]
    medians = [each.blackout_ms for each in lines]
    above = [each.blackout_max_ms - each.blackout_ms for each in lines]
    colours = [PEER if each.peer else OURS for each in lines]
    bars = axes.barh(names, medians, xerr=[[0.0] * len(lines), above], color=colours, capsize=3)
    axes.bar_label(bars, labels=[f" {median:,.0f} ms" for median in medians], label_type="center", color="white")
    axes.invert_yaxis()
    axes.set_xlabel("blackout as the VE saw it, ms (median; the whisker ends at the worst run)")


def _curve(axes: Any, unit: str, points: Mapping[int, Sequence[Run]]) -> None:
    drawn = [(value, line(runs, peer=False)) for value, runs in points.items()]
    good = [(value, each) for value, each in drawn if each.blackout_ms > 0]
    values = [value for value, _ in good]
    axes.plot(values, [each.blackout_ms for _, each in good], "o-", color=OURS)
    axes.plot(values, [each.blackout_max_ms for _, each in good], ".", color=PEER)
    if values and min(values) > 0 and max(values) > 20 * min(values):
        axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel(unit)
    axes.set_ylabel("blackout, ms")
