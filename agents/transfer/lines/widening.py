"""When a stream is given another connection: while it is the line that limits it, and as long as the last one paid.

Rule: tried, not guessed. What a second connection brings cannot be read off the first (a cap per flow, a long way and loss all look
alike from here), so one more is opened, and let go again if the line did not carry more by it, of all the migration's streams
together. Only while the VE runs. What a fresh connection takes at first goes into its buffers, and is not counted.
"""

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from agents.transfer.lines import streams
from agents.transfer.lines.strands import READY, Spread
from agents.transfer.lines.use import LineUse

STRANDS_MAX = 8
LOOK_EVERY_S = 1.0
WAITED_SHARE = 0.5
"""Less of its time than this waiting for the line, and the line is not what limits the stream."""
GAIN = 1.15
"""A line with one connection more must be so many times as quick: less is within what its rate varies by."""


class Step(Enum):
    """What is to be done."""

    STAY = "stay"
    WIDEN = "widen"
    """Open one more."""
    NARROW = "narrow"
    """Let the last one go; it brought nothing."""


@dataclass(slots=True)
class Widening:
    """Of one stream. Give ``look`` what its line did in each interval of about ``LOOK_EVERY_S``."""

    strands: int = 1
    _before_bytes_per_s: float = 0.0
    """When the last one joined; 0: there was none before."""
    _settled: bool = False
    """The buffers of the last that joined are full."""
    _ended: bool = False

    @property
    def trying(self) -> bool:
        """Whether the last that joined has still to prove itself."""
        return self._before_bytes_per_s > 0 and not self._ended

    def look(self, moved_bytes: int, waited_s: float, over_s: float) -> Step:
        """What it says is to be done; ``ended`` if it cannot be. ``moved_bytes`` by all, ``waited_s`` by this stream."""
        if self._ended or over_s <= 0 or waited_s < WAITED_SHARE * over_s:
            return Step.STAY
        if not self._settled:
            self._settled = True
            return Step.STAY
        bytes_per_s = moved_bytes / over_s
        if self._before_bytes_per_s and bytes_per_s < GAIN * self._before_bytes_per_s:
            self._ended = True
            self.strands -= 1
            return Step.NARROW
        if self.strands == STRANDS_MAX:
            self._ended = True
            return Step.STAY
        self._before_bytes_per_s, self._settled = bytes_per_s, False
        self.strands += 1
        return Step.WIDEN

    def ended(self) -> None:
        """No more can be opened, or the other end wants none."""
        self._ended = True
        self.strands -= 1


class Widener:
    """Of one stream from the source: opens what ``Widening`` asks for, beside what is being sent."""

    def __init__(self, first: subprocess.Popen[bytes], strand: Sequence[str], use: LineUse) -> None:
        """``first`` is the program that has the stream; ``strand`` starts one that joins it, empty: none can."""
        assert first.stdin is not None
        self._use = use
        self.spread = Spread(first.stdin.fileno(), first.kill, use.tell)
        self._strand = strand
        self._widening = Widening()
        self._programs: list[subprocess.Popen[bytes]] = []
        self._turn = threading.Lock()

    def run(self, stop: threading.Event) -> None:
        """As long as something is being sent that may take another connection."""
        if self._strand and self._turn.acquire(blocking=False):  # else the last round's is not done yet
            try:
                self._look(stop)
            finally:
                self._use.end_trial()
                self._turn.release()

    def _look(self, stop: threading.Event) -> None:
        spread, use = self.spread, self._use
        while True:
            before = (time.monotonic(), use.total_bytes, spread.waited_s)
            if stop.wait(LOOK_EVERY_S):
                return
            now = (time.monotonic(), use.total_bytes, spread.waited_s)
            if not use.begin_trial():
                continue
            over_s, moved_bytes, waited_s = (after - since for after, since in zip(now, before, strict=True))
            match self._widening.look(int(moved_bytes), waited_s, over_s):
                case Step.WIDEN:
                    if not self._open() or stop.is_set():
                        self._widening.ended()
                    if stop.is_set() and spread.count > self._widening.strands:
                        spread.leave()  # the VE may be frozen by now: no time to try anything
                case Step.NARROW:
                    spread.leave()
            if not self._widening.trying:
                use.end_trial()

    def end(self) -> None:
        """Nothing is written any more, and nothing is being sent."""
        self._kill()
        with self._turn:  # somebody may have been opening one more
            self._kill()

    def _kill(self) -> None:
        for program in self._programs:
            program.kill()
            program.wait()
            assert program.stdout is not None
            program.stdout.close()

    def _open(self) -> bool:
        program = subprocess.Popen(
            self._strand, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._programs.append(program)
        assert program.stdin is not None
        assert program.stdout is not None
        if program.stdout.read(len(READY)) != READY:
            return False
        fd = os.dup(program.stdin.fileno())
        program.stdin.close()
        streams.widen(fd)
        self.spread.join(fd)
        return True
