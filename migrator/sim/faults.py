"""What goes wrong in one run, and when: at the n-th step of the world, or when something named happens.

A step is anything that somebody does: an event handled, a command carried out, a message under way. Faults take effect
between two steps, so a plan that puts one at every step leaves no boundary out.
"""

from dataclasses import dataclass
from enum import StrEnum
from random import Random


class Kind(StrEnum):
    """One thing that goes wrong, or that somebody impatient does."""

    LOSE = "lose"
    """The next message is lost; whoever sent it hears of a broken connection after a while."""
    DELAY = "delay"
    """The next message comes late."""
    DOUBLE = "double"
    """The next message comes twice, once late."""
    CUT_PEERS = "cut-peers"
    """The hosts do not reach each other."""
    CUT_SOURCE = "cut-source"
    """Controller and source do not reach each other."""
    CUT_TARGET = "cut-target"
    ISOLATE_SOURCE = "isolate-source"
    """Nobody reaches the source."""
    ISOLATE_TARGET = "isolate-target"
    KILL_CONTROLLER = "kill-controller"
    STALL_CONTROLLER = "stall-controller"
    """It is held up between two of its steps, longer than its lease lasts, and then goes on."""
    KILL_SOURCE_AGENT = "kill-source-agent"
    KILL_TARGET_AGENT = "kill-target-agent"
    DOWN_SOURCE = "down-source"
    """The host goes down with all its processes, and is booted again."""
    DOWN_TARGET = "down-target"
    DEAD_SOURCE = "dead-source"
    """The host goes down and is not booted again until everything that can be done without it is done."""
    DEAD_TARGET = "dead-target"
    ACT_FAILS = "act-fails"
    """The next act of an agent fails without effect."""
    ACT_FAILS_LATE = "act-fails-late"
    """The next act of an agent takes effect and then fails."""
    ACT_SLOW = "act-slow"
    """The next act of an agent outlasts every deadline."""
    ABORT = "abort"
    SECOND_CONTROLLER = "second-controller"
    """The operator runs `recover` while another controller may be at it."""
    FENCE_SOURCE = "fence-source"
    """The operator declares the source off, if it is."""
    FENCE_TARGET = "fence-target"


DEATHS = frozenset({Kind.DEAD_SOURCE, Kind.DEAD_TARGET})
CRASHES = (
    Kind.KILL_CONTROLLER,
    Kind.KILL_SOURCE_AGENT,
    Kind.KILL_TARGET_AGENT,
    Kind.DOWN_SOURCE,
    Kind.DOWN_TARGET,
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a plan."""

    kind: Kind
    step: int = 0
    """Takes effect before this step of the world; 0: by `mark`."""
    mark: str = ""
    """Takes effect when this happens, as `World.marked` names it (`alpha: write given`)."""
    nth: int = 1
    """Of the happenings with that mark."""
    after: int = 0
    """Takes effect so many steps after the fault before it in the plan, instead of by `step` or `mark`."""
    in_s: float = 0.0
    """So much later than that."""
    seconds: float = 5.0
    """How long it lasts, where that means something."""

    def words(self) -> str:
        """For a person."""
        if self.after:
            when = f"{self.after} steps after that"
        elif self.step:
            when = f"at step {self.step}"
        else:
            when = f"at `{self.mark}`" + (f" ({self.nth})" if self.nth > 1 else "")
        later = f" and {self.in_s:g} s" if self.in_s else ""
        return f"{self.kind} {when}{later} for {self.seconds:g} s"


LASTS_S = (0.02, 0.5, 3.0, 12.0, 45.0)
STEPS_MAX = 170
"""About what a migration without faults takes."""
ACTS = (
    "alpha: do prepare",
    "alpha: do copy",
    "alpha: do freeze",
    "alpha: do dump",
    "alpha: do send",
    "alpha: do thaw",
    "alpha: do unprepare",
    "alpha: do lend",
    "alpha: do discard",
    "alpha: do destroy",
    "beta: do accept",
    "beta: do hold",
    "beta: do run",
    "beta: do halt",
    "beta: do drop",
    "beta: do forbid",
    "beta: do lift",
)
SAID = (
    "alpha: tell PeerRestore",
    "alpha: tell PeerGive",
    "alpha: tell PeerAsk",
    "alpha: tell PeerDrop",
    "beta: ordered PeerRestore",
    "beta: ordered PeerGive",
    "beta: ordered PeerDrop",
    "beta: ordered PeerAsk",
    "beta: answer PeerHolds",
    "beta: answer PeerRuns",
    "beta: answer Stands",
    "beta: answer Fault",
    "alpha: answer Stands",
    "alpha: answer Fault",
    "alpha: answer HandedOver",
    "controller: send HandOver",
    "controller: send Ask",
    "controller: send Undo",
    "controller: send Release",
    "controller: send Adopt",
    "controller: send TakeBack",
    "controller: send Settle",
    "controller: send Confirm",
    "controller: send Retire",
)
WRITTEN = (
    "alpha: write leaving",
    "alpha: write given",
    "alpha: write home",
    "alpha: write gone",
    "beta: write arriving",
    "beta: write owner",
    "beta: write refused",
)
OF_ACTS = frozenset({Kind.ACT_FAILS, Kind.ACT_FAILS_LATE, Kind.ACT_SLOW})
OF_MESSAGES = frozenset({Kind.LOSE, Kind.DELAY, Kind.DOUBLE})
CHAINED = 0.4


def draw(random: Random) -> tuple[Fault, ...]:
    """The plan of a random run: none to five faults, more often few; anywhere, where there is most to decide, or in a row."""
    kinds = tuple(Kind)
    plan: list[Fault] = []
    for _ in range(random.choice((0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5))):
        kind, seconds = random.choice(kinds), random.choice(LASTS_S)
        if plan and random.random() < CHAINED:
            plan.append(Fault(kind, after=random.choice((1, 2, 3, 5, 8, 13, 21)), seconds=seconds))
        elif random.random() < 0.3:
            plan.append(Fault(kind, random.randint(1, STEPS_MAX), seconds=seconds))
        else:
            marks = ACTS if kind in OF_ACTS else SAID if kind in OF_MESSAGES else ACTS + SAID + WRITTEN
            plan.append(Fault(kind, mark=random.choice(marks), nth=random.choice((1, 1, 1, 2)), seconds=seconds))
    return tuple(plan)
