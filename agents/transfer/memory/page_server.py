"""The source's process by post-copy: gives the pages of the frozen VE that the target asks for, until it has them all.

The agent says in one line of JSON which VE and by which program the target's keeper is reached (`Task`), and hears one line:
{"did": "filled"} when the target has everything, {"did": "not", "why": ...} when the stream broke. Rule: it only reads; it
knows nothing of what was given before, so that another may go on where it ended.
"""

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from agents.transfer.lines import streams
from agents.transfer.memory import areas
from agents.transfer.memory.areas import Gone
from agents.transfer.memory.extents import size_bytes
from agents.transfer.memory.frames import Corrupt, Frame, FrameReader, Kind, write_frame
from agents.transfer.memory.reader import BATCH_BYTES, Reader, Throttle

END_LIMIT_S = 2.0


@dataclass(frozen=True, slots=True)
class Task:
    """Which VE, and how the target's keeper is reached."""

    group: str
    """The VE's cgroup; every process in it and below belongs to the VE, and stands still."""
    stream: tuple[str, ...]
    rate_bytes_per_s: float | None = None


class PageServer:
    """The process."""

    def __init__(self, task: Task) -> None:
        """Raises ``Gone`` and OSError."""
        members = areas.members(Path(task.group))
        depth = areas.namespace_depth(areas.init_of(members))
        self._pids = {}
        for pid in members:
            try:
                self._pids[areas.facts(pid, depth).pid_in_ve] = pid
            except Gone:
                continue  # a zombie has no memory
        self._reader, self._throttle = Reader(), Throttle(task.rate_bytes_per_s)
        self._ssh = subprocess.Popen(task.stream, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run(self) -> dict[str, str]:
        """Until the target has everything, or the stream ends; what is to be said then."""
        assert self._ssh.stdin is not None
        assert self._ssh.stdout is not None
        streams.widen(self._ssh.stdin.fileno())
        write, frames = streams.writer(self._ssh.stdin.fileno()), FrameReader(streams.reader(self._ssh.stdout.fileno()))
        try:
            while (frame := frames.next()) is not None:
                if frame.kind is Kind.DONE:
                    return {"did": "filled"}
                write_frame(write, Kind.PAGES, frame.space, frame.extents, self._pages(frame))
            why = "the target closed the stream"
        except (Corrupt, OSError) as error:
            why = str(error)
        finally:
            self._ssh.kill()
        _, said = self._ssh.communicate()
        words = said.decode(errors="replace").strip()
        return {"did": "not", "why": f"{why} (ssh: {words[-500:]})" if words else why}

    def _pages(self, frame: Frame) -> memoryview:
        if frame.kind is not Kind.WANT or frame.space not in self._pids or size_bytes(frame.extents) > BATCH_BYTES:
            raise Corrupt("the target asks for something that cannot be given")
        self._throttle.take(size_bytes(frame.extents))
        return self._reader.read_whole(self._pids[frame.space], frame.extents)


def main() -> None:
    """One task, from standard input; ends when that does."""
    given = json.loads(sys.stdin.readline())
    threading.Thread(target=_watch_input, name="input", daemon=True).start()
    try:
        said = PageServer(Task(**{**given, "stream": tuple(given["stream"])})).run()
    except (Gone, OSError) as error:
        said = {"did": "not", "why": str(error)}
    print(json.dumps(said), flush=True)


def _watch_input() -> None:
    sys.stdin.read()
    os._exit(0)
