"""Which runs are made: every fault at moments of its own, spread so that few runs already meet every fault and moment.

Rule: the series follows from the seed alone, and a longer series begins with the shorter one.
"""

import random
from collections.abc import Iterator
from itertools import islice

from scenarios.faults.faults import FAULTS, Fault
from scenarios.faults.kinds import KINDS
from scenarios.faults.trial import Trial

ANY = "any time"


def series(seed: int, runs: int, engine: str = "oci") -> list[Trial]:
    """The first so many runs of a seed."""
    return list(islice(endless(seed, engine), runs))


def whole(engine: str = "oci") -> int:
    """How many runs meet every fault at every moment it can come at, once."""
    return sum(len(moments_of(fault, engine)) for fault in FAULTS.values())


def moments_of(fault: Fault, engine: str) -> list[str]:
    """When a fault can be done to a VE of this engine; empty: it cannot."""
    return [each for each in fault.moments if KINDS[engine].form.fits(fault.name, each)]


def endless(seed: int, engine: str = "oci") -> Iterator[Trial]:
    """Rounds over all faults; a fault takes its moments one after the other, those least used by others first."""
    chance = random.Random(seed)
    used: dict[str, int] = {}
    done: dict[tuple[str, str], int] = {}
    while True:
        faults = [fault for fault in FAULTS.values() if moments_of(fault, engine)]
        chance.shuffle(faults)
        for fault in faults:
            mine = moments_of(fault, engine)
            chance.shuffle(mine)
            moment = min(mine, key=lambda each: (done.get((fault.name, each), 0), used.get(each, 0)))
            again = done.get((fault.name, moment), 0)
            done[fault.name, moment], used[moment] = again + 1, used.get(moment, 0) + 1
            yield Trial(fault.name, moment, seed, again, engine)


def named(seed: int, name: str, engine: str = "oci") -> list[Trial]:
    """The runs that `FAULT@MOMENT`, `FAULT@` or `@MOMENT` means, with `#N` the N-th of its pair. Raises ValueError."""
    pair, _, again = name.partition("#")
    fault, _, moment = pair.partition("@")
    found = [
        Trial(each.name, when, seed, int(again or 0), engine)
        for each in FAULTS.values()
        for when in moments_of(each, engine)
        if fault in ("", each.name) and moment in ("", when)
    ]
    if not found:
        raise ValueError(f"no fault {fault!r} at moment {moment!r}; faults: {', '.join(FAULTS)}")
    return found
