"""One run: a migration, a moment, a fault, the world put right, the operator, and the judge.

Rule: a run leaves the site in order or says so; whoever runs many makes a fresh site after one that did not.
"""

import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scenarios.faults import eyes
from scenarios.faults.faults import FAULTS, Fault
from scenarios.faults.judge import Verdict, judge
from scenarios.faults.moments import MOMENTS, lateness_s
from scenarios.faults.scene import QUIET_LIMIT_S, SERVED_LIMIT_S, Scene, agents_answer
from scenarios.faults.site import Site

FILL_BYTES = 6 << 20
MOMENT_LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Trial:
    """What is to be done; the same trial of the same seed does the same."""

    fault: str
    moment: str
    seed: int
    again: int = 0
    """How many of the same pair came before it in the same series."""
    engine: str = "oci"

    @property
    def name(self) -> str:
        """For `ONLY=`."""
        return f"{self.fault}@{self.moment}" + (f"#{self.again}" if self.again else "")

    @property
    def persistent(self) -> bool:
        """Whether the VE's service has to write to its disk before it acknowledges."""
        return bool(FAULTS[self.fault].crashes)

    @property
    def repeat(self) -> str:
        """The line that repeats it."""
        engine = "" if self.engine == "oci" else f" ENGINE={self.engine}"
        return f'make faults SEED={self.seed}{engine} ONLY="{self.name}"'


@dataclass(slots=True)
class Result:
    """What came of it."""

    trial: Trial
    reached: bool = False
    """Whether the moment came, so that the fault was done."""
    ended: str = ""
    took_s: float = 0.0
    verdict: Verdict = field(default_factory=Verdict)
    evidence: Path | None = None
    said: dict[str, list[str]] = field(default_factory=dict)
    """Side -> what its agent logged, in order."""


def run(site: Site, trial: Trial, evidence: Path) -> Result:
    """Carry it out. Raises only for what keeps a run from beginning."""
    fault, result, began_s = FAULTS[trial.fault], Result(trial), time.monotonic()
    if site.persistent is not trial.persistent:
        site.deploy("alpha", persistent=trial.persistent)
    scene = Scene(site, FILL_BYTES)
    told: dict[str, Any] = {}
    try:
        result.reached = _act(scene, trial, fault)
        told = _settle(scene, fault)
        result.verdict = judge(scene, fault, told)
    except Exception as error:  # a run that cannot be judged is a breach, not the end of the series
        result.verdict.breaches.append(f"the run broke down: {type(error).__name__}: {error}")
    finally:
        result.verdict.breaches[:0] = scene.complaints
        result.said = {side: [str(line["event"]) for line in log.lines] for side, log in scene.logs.items()}
        result.ended, result.took_s = scene.ended(), time.monotonic() - began_s
        if result.verdict.breaches:
            result.evidence = evidence / trial.name.replace("/", "-").replace(" ", "-")
            told.pop("beat_times", None)
            scene.keep_evidence(result.evidence, result.verdict.breaches, told)
        scene.close()
    return result


def _act(scene: Scene, trial: Trial, fault: Fault) -> bool:
    """Wait for the moment, and break what is to be broken. Returns whether the moment came."""
    moment = MOMENTS[trial.moment]
    chance = random.Random(f"{trial.seed} {trial.name}")
    seen = moment.watch(scene.view)
    came = eyes.wait_for(lambda: seen() or scene.controller.ended, MOMENT_LIMIT_S) and not scene.controller.ended
    if not came:
        return False
    time.sleep(lateness_s(moment, chance))
    fault.do(scene)
    time.sleep(fault.lasts_s)
    if fault.undo is not None:
        fault.undo(scene)
    return True


def _settle(scene: Scene, fault: Fault) -> dict[str, Any]:
    """What hosts and operator do afterwards; the client's account."""
    limit_s = fault.dark_limit_s + scene.site.form.slack_s
    if fault.dark_limit_s and not scene.runs_again(limit_s):
        scene.complaints.append(f"{limit_s:g} s after the fault the hosts had not brought the VE back")
    scene.wait_for_controller()
    agents_answer(scene.site)
    if not scene.recover_until_quiet():
        scene.complaints.append(f"{QUIET_LIMIT_S:g} s of recovering did not bring the migration to its end")
    if not scene.served():
        scene.complaints.append(
            f"the client was not served when {SERVED_LIMIT_S:g} s and its TCP's own pause were over after all was settled"
        )
    told = scene.client.stop()
    scene.sampler.close()
    for log in scene.logs.values():
        log.read()
    return told
