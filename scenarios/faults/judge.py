"""What must hold after a run, read off the real hosts and from the client's own account.

Rule: a breach names what was found and where; the judge believes no program of the product.
"""

import time
from dataclasses import dataclass, field
from typing import Any

from scenarios.faults.faults import Fault
from scenarios.faults.heartbeat import Heartbeats, Twice
from scenarios.faults.scene import Scene
from scenarios.faults.site import Seen

CLEAN_LIMIT_S = 20.0
LOOK_AGAIN_S = 0.5
UNDER_WAY = frozenset({"leaving", "given", "arriving"})
THAW_LIMIT_MS = 100.0
MOVES_AWAY = frozenset({"freezing", "dumping", "sending", "restoring"})


@dataclass(slots=True)
class Verdict:
    """What was found."""

    breaches: list[str] = field(default_factory=list)
    dark_s: float = 0.0
    """The longest time in which no copy of the VE ran."""
    thaws_ms: list[float] = field(default_factory=list)
    """From the decision to undo to the thawed VE, by the source's own log, for each undo of a frozen VE."""


def judge(scene: Scene, fault: Fault, told: dict[str, Any]) -> Verdict:
    """Everything that must hold, `told` being the client's account."""
    verdict, form = Verdict(), scene.site.form
    verdict.breaches += _end(scene, fault)
    verdict.breaches += _hosts(scene)
    verdict.breaches += _client(scene, fault, told)
    beats = Heartbeats()
    for start, count, at_unix_s in told.get("beat_times", ()):
        beats.note(f"{start} {count} {at_unix_s:.6f}\n")
    beats.merge(scene.sampler.beats)
    verdict.breaches += [
        f"two copies ran: {each}" for each in beats.contradictions(lambda each: _taken_back(scene, fault, each))
    ]
    verdict.dark_s, began_unix_s = beats.longest_silence(scene.began_unix_s)
    if fault.dark_limit_s and verdict.dark_s > fault.dark_limit_s + form.slack_s:
        since_s = began_unix_s - scene.began_unix_s
        verdict.breaches.append(f"no copy ran for {verdict.dark_s:.1f} s, from {since_s:.1f} s into the run")
    verdict.thaws_ms = thaws_ms(scene.logs["source"].lines)
    late = [each for each in verdict.thaws_ms if each > THAW_LIMIT_MS]
    if late and form.engine == "oci" and "hangs" not in fault.name:
        verdict.breaches.append(f"the source thawed {max(late):.0f} ms after the decision to undo")
    return verdict


def _taken_back(scene: Scene, fault: Fault, beat: Twice) -> bool:
    """Whether one copy of the two had ended, with its host, before the operator's word let the other go on."""
    off_unix_s, fenced_unix_s = scene.off_unix_s.get("target"), scene.fenced_unix_s.get("target")
    if not (fault.loses_what_ran and off_unix_s and fenced_unix_s and scene.logged("target", "ordered PeerGive")):
        return False
    return beat.earlier_unix_s <= off_unix_s <= fenced_unix_s <= beat.later_unix_s


def _end(scene: Scene, fault: Fault) -> list[str]:
    found = [f"migration {each} is unfinished" for each in scene.site.unfinished()]
    ended = scene.ended()
    if scene.migration() and not found and ended not in fault.ends:
        found.append(f"the migration ended as {ended}; allowed are {', '.join(sorted(fault.ends))}")
    if scene.spoiled is False:
        found.append("the image could not be spoiled: the fault did not happen")
    return found


def _hosts(scene: Scene) -> list[str]:
    """One running copy at the right place, and nothing left over; what is still going away is waited for."""
    deadline = time.monotonic() + CLEAN_LIMIT_S
    while True:
        seen = {name: scene.site.look(name) for name in scene.site.hosts}
        found = _copies(scene, seen) + _leftovers(scene, seen)
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(LOOK_AGAIN_S)


def _copies(scene: Scene, seen: dict[str, Seen]) -> list[str]:
    running = [name for name, each in seen.items() if each.runs]
    if len(running) != 1:
        states = "; ".join(f"{name}: {each.copy}" for name, each in seen.items())
        return [f"{len(running)} running copies ({states})"]
    ended = scene.ended()
    meant = scene.target_name if ended == "done" else scene.source_name
    if ended and running[0] != meant:
        return [f"the migration ended as {ended}, but the VE runs on {running[0]}"]
    return []


def _leftovers(scene: Scene, seen: dict[str, Seen]) -> list[str]:
    found = []
    for name, each in seen.items():
        found += scene.site.out_of_order(name, each, home=each.runs)
        claim = each.records.get(scene.site.ve, {}).get("claim", "home")
        found += [f"{name} has too much: record {claim}"] if claim in UNDER_WAY else []
    return found


def _client(scene: Scene, fault: Fault, told: dict[str, Any]) -> list[str]:
    found = []
    missing, acknowledged = told["writes_missing"], told["writes_acknowledged"]
    if not told["readable"]:
        found.append(f"the VE's service does not answer at the end: {told.get('why') or told['errors']}")
    elif missing and not (fault.loses_what_ran and scene.logged("target", "ordered PeerGive")):
        found.append(f"{missing} of {acknowledged} acknowledged writes are lost, the first: {told['first_missing']}")
    restarted = told["starts"] != 1
    if restarted and not fault.crashes and scene.site.form.live:
        found.append(f"the VE was started anew ({told['starts']} starts)")
    if told["connections"] != 1 and not fault.crashes and scene.site.form.live:
        found.append(f"the client's connection broke: {told['errors']}")
    return found


def thaws_ms(lines: list[dict[str, Any]]) -> list[float]:
    """For each undo after the freeze had begun: how long from the decision until the VE was thawed."""
    found, before, decided = [], "", 0.0
    for line in lines:
        stage, event = str(line["stage"]), str(line["event"])
        if event.startswith("agent started"):
            before, decided = "", 0.0
        if stage == "undoing" and before in MOVES_AWAY:
            decided = float(line["at_unix_s"])
        if decided and event == "did thaw":
            found.append(1000 * (float(line["at_unix_s"]) - decided))
            decided = 0.0
        before = stage
    return found
