"""At the target: an rsync whose input comes over as many connections as the source opens (`rsync_shell`).

Rule: it ends when rsync ends, with its status; a stream that breaks is the end of rsync's input. Who joins must know the name of
the stream, comes by a socket that only root can open, and is sent away where rsync takes what comes slower than the line brings it.
"""

import contextlib
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from agents.transfer.lines import streams
from agents.transfer.lines.strands import READY, Gathered

BUFFER_BYTES = 1 << 20
ORDER_BYTES = 4096
LINE_BROKE = 255
WAITED_SHARE = 0.5
"""Less of its time than this waiting for the line, and it is not the line that limits the pass."""


def run(door: Path, name: str, words: Sequence[str]) -> int:
    """rsync's status. `door`: where others join the stream of this name."""
    server = _Server(name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(door))
        try:
            listener.listen()
            threading.Thread(target=server.admit, args=(listener,), name="admit", daemon=True).start()
            return server.feed(words)
        finally:
            door.unlink(missing_ok=True)


class _Server:
    """The stream, and rsync behind it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._gathered = Gathered(os.dup(0))
        self._busy_s = 0.0
        """So long rsync has been taking what had come."""
        self._busy_since: float | None = None
        self._looked = (time.monotonic(), 0.0)

    def feed(self, words: Sequence[str]) -> int:
        """Until rsync ends."""
        with subprocess.Popen(words, stdin=subprocess.PIPE) as rsync:
            assert rsync.stdin is not None
            fd = rsync.stdin.fileno()
            streams.widen(fd)
            threading.Thread(target=self._abandon, args=(rsync,), name="end", daemon=True).start()
            write, buffer = streams.writer(fd), memoryview(bytearray(BUFFER_BYTES))
            with contextlib.suppress(OSError):  # rsync has ended, and says why
                while got := self._gathered.read_into(buffer):
                    began_s = self._busy_since = time.monotonic()
                    write([buffer[:got]])
                    self._busy_s, self._busy_since = self._busy_s + time.monotonic() - began_s, None
            with contextlib.suppress(OSError):
                rsync.stdin.close()
            status = rsync.wait()
        return status if status >= 0 else LINE_BROKE

    def _abandon(self, rsync: subprocess.Popen[bytes]) -> None:
        """Nobody reads any more: whoever waits for the stream need not."""
        rsync.wait()
        self._gathered.abandon()

    def admit(self, listener: socket.socket) -> None:
        """In a thread, as long as the process lives: it ends each connection by its end."""
        admitted: list[socket.socket] = []
        while True:
            connection, _ = listener.accept()
            data, fds, _, _ = socket.recv_fds(connection, ORDER_BYTES, 2)
            if len(fds) == 2 and _order(data) == {"do": "join", "name": self._name} and self._waits_for_the_line():
                admitted.append(connection)
                self._join(*fds)
                continue
            for fd in fds:
                os.close(fd)
            connection.close()

    def _join(self, stream_in: int, ready_out: int) -> None:
        streams.widen(stream_in)
        self._gathered.join(stream_in)
        with contextlib.suppress(OSError):  # it has gone again; then the stream breaks
            os.write(ready_out, READY)
        os.close(ready_out)

    def _waits_for_the_line(self) -> bool:
        """Since the last who wanted to join. The source cannot tell a line that is slow from an rsync here that is."""
        now_s, since_s, busy_s = time.monotonic(), self._busy_since, self._busy_s
        if since_s is not None:
            busy_s += now_s - since_s
        (before_s, busy_before_s), self._looked = self._looked, (now_s, busy_s)
        return busy_s - busy_before_s <= (1 - WAITED_SHARE) * (now_s - before_s)


def _order(data: bytes) -> object:
    try:
        return json.loads(data)
    except ValueError:
        return None
