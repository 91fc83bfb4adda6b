"""Runs written down as TOML: a setup, what goes wrong when, the bug that is planted if there is one, and what is expected.

title = "..."            the promise, in a sentence
bug = "name"             of `migrator.sim.bugs`; the run must break one of `breaks`
breaks = ["two running"]
seeds = 400              without faults: random runs, until one breaks it; with faults: what they leave open
ends = ["done"]          without a bug: how it may end
on = "beta"              and where the VE must be then
[setup]                  as `migrator.sim.world.Setup`
[[fault]]                as `migrator.sim.faults.Fault`
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migrator.sim import checks
from migrator.sim.bugs import BUGS, planted
from migrator.sim.faults import Fault, Kind
from migrator.sim.runs import Outcome, play, play_plan
from migrator.sim.world import Setup
from migrator.wire.facts import Mode, VeState


@dataclass(frozen=True, slots=True)
class Scenario:
    """One file."""

    name: str
    title: str
    seeds: int
    setup: Setup
    plan: tuple[Fault, ...]
    bug: str = ""
    breaks: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    on: str = ""

    def play(self, seed: int) -> Outcome:
        """One run of it."""
        return play_plan(self.plan, self.setup, seed) if self.plan else play(seed)

    def caught(self) -> Outcome | None:
        """The first run in which its bug breaks what it is said to break; None if there is none."""
        with planted(self.bug):
            outcomes = (self.play(seed) for seed in range(self.seeds))
            return next((each for each in outcomes if each.breach and each.breach.name in self.breaks), None)


def read(path: Path) -> Scenario:
    """Raises ValueError for what cannot be meant."""
    plain = tomllib.loads(path.read_text())
    plan = tuple(_fault(each) for each in plain.pop("fault", ()))
    setup = _setup(plain.pop("setup", {}))
    scenario = Scenario(
        name=path.stem,
        title=plain.pop("title"),
        seeds=plain.pop("seeds", 1),
        setup=setup,
        plan=plan,
        bug=plain.pop("bug", ""),
        breaks=tuple(plain.pop("breaks", ())),
        ends=tuple(plain.pop("ends", ())),
        on=plain.pop("on", ""),
    )
    unknown = [*plain, *(each for each in scenario.breaks if each not in checks.ALL)]
    if scenario.bug and scenario.bug not in BUGS:
        unknown.append(scenario.bug)
    if unknown:
        raise ValueError(f"{path}: not known: {', '.join(unknown)}")
    return scenario


def _fault(plain: dict[str, Any]) -> Fault:
    return Fault(Kind(plain.pop("kind")), **plain)


def _setup(plain: dict[str, Any]) -> Setup:
    if "mode" in plain:
        plain["mode"] = Mode(plain["mode"])
    if "rest" in plain:
        plain["rest"] = VeState(plain["rest"])
    return Setup(**plain)
