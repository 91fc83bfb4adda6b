"""At the target: an rsync whose input comes over as many connections as the source opens (`rsync_shell`).

Rule: it ends when rsync ends, with its status; a stream that breaks is the end of rsync's input. Who joins must know the name of
the stream, and comes by a socket that only root can open and that lies where the migration's receivers are noted.
"""

import contextlib
import json
import os
import socket
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from agents.transfer.lines import streams
from agents.transfer.lines.strands import READY, Gathered

BUFFER_BYTES = 1 << 20
ORDER_BYTES = 4096
LINE_BROKE = 255


def run(door: Path, name: str, words: Sequence[str]) -> int:
    """rsync's status. `door`: where others join the stream of this name."""
    gathered = Gathered(os.dup(0))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(door))
        try:
            listener.listen()
            threading.Thread(target=_admit, args=(listener, name, gathered), name="admit", daemon=True).start()
            return _feed(gathered, words)
        finally:
            door.unlink(missing_ok=True)


def _feed(gathered: Gathered, words: Sequence[str]) -> int:
    with subprocess.Popen(words, stdin=subprocess.PIPE) as rsync:
        assert rsync.stdin is not None
        fd = rsync.stdin.fileno()
        streams.widen(fd)
        threading.Thread(target=_abandon, args=(rsync, gathered), name="end", daemon=True).start()
        write, buffer = streams.writer(fd), memoryview(bytearray(BUFFER_BYTES))
        with contextlib.suppress(OSError):  # rsync has ended, and says why
            while got := gathered.read_into(buffer):
                write([buffer[:got]])
        with contextlib.suppress(OSError):
            rsync.stdin.close()
        status = rsync.wait()
    return status if status >= 0 else LINE_BROKE


def _abandon(rsync: subprocess.Popen[bytes], gathered: Gathered) -> None:
    """Nobody reads any more: whoever waits for the stream need not."""
    rsync.wait()
    gathered.abandon()


def _admit(listener: socket.socket, name: str, gathered: Gathered) -> None:
    """In a thread, as long as the process lives: it ends each connection by its end."""
    admitted: list[socket.socket] = []
    while True:
        connection, _ = listener.accept()
        admitted.append(connection)
        data, fds, _, _ = socket.recv_fds(connection, ORDER_BYTES, 2)
        if len(fds) == 2 and _order(data) == {"do": "join", "name": name}:
            streams.widen(fds[0])
            gathered.join(fds[0])
            with contextlib.suppress(OSError):  # it has gone again; then the stream breaks
                os.write(fds[1], READY)
            os.close(fds[1])
        else:
            for fd in fds:
                os.close(fd)
            connection.close()


def _order(data: bytes) -> object:
    try:
        return json.loads(data)
    except ValueError:
        return None
