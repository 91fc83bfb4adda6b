"""Many runs: what they reached, so that a search that finds nothing can show that it has looked.

Rule: every phase and every kind of fault has a number, also when it is nought.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from migrator.core.phases import Phase
from migrator.sim.faults import Kind
from migrator.sim.runs import Outcome, play


@dataclass(slots=True)
class Tally:
    """Counts over runs."""

    runs: int = 0
    steps: int = 0
    phases: Counter[Phase] = field(default_factory=Counter)
    faults: Counter[Kind] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    claims: Counter[str] = field(default_factory=Counter)
    """Pairs of what source and target had on disk."""
    orders: Counter[str] = field(default_factory=Counter)
    """What the controller sent."""
    fences: int = 0
    controllers: int = 0
    breaches: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """One more run."""
        self.runs += 1
        self.steps += outcome.steps
        self.phases.update(outcome.phases)
        self.faults.update(outcome.fired)
        self.claims.update(f"{source}/{target}" for source, target in outcome.claims)
        self.orders.update(outcome.orders)
        self.ends[outcome.end or "breach"] += 1
        self.fences += outcome.fences
        self.controllers += outcome.controllers
        if outcome.breach is not None:
            self.breaches.append(outcome)

    @property
    def never(self) -> list[str]:
        """Phases and faults that no run reached."""
        return [
            *(str(phase) for phase in Phase if not self.phases[phase]),
            *(str(kind) for kind in Kind if not self.faults[kind]),
        ]


def tally(seeds: Iterable[int], breaches_max: int = 0) -> Tally:
    """Play these seeds; with `breaches_max`, no further than so many breaches."""
    found = Tally()
    for seed in seeds:
        found.add(play(seed))
        if breaches_max and len(found.breaches) >= breaches_max:
            break
    return found
