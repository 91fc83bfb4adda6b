"""The outcome of many runs as text: step x fault, what was broken with the line to repeat it, and the last line.

Rule: PURE. A run whose moment never came is counted apart: its fault was not done.
"""

from collections import Counter
from collections.abc import Sequence

from scenarios.faults.faults import FAULTS
from scenarios.faults.moments import ORDER
from scenarios.faults.trial import Result

SHOWN = 8
LEGEND = "cells: runs; !n: n of them with a breach; (n): the moment did not come, so nothing was broken"


def render(results: Sequence[Result]) -> str:
    """All of it."""
    parts = [_grid(results), _faults(results), _figures(results), *(_breach(each) for each in broken(results))]
    return "\n\n".join(part for part in parts if part) + f"\n\n{last_line(results)}"


def broken(results: Sequence[Result]) -> list[Result]:
    """The runs with a breach."""
    return [each for each in results if each.verdict.breaches]


def last_line(results: Sequence[Result]) -> str:
    """`N runs, M breaches`."""
    return f"{len(results)} runs, {len(broken(results))} breaches"


def _grid(results: Sequence[Result]) -> str:
    names = [name for name in FAULTS if any(each.trial.fault == name for each in results)]
    width = max(len(moment) for moment in ORDER)
    head = f"{'step':<{width}} " + " ".join(f"{number:>4}" for number in range(1, len(names) + 1))
    rows = [head]
    for moment in ORDER:
        at = [each for each in results if each.trial.moment == moment]
        if at:
            cells = " ".join(f"{_cell([each for each in at if each.trial.fault == name]):>4}" for name in names)
            rows.append(f"{moment:<{width}} {cells}")
    return "\n".join([*rows, LEGEND])


def _cell(results: Sequence[Result]) -> str:
    bad = len(broken(results))
    missed = sum(not each.reached for each in results)
    if bad:
        return f"!{bad}"
    return f"({missed})" if missed and missed == len(results) else str(len(results)) if results else "."


def _faults(results: Sequence[Result]) -> str:
    rows = [f"{'':>4}  {'fault':<30} {'runs':>4} {'breaches':>8} {'longest dark':>12}  ends"]
    names = [name for name in FAULTS if any(each.trial.fault == name for each in results)]
    for number, name in enumerate(names, 1):
        of = [each for each in results if each.trial.fault == name]
        ends = Counter(each.ended or "not begun" for each in of)
        told = ", ".join(f"{count} {end}" for end, count in ends.most_common())
        dark = max((each.verdict.dark_s for each in of), default=0.0)
        rows.append(f"{number:>4}  {name:<30} {len(of):>4} {len(broken(of)):>8} {dark:>10.1f} s  {told}")
    return "\n".join(rows)


def _figures(results: Sequence[Result]) -> str:
    thaws = sorted(ms for each in results for ms in each.verdict.thaws_ms)
    if not thaws:
        return "no frozen VE was taken back by its source"
    median = thaws[len(thaws) // 2]
    return (
        f"thawed on the source after the decision to undo: {len(thaws)} times, "
        f"median {median:.0f} ms, longest {thaws[-1]:.0f} ms"
    )


def shortened(breaches: Sequence[str]) -> list[str]:
    """The first of them, and how many more there are: one cause often leaves much."""
    more = len(breaches) - SHOWN
    return [*breaches[:SHOWN], *([f"and {more} more"] if more > 0 else [])]


def _breach(result: Result) -> str:
    lines = [f"BREACH in {result.trial.name} (ended as {result.ended or 'nothing'})"]
    lines += [f"  - {each}" for each in shortened(result.verdict.breaches)]
    lines += [f"  evidence: {result.evidence}"] if result.evidence else []
    return "\n".join([*lines, f"  repeat: {result.trial.repeat}"])
