"""What rsync runs instead of ssh for a pass that may take long: `migrator-agent rsync-shell TASK ...`, at the source.

It is an ssh to the target, with others beside it where one connection does not fill the line (`widening`); rsync knows nothing of
that, at either end. Rule: it ends when that first ssh ends, with its status, and leaves none of the others behind. Only what goes
to the target is spread: what rsync hears from there is little, and comes by the first connection alone.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from agents.transfer.lines import streams
from agents.transfer.lines.use import LineUse, Stream
from agents.transfer.lines.widening import Widener

BUFFER_BYTES = 1 << 20
LINE_BROKE = 255
"""As ssh says it."""


@dataclass(frozen=True, slots=True)
class Task:
    """How the target is reached."""

    stream: tuple[str, ...]
    """The program that carries rsync's words there, without them."""
    strand: tuple[str, ...]
    """Another connection's, which joins it."""
    use: str
    """The file in which the migration's streams say what they move."""

    def argument(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))


def main(argument: str, *words: str) -> None:
    """One pass. `words` are rsync's own: options of an ssh, the host, and from `rsync` on the command."""
    task = Task(**json.loads(argument))
    with subprocess.Popen([*task.stream, *words[words.index("rsync") :]], stdin=subprocess.PIPE) as first:
        assert first.stdin is not None
        streams.widen(first.stdin.fileno())
        use = LineUse(Path(task.use), Stream.FILES)
        widener = Widener(first, task.strand, use)
        stop = threading.Event()
        threading.Thread(target=_feed, args=(widener,), name="feed", daemon=True).start()
        threading.Thread(target=widener.run, args=(stop,), name="widen", daemon=True).start()
        status = first.wait()
        stop.set()
        use.tell(widener.spread.bytes_written, widener.spread.count)
        widener.end()
    sys.stdout.flush()
    os._exit(status if status >= 0 else LINE_BROKE)  # a thread may be waiting for rsync, which waits for our end


def _feed(widener: Widener) -> None:
    """What rsync says, to the target, until it says no more."""
    buffer = memoryview(bytearray(BUFFER_BYTES))
    with contextlib.suppress(OSError):  # the target's end has gone; the first ssh says so
        while got := os.readv(0, [buffer]):
            widener.spread.write([buffer[:got]])
        widener.spread.finish()
