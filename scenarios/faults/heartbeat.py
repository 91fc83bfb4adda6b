"""The VE's heartbeat: it counts, all the time, and tells the count to the network and to its own disk.

Rule: a count comes once. The same count at two different times means that two copies of the VE went on from the same
moment; a count of an earlier start after one of a later means that two copies ran side by side.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

BEAT_S = 0.02
FILE = "data/beat"
"""Below the VE's root: the last beat, for whoever looks at the disks of both hosts."""

NEVER = "data/never"
"""A fifo below the VE's root that nobody writes to: bash waits on it without a process of its own."""

SCRIPT = """\
beat() {{
    exec 3<> /{never}
    while read -t {beat_s} -u 3 || :; do
        line="$start $((n += 1)) $EPOCHREALTIME"
        echo "$line" > /dev/udp/{address}/{port}
        echo "$line" > /{file}
    done
}}
start=$EPOCHREALTIME
beat 2> /dev/null &
exec {service}
"""
"""First program of the VE, for bash; `start` names this start of the VE among all others."""


def script(address: str, port: int, service: str) -> str:
    """The VE's first program, which becomes `service`."""
    return SCRIPT.format(beat_s=BEAT_S, address=address, port=port, file=FILE, never=NEVER, service=service)


@dataclass(frozen=True, slots=True)
class Twice:
    """A count that came at two times."""

    start: str
    count: int
    earlier_unix_s: float
    later_unix_s: float

    def __str__(self) -> str:
        """For a person."""
        times = f"at {self.earlier_unix_s:.3f} and at {self.later_unix_s:.3f}"
        return f"beat {self.count} of the start at {self.start} came {times}"


def never(_: Twice) -> bool:
    """No count may come twice."""
    return False


@dataclass(slots=True)
class Heartbeats:
    """All beats that were heard."""

    times: dict[tuple[str, int], float] = field(default_factory=dict)
    """(start, count) -> when the VE sent it, on the machine's one clock."""
    twice: list[Twice] = field(default_factory=list)
    last_unix_s: float = 0.0
    """When the last beat was sent; 0: never."""

    def note(self, line: str) -> None:
        """One beat; half-written ones are nothing."""
        words = line.split()
        if len(words) != 3 or not line.endswith("\n"):
            return
        key, at_unix_s = (words[0], int(words[1])), float(words[2])
        known = self.times.setdefault(key, at_unix_s)
        self.last_unix_s = max(self.last_unix_s, at_unix_s)
        if known != at_unix_s:
            self.twice.append(Twice(*key, min(known, at_unix_s), max(known, at_unix_s)))

    def merge(self, other: "Heartbeats") -> None:
        """Add what another place has heard."""
        for start, count, at_unix_s in other.all():
            self.note(f"{start} {count} {at_unix_s:.6f}\n")

    def contradictions(self, explained: Callable[[Twice], bool] = never) -> list[str]:
        """Everything that only two running copies explain, or what `explained` says of a count that came twice."""
        spans: dict[str, list[float]] = {}
        for (start, _), at_unix_s in self.times.items():
            spans.setdefault(start, []).append(at_unix_s)
        ordered = sorted((min(times), max(times), start) for start, times in spans.items())
        both = [
            f"the start at {earlier[2]} still ran at {earlier[1]:.3f}, the one at {later[2]} already at {later[0]:.3f}"
            for earlier, later in pairwise(ordered)
            if earlier[1] > later[0]
        ]
        return [str(each) for each in self.twice if not explained(each)][:5] + both

    def longest_silence(self, from_unix_s: float = 0.0) -> tuple[float, float]:
        """(length in seconds, when it began) of the longest time without a beat since `from_unix_s`."""
        times = sorted(each for each in self.times.values() if each >= from_unix_s)
        gaps = [(after - before, before) for before, after in pairwise(times)]
        return max(gaps, default=(0.0, 0.0))

    def all(self) -> list[tuple[str, int, float]]:
        """(start, count, when) of each, one that came twice in both ways."""
        return [
            *((start, count, at_unix_s) for (start, count), at_unix_s in self.times.items()),
            *((each.start, each.count, at) for each in self.twice for at in (each.earlier_unix_s, each.later_unix_s)),
        ]

    def told(self) -> dict[str, object]:
        """For JSON."""
        return {
            "beats": len(self.times),
            "starts": len({start for start, _ in self.times}),
            "last_beat_unix_s": self.last_unix_s,
            "contradictions": self.contradictions(),
        }
