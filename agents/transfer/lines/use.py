"""What the streams of one migration move over its line, so that each can tell whether the *line* became quicker, or only itself.

Two streams that share a full line would else take it from each other, one connection after the other. Rule: each writes only its
own slot of a file that all of them map, and only one of them tries another connection at a time.
"""

import fcntl
import mmap
import os
import struct
from enum import IntEnum
from pathlib import Path

_SLOT = struct.Struct("<QQ")


class Stream(IntEnum):
    """Whose slot."""

    MEMORY = 0
    FILES = 1


SIZE_BYTES = _SLOT.size * len(Stream)


class LineUse:
    """One stream's view of the file; ``close`` it."""

    def __init__(self, path: Path, stream: Stream) -> None:
        """Makes the file if nobody has. What this stream's slot counts goes on from what an earlier process of it left."""
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._fd, SIZE_BYTES)
        self._map = mmap.mmap(self._fd, SIZE_BYTES)
        self._stream = stream
        self._before_bytes, _ = self._slot(stream)

    def tell(self, moved_bytes: int, connections: int) -> None:
        """What this stream has moved since it was opened here, and over how many connections it goes."""
        _SLOT.pack_into(self._map, self._stream * _SLOT.size, self._before_bytes + moved_bytes, connections)

    @property
    def total_bytes(self) -> int:
        """What all of them have moved."""
        return sum(self._slot(stream)[0] for stream in Stream)

    def begin_trial(self) -> bool:
        """Whether this stream may try another connection: nobody else is about to. May be called again; ends by ``end_trial``."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def end_trial(self) -> None:
        """Another may try. May be called without a trial."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Nothing more is told; what was stays. May be called again."""
        if not self._map.closed:
            self._map.close()
            os.close(self._fd)

    def _slot(self, stream: Stream) -> tuple[int, int]:
        moved_bytes, connections = _SLOT.unpack_from(self._map, stream * _SLOT.size)
        return moved_bytes, connections


def connections(path: Path, stream: Stream) -> int:
    """Over how many a stream went last; 0: it has not gone at all."""
    try:
        _, count = _SLOT.unpack_from(path.read_bytes(), stream * _SLOT.size)
    except (FileNotFoundError, struct.error):
        return 0
    return int(count)
