"""When a stream is given another connection: while it is the line that limits it, and as long as the last one paid.

Rule: tried, not guessed. What a second connection brings cannot be read off the first (a cap per flow, a long way and loss all look
alike from here), so one more is opened, and let go again if the stream did not become quicker by it. Only while the VE runs. What a
fresh connection takes at first goes into its buffers, and is not counted.
"""

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from agents.transfer.memory import streams
from agents.transfer.memory.strands import READY, Spread

STRANDS_MAX = 8
LOOK_EVERY_S = 1.0
WAITED_SHARE = 0.5
"""Less of its time than this waiting for the line, and the line is not what limits the stream."""
GAIN = 1.15
"""A stream with one more must be so many times as quick: less is within what a line's rate varies by."""


class Step(Enum):
    """What is to be done."""

    STAY = "stay"
    WIDEN = "widen"
    """Open one more."""
    NARROW = "narrow"
    """Let the last one go; it brought nothing."""


@dataclass(slots=True)
class Widening:
    """Of one stream. Give ``look`` what it did in each interval of about ``LOOK_EVERY_S``."""

    strands: int = 1
    _before_bytes_per_s: float = 0.0
    """When the last one joined; 0: there was none before."""
    _settled: bool = False
    """The buffers of the last that joined are full."""
    _ended: bool = False

    def look(self, moved_bytes: int, waited_s: float, over_s: float) -> Step:
        """What it says is to be done; ``ended`` if it cannot be."""
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
        """No more can be opened."""
        self._ended = True
        self.strands -= 1


class Widener:
    """Of one stream from the source: opens what ``Widening`` asks for, beside the rounds."""

    def __init__(self, first: subprocess.Popen[bytes], strand: Sequence[str]) -> None:
        """``first`` is the program that has the stream; ``strand`` starts one that joins it, empty: none can."""
        assert first.stdin is not None
        self.spread = Spread(first.stdin.fileno(), first.kill)
        self._strand = strand
        self._widening = Widening()
        self._programs: list[subprocess.Popen[bytes]] = []
        self._turn = threading.Lock()

    def run(self, stop: threading.Event) -> None:
        """As long as a round is under way."""
        if self._strand and self._turn.acquire(blocking=False):  # else the last round's is not done yet
            try:
                self._look(stop)
            finally:
                self._turn.release()

    def _look(self, stop: threading.Event) -> None:
        spread = self.spread
        while True:
            before = (time.monotonic(), spread.bytes_written, spread.waited_s)
            if stop.wait(LOOK_EVERY_S):
                return
            now = (time.monotonic(), spread.bytes_written, spread.waited_s)
            over_s, moved_bytes, waited_s = (after - since for after, since in zip(now, before, strict=True))
            match self._widening.look(int(moved_bytes), waited_s, over_s):
                case Step.WIDEN:
                    if not self._open() or stop.is_set():
                        self._widening.ended()
                    if stop.is_set() and spread.count > self._widening.strands:
                        spread.leave()  # the VE may be frozen by now: no time to try anything
                case Step.NARROW:
                    spread.leave()

    def notes(self) -> tuple[str, ...]:
        """What the operator is to know."""
        count = self.spread.count
        return (f"memory went over {count} connections, because one did not fill the line",) if count > 1 else ()

    def end(self) -> None:
        """Nothing is written any more, and no round is under way."""
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
