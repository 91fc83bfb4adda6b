"""The sender's connection to the target's keeper: the program that has the stream, and those that join it.

Rule: whoever waits for a line that was hung up finds that it has ended, and waits no longer.
"""

import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from agents.transfer.lines import streams
from agents.transfer.lines.use import LineUse, Stream
from agents.transfer.lines.widening import Widener

LAST_WORDS_LIMIT_S = 2.0


class Line:
    """One connection, from its program's start to its end."""

    def __init__(self, stream: Sequence[str], strand: Sequence[str], use: Path) -> None:
        """``stream`` is the program that reaches the keeper, ``strand`` another connection's that joins it; empty: none can.
        ``use`` is where the migration's streams say what they move.

        Raises OSError when the program cannot be started.
        """
        self._use = LineUse(use, Stream.MEMORY)
        self._program = subprocess.Popen(stream, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        streams.widen(self._program.stdin.fileno())
        self._widener = Widener(self._program, strand, self._use)
        self.write = self._widener.spread.write
        self.read_into = streams.reader(self._program.stdout.fileno())

    def widen(self, stop: threading.Event) -> None:
        """In a thread of its own, as long as a round is under way."""
        self._widener.run(stop)

    def notes(self) -> tuple[str, ...]:
        """What the operator is to know."""
        count = self._widener.spread.count
        return (f"memory went over {count} connections, because one did not fill the line",) if count > 1 else ()

    def last_words(self) -> str:
        """After it broke: what its program said of that, in brackets; empty: nothing."""
        try:
            _, said = self._program.communicate(timeout=LAST_WORDS_LIMIT_S)
        except (subprocess.TimeoutExpired, ValueError, OSError):
            return ""
        words = said.decode(errors="replace").strip()
        return f" (ssh: {words[-500:]})" if words else ""

    def hang_up(self) -> None:
        """From any thread; may be called again."""
        self._program.kill()

    def end(self) -> None:
        """Nothing is written or read any more. May be called again."""
        self.hang_up()
        self._widener.end()
        self._program.wait()
        for pipe in (self._program.stdin, self._program.stdout, self._program.stderr):
            assert pipe is not None
            pipe.close()
        self._use.close()
