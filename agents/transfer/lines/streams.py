"""File descriptors as the byte streams that ``frames`` wants: whole writes, reads into a buffer, either way blocking."""

import contextlib
import fcntl
import os
from collections.abc import Sequence

from agents.transfer.memory.frames import ReadInto, Write

PIPE_BYTES = 1 << 20


def widen(fd: int) -> None:
    """Let a pipe hold more, so that its two ends take turns less often; anything else stays as it is."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def writer(fd: int) -> Write:
    """Write everything, however the kernel cuts it."""

    def write(buffers: Sequence[bytes | memoryview]) -> None:
        rest = [memoryview(buffer) for buffer in buffers if len(buffer)]
        while rest:
            done = os.writev(fd, rest)
            while rest and done >= len(rest[0]):
                done -= len(rest.pop(0))
            if done:
                rest[0] = rest[0][done:]

    return write


def reader(fd: int) -> ReadInto:
    """Read some bytes; 0 at the end."""

    def read_into(buffer: memoryview) -> int:
        return os.readv(fd, [buffer])

    return read_into
