"""The moments of a migration at which things are broken: each step boundary, and any time at all.

Rule: a moment is found out from outside, by what the controller prints, what an agent logs when it has decided (and before
it acts), what is on disk, or which tool has appeared; nothing in the product knows of it.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from migrator.cli.progress import WORDS
from migrator.core.phases import Phase
from scenarios.faults import eyes
from scenarios.faults.eyes import AgentLog, Running
from scenarios.lab.hosts import Host

MOVE_S = 2.6
"""About how long a move takes, program start included: the range of the random moments."""

TOOL_WORDS = {
    "ssh-keygen": ("ssh-keygen", ""),
    "rsync": ("rsync", ""),
    "crun checkpoint": ("crun", " checkpoint"),
    "crun restore": ("crun", " restore"),
}
"""A tool's program, and the word by which its work in a move is told from a look at its version."""


@dataclass(slots=True)
class View:
    """What there is to watch."""

    ve: str
    source: Host
    target: Host
    source_log: AgentLog
    target_log: AgentLog
    controller: Running


@dataclass(frozen=True, slots=True)
class Moment:
    """One moment; `watch` makes the condition that is true from then on."""

    name: str
    watch: Callable[[View], Callable[[], bool]]
    late_s: float = 0.0
    """The fault comes up to so much later, by chance."""


def _phase(phase: Phase) -> Moment:
    def watch(view: View) -> Callable[[], bool]:
        return lambda: any(line.endswith(f": {WORDS[phase]}") for line in view.controller.lines)

    return Moment(f"controller {phase}", watch)


def _event(side: str, event: str) -> Moment:
    def watch(view: View) -> Callable[[], bool]:
        log = view.source_log if side == "source" else view.target_log
        return lambda: any(str(line["event"]).startswith(event) for line in log.read())

    return Moment(f"{side} {event}", watch)


def _record(side: str, claim: str) -> Moment:
    def watch(view: View) -> Callable[[], bool]:
        host = view.source if side == "source" else view.target
        before = eyes.record(host, view.ve).get("migration", "")

        def seen() -> bool:
            now = eyes.record(host, view.ve)
            return now.get("claim") == claim and now.get("migration") != before

        return seen

    return Moment(f"{side} wrote {claim}", watch)


def _tool(side: str, tool: str, late_s: float) -> Moment:
    name, word = TOOL_WORDS[tool]

    def watch(view: View) -> Callable[[], bool]:
        host = view.source if side == "source" else view.target
        before = {each.pid for each in eyes.processes(host)}

        def seen() -> bool:
            now = eyes.processes(host)
            return any(each.name == name and word in each.words and each.pid not in before for each in now)

        return seen

    return Moment(f"{side} runs {tool}", watch, late_s)


def _criu(side: str, log: str) -> Moment:
    """CRIU at its work: it is there before, and waits; its log begins with the work."""

    def watch(view: View) -> Callable[[], bool]:
        host = view.source if side == "source" else view.target
        path, before = host.path(eyes.WORK) / view.ve / log, eyes.changed_ns(host.path(eyes.WORK) / view.ve / log)
        return lambda: eyes.changed_ns(path) not in (0, before)

    return Moment(f"{side} runs criu", watch, 0.08)


def _images(side: str) -> Moment:
    """Those that the dump made; what lies there before waits with the runtime."""

    def watch(view: View) -> Callable[[], bool]:
        host = view.source if side == "source" else view.target
        return lambda: any(path.name != eyes.EARLY for path in host.path(eyes.IMAGES).glob("*/*"))

    return Moment(f"{side} has images", watch, 0.15)


def _any() -> Moment:
    return Moment("any time", lambda _: lambda: True, MOVE_S)


MOMENTS = {
    moment.name: moment
    for moment in (
        _phase(Phase.RESERVING),
        _event("source", "ordered Depart"),
        _record("source", "leaving"),
        _tool("source", "ssh-keygen", 0.01),
        _event("source", "did prepare"),
        _event("target", "ordered Reserve"),
        _record("target", "arriving"),
        _event("target", "did accept"),
        _phase(Phase.COPYING),
        _tool("source", "rsync", 0.3),
        _tool("target", "rsync", 0.3),
        _tool("source", "crun checkpoint", 0.1),
        _tool("target", "crun restore", 0.1),
        _phase(Phase.HANDING_OVER),
        _event("source", "ordered HandOver"),
        _event("source", "did freeze"),
        _criu("source", "dump.log"),
        _event("source", "did dump"),
        _images("target"),
        _event("source", "did send"),
        _event("target", "ordered PeerRestore"),
        _criu("target", "restore.log"),
        _event("target", "did hold"),
        _event("source", "peer said PeerHolds"),
        _record("source", "given"),
        _event("target", "ordered PeerGive"),
        _record("target", "owner"),
        _event("target", "did run"),
        _event("source", "peer said PeerRuns"),
        _record("source", "gone"),
        _event("source", "did discard"),
        _phase(Phase.VERIFYING),
        _event("target", "ordered Confirm"),
        _event("target", "did lift"),
        _phase(Phase.RETIRING),
        _event("source", "ordered Retire"),
        _event("source", "did destroy"),
        _any(),
    )
}
ORDER = tuple(MOMENTS)
HELD = ORDER[ORDER.index("target did hold") : ORDER.index("target ordered PeerGive") + 1]
"""The target holds the VE and has perhaps not been told to run it."""
BEFORE_IMAGES = ORDER[: ORDER.index("source did freeze") + 1]


def lateness_s(moment: Moment, chance: random.Random) -> float:
    """How long after the moment the fault comes."""
    return chance.uniform(0.0, moment.late_s)
