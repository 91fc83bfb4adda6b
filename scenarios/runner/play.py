"""Plays a scenario from its lab's first boot to its last check, and tells each step as it goes.

Rule: a step that acts and fails ends the scenario, since what follows rests on it; after a check that failed the checks
right behind it are still made. The lab goes down in every case (an error, Ctrl-C, SIGTERM), unless it was to be kept.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from scenarios.runner import doing
from scenarios.runner.doing import Outcome
from scenarios.runner.format import read
from scenarios.runner.stage import Stage
from scenarios.runner.steps import AnyStep, Migrator, Scenario
from scenarios.runner.words import does_what, in_words

HOME = Path(__file__).parent.parent / "lab"
"""Where the scenarios of this checkout are."""
KEPT = "scenario"
"""Name of a lab that is left up."""
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Line:
    """One step as it went."""

    number: int
    say: str
    does: str
    took_s: float
    outcome: Outcome


@dataclass
class Played:
    """A scenario as it went."""

    scenario: Scenario
    lab: str
    lines: list[Line] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether every step was done and went as expected."""
        return len(self.lines) == len(self.scenario.steps) and all(line.outcome.good for line in self.lines)


def catalogue() -> list[Scenario]:
    """The scenarios of this checkout, by name. Raises ScenarioError."""
    return [read(path) for path in sorted(HOME.glob("*.toml"))]


def find(name: str) -> Path:
    """A file, or one of the checkout's by its name; neither: the path as given."""
    path, own = Path(name), HOME / f"{name}.toml"
    return own if not path.exists() and own.exists() else path


def play(scenario: Scenario, tell: Tell, *, keep: bool = False, lab: str = "") -> Played:
    """All of it. Raises KeyboardInterrupt after the lab is down, also for SIGTERM; StageError without a lab."""
    played = Played(scenario, lab or (KEPT if keep else f"s{os.getpid()}"))
    tell(f"{scenario.name}: {scenario.title}")
    tell(f"bringing up a lab of {', '.join(host.name for host in scenario.hosts)} on this machine")
    with _terminable():
        stage = Stage.up(scenario, played.lab)
        try:
            _steps(stage, played, tell)
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would leave half a lab
            stage.close(keep=keep)
            tell(_farewell(stage) if keep else "the lab is taken down")
    return played


def _farewell(stage: Stage) -> str:
    return (
        f"the lab {stage.lab.name} is left up: ssh -F {stage.lab.ssh_config} {stage.lab.hosts[0].name}; "
        f"MIGRATOR_INVENTORY={stage.lab.inventory}; when you are done: make lab-down LAB={stage.lab.name}"
    )


def _steps(stage: Stage, played: Played, tell: Tell) -> None:
    failed = False
    for number, step in enumerate(played.scenario.steps, 1):
        if failed and not step.CHECKS:
            tell("      what follows rests on this, and is not done")
            return
        line = _one(stage, number, step, tell)
        played.lines.append(line)
        failed = failed or not line.outcome.good


def _one(stage: Stage, number: int, step: AnyStep, tell: Tell) -> Line:
    says, does = step.say or stage.filled(in_words(step)), stage.filled(does_what(step))
    tell(f"{number:>4}  {says}")
    for line in does.splitlines():
        tell(f"        {line}")
    began_s = time.monotonic()
    outcome = doing.do(stage, step)
    took_s = time.monotonic() - began_s
    for line in _told(step, outcome, took_s):
        tell(f"      {line}")
    return Line(number, says, does, round(took_s, 3), outcome)


def _told(step: AnyStep, outcome: Outcome, took_s: float) -> list[str]:
    if outcome.good:
        shown = outcome.seen if step.CHECKS or isinstance(step, Migrator) else ()
        return [*(f"  {line}" for line in shown), f"ok ({took_s:.1f} s)"]
    first, *more = outcome.found.splitlines() or [""]
    told = ["FAILED", f"  expected: {outcome.expected}", f"  found:    {first}"]
    return [*told, *(f"            {line}" for line in more)]


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM is Ctrl-C while this lasts, so that the lab goes down."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
