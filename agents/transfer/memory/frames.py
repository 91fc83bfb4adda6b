"""The stream of pages from source to target: frames with a checksum, over any pair of byte streams.

A frame is a header (kind, space, number of ranges, length of the payload), the ranges as pairs of 64-bit address and
length, the payload, and the SHA-256 of all of that, cut to 16 bytes. A *space* is a number the source gives to one
address space; the process it belongs to is named only at the end, because processes come and go while rounds run.
The target answers the frames ``SYNC`` and ``SEAL`` with one frame; nothing else is answered.

This file knows the form only. Short reads, altered bytes and unknown kinds raise ``Corrupt``.
"""

import hashlib
import struct
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain

from agents.transfer.memory.extents import Extent, Extents

_HEADER = struct.Struct("<4sBxxxIIQ")
_MAGIC = b"MPC2"
DIGEST_BYTES = 16
MAX_RANGES = 1 << 20
MAX_PAYLOAD_BYTES = 1 << 24


class Kind(IntEnum):
    """What a frame says."""

    PAGES = 1
    """These pages, with their content."""
    DROP = 2
    """Forget these pages: they have no content any more."""
    FORGET = 3
    """Forget the whole space: its process ended."""
    SYNC = 4
    """Everything before has been taken in? Payload is echoed."""
    SEAL = 5
    """Everything has been sent; the payload (JSON) says what the target must hold now."""
    ANSWER = 6
    """From the target: payload is JSON for SEAL, the echo for SYNC."""
    COMPRESSED = 7
    """As PAGES, the content compressed (`compression`)."""


class Corrupt(Exception):
    """The stream is cut short or altered; nothing received so far may be used to restore a VE."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as received; ``payload`` is valid until the next is read."""

    kind: Kind
    space: int
    extents: Extents
    payload: memoryview


Write = Callable[[Sequence[bytes | memoryview]], None]
"""Write all of these buffers, in order."""
ReadInto = Callable[[memoryview], int]
"""Read some bytes into the buffer; 0 at the end of the stream."""


def write_frame(
    write: Write,
    kind: Kind,
    space: int = 0,
    extents: Sequence[Extent] = (),
    payload: bytes | memoryview = b"",
) -> int:
    """Write one frame; returns its length in bytes."""
    table = array("Q", chain.from_iterable((start, end - start) for start, end in extents)).tobytes()
    header = _HEADER.pack(_MAGIC, kind, space, len(extents), len(payload))
    digest = hashlib.sha256(header)
    digest.update(table)
    digest.update(payload)
    write((header, table, payload, digest.digest()[:DIGEST_BYTES]))
    return _HEADER.size + len(table) + len(payload) + DIGEST_BYTES


class FrameReader:
    """Reads frames from a byte stream into one buffer that grows to the largest frame."""

    def __init__(self, read_into: ReadInto) -> None:
        self._read_into = read_into
        self._buffer = memoryview(bytearray(1 << 21))
        self.bytes_read = 0

    def next(self) -> Frame | None:
        """The next frame; None where the stream ends between frames. Raises ``Corrupt``."""
        header = self._take(0, _HEADER.size, may_end=True)
        if header is None:
            return None
        magic, kind, space, count, length = _HEADER.unpack(header)
        if magic != _MAGIC or count > MAX_RANGES or length > MAX_PAYLOAD_BYTES:
            raise Corrupt("not a frame of the memory stream")
        digest = hashlib.sha256(header)
        table_bytes = 16 * count
        body = self._take(0, table_bytes + length + DIGEST_BYTES)
        assert body is not None
        digest.update(body[: table_bytes + length])
        if digest.digest()[:DIGEST_BYTES] != body[table_bytes + length :]:
            raise Corrupt("a frame of the memory stream was altered on its way")
        numbers = array("Q", bytes(body[:table_bytes])).tolist()
        extents = [(start, start + size) for start, size in zip(numbers[0::2], numbers[1::2], strict=True)]
        try:
            return Frame(Kind(kind), space, extents, body[table_bytes : table_bytes + length])
        except ValueError as error:
            raise Corrupt(f"unknown kind of frame: {kind}") from error

    def _take(self, at: int, count: int, *, may_end: bool = False) -> memoryview | None:
        if at + count > len(self._buffer):
            self._buffer = memoryview(bytearray(2 * (at + count)))
        filled = 0
        while filled < count:
            got = self._read_into(self._buffer[at + filled : at + count])
            if not got:
                if may_end and not filled:
                    return None
                raise Corrupt(f"the memory stream ended {count - filled} bytes early")
            filled += got
        self.bytes_read += count
        return self._buffer[at : at + count]
