"""PURE. What a person is shown of all runs: medians, worst cases, ratios, and one last line.

Rule: only runs that went well make figures, and how many did not is shown beside them.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from scenarios.bench.measuring import Run
from scenarios.bench.port import Start


@dataclass(frozen=True, slots=True)
class Line:
    """One way from one start. Figures of no run are NaN."""

    way: str
    start: Start
    peer: bool
    runs: int
    failures: tuple[str, ...]
    blackout_ms: float
    blackout_max_ms: float
    next_stall_ms: float
    """The longest other hole in its clock, up to two seconds after the move; 0: none of 20 ms."""
    noise_ms: float
    """The longest hole before the move; 0: none of 5 ms."""
    agents_ms: float | None
    """The blackout as the mover itself says; None: it does not say."""
    total_s: float
    total_max_s: float
    wire_mb: float
    wire_ratio: float
    source_cpu_s: float
    target_cpu_s: float
    source_peak_mib: float
    target_peak_mib: float
    parts_ms: dict[str, float]
    memory_method: str


def lines(runs: Sequence[Run], peers: Iterable[str]) -> list[Line]:
    """A line for each way and start, in the order in which they first ran."""
    grouped: dict[tuple[str, Start], list[Run]] = {}
    for run in runs:
        grouped.setdefault((run.way, run.start), []).append(run)
    named = set(peers)
    return [line(group, peer=way in named) for (way, _), group in grouped.items()]


def line(group: Sequence[Run], *, peer: bool) -> Line:
    """The line of runs of one way from one start."""
    good = [run for run in group if not run.failure]
    first = group[0]
    said = [run.moved.blackout_ms for run in good if run.moved.blackout_ms is not None]
    return Line(
        way=first.way,
        start=first.start,
        peer=peer,
        runs=len(group),
        failures=tuple(run.failure for run in group if run.failure),
        blackout_ms=_median(good, lambda run: run.blackout_ms),
        blackout_max_ms=max((run.blackout_ms for run in good), default=math.nan),
        next_stall_ms=_median(good, lambda run: max(run.stalls_ms, default=0.0)),
        noise_ms=_median(good, lambda run: run.noise_ms),
        agents_ms=median(said) if said else None,
        total_s=_median(good, lambda run: run.total_s),
        total_max_s=max((run.total_s for run in good), default=math.nan),
        wire_mb=_median(good, lambda run: run.wire_bytes / 1e6),
        wire_ratio=_median(good, lambda run: run.wire_ratio),
        source_cpu_s=_median(good, lambda run: run.source.cpu_s if run.source else 0.0),
        target_cpu_s=_median(good, lambda run: run.target.cpu_s if run.target else 0.0),
        source_peak_mib=_median(good, lambda run: run.source.memory_peak_mib if run.source else 0.0),
        target_peak_mib=_median(good, lambda run: run.target.memory_peak_mib if run.target else 0.0),
        parts_ms=parts(good),
        memory_method=next((run.moved.memory_method for run in good), ""),
    )


def parts(good: Sequence[Run]) -> dict[str, float]:
    """The median of each part of the blackout or the move, as the mover names them."""
    names = dict.fromkeys(name for run in good for name in run.moved.parts_ms)
    return {name: median(run.moved.parts_ms.get(name, 0.0) for run in good) for name in names}


def verdict(all_lines: Sequence[Line]) -> str:
    """The last line: the median blackout of our first way, the best peer's median, the ratio."""
    ours = next((line for line in all_lines if not line.peer), None)
    best = min(
        (line for line in all_lines if line.peer and _measured(line)), key=lambda line: line.blackout_ms, default=None
    )
    said = f"our blackout {_ms(ours.blackout_ms)} ({ours.way})" if ours else "our way was not run"
    if best is None:
        return f"{said}; no peer was measured; no ratio"
    other = f"the best peer's {_ms(best.blackout_ms)} ({best.way}, {best.start})"
    if ours is None or not _measured(ours):
        return f"{said}; {other}; no ratio"
    return f"{said}; {other}; ratio {ours.blackout_ms / best.blackout_ms:.3f} (1/{best.blackout_ms / ours.blackout_ms:.1f})"


def slowdown_percent(runs: Sequence[Run], of: Callable[[Run], tuple[float, float]]) -> float:
    """How much less was done during pre-copy than before, in the median run; NaN when nothing was measured."""
    ratios = [during / before for before, during in map(of, runs) if before > 0 and during > 0]
    return 100 * (1 - median(ratios)) if ratios else math.nan


def _median(runs: Sequence[Run], of: Callable[[Run], float]) -> float:
    return median(map(of, runs)) if runs else math.nan


def _measured(line: Line) -> bool:
    return line.blackout_ms > 0  # not so for NaN


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:,.0f} ms" if milliseconds > 0 else "not measured"
