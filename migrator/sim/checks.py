"""What must never happen, and what must be true when all is over.

Rule: a breach ends the run where it happens, with the time and the words for it.
"""


class Breach(Exception):
    """A promise of the protocol was broken in a run."""

    def __init__(self, name: str, detail: str, at_s: float) -> None:
        super().__init__(f"{name}: {detail} (at {at_s:.3f} s)")
        self.name, self.detail, self.at_s = name, detail, at_s


TWO_RUNNING = "two running"
LOST = "state lost"
"""A copy runs that is older than one that ran before it."""
MEMORY = "memory thrown away"
"""The only copy of what the VE had in memory is dropped, or passed over, without need."""
TWO_DRIVERS = "two controllers drive it"
TORN = "torn copy"
"""A copy runs, or is overwritten, whose files do not belong to its memory."""
ENDED_WRONGLY = "killed while it ran"
NOT_RUNNING = "runs nowhere"
NOT_ENDED = "does not end"
WRONG_END = "wrong end"
LEFT_OVER = "left over"
REPLAY = "replay differs"
PHASES = "phase out of order"
LATE_HARM = "late harm"
ALL = (
    TWO_RUNNING,
    LOST,
    MEMORY,
    TORN,
    TWO_DRIVERS,
    ENDED_WRONGLY,
    NOT_RUNNING,
    NOT_ENDED,
    WRONG_END,
    LEFT_OVER,
    REPLAY,
    PHASES,
    LATE_HARM,
)
