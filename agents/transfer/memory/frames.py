"""The stream of pages from source to target: frames with a checksum, over any pair of byte streams.

A frame is a header (kind, space, number of ranges, length of the payload), the ranges as pairs of 64-bit address and
length, the payload, and the SHA-256 of all of that, cut to 16 bytes. A *space* is a number the source gives to one
address space; the process it belongs to is named only at the end, because processes come and go while rounds run.
The target answers the frames ``SYNC``, ``SEAL`` and ``RESUME`` with one frame; nothing else is answered.

By post-copy a second stream follows, in which the target asks (``WANT``) and the source answers each with one ``PAGES``;
there a space is the id of the process inside the VE.

This file knows the form only. Short reads, altered bytes and unknown kinds raise ``Corrupt``.
"""

import hashlib
import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
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
    """From the target: payload is JSON for SEAL, the echo for SYNC, a count for RESUME."""
    COMPRESSED = 7
    """As PAGES, the content compressed (`compression`)."""
    OWED = 8
    """These pages have content, and it stays on the source until it is asked for (post-copy)."""
    WANT = 9
    """From the target: these pages, please."""
    DONE = 10
    """From the target: it has everything, and will not ask again."""
    RESUME = 11
    """The stream broke, and this is its next connection: how many frames (RESUME not counted) have been taken in, all told?"""


class Corrupt(Exception):
    """The stream is cut short or altered; nothing received so far may be used to restore a VE."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as received; ``payload`` is valid until the next is read."""

    kind: Kind
    space: int
    extents: Extents
    payload: memoryview


COUNT_BYTES = 8
"""Of a count in a payload, the highest byte first."""

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
        head = bytes(header)
        body = self._take(0, _body_bytes(head))
        assert body is not None
        return _frame(head, body)

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


class FrameBuffer:
    """Frames from a byte stream that is read as it comes, by somebody who must not wait for it."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Some bytes came: the frames that are whole now, each valid until the next. Raises ``Corrupt``."""
        self._data += data
        while len(self._data) >= _HEADER.size:
            head = bytes(self._data[: _HEADER.size])
            end = _HEADER.size + _body_bytes(head)
            if len(self._data) < end:
                return
            body = bytes(self._data[_HEADER.size : end])
            del self._data[:end]
            yield _frame(head, memoryview(body))


def _body_bytes(head: bytes) -> int:
    """What follows a frame's header."""
    magic, _, _, count, length = _HEADER.unpack(head)
    if magic != _MAGIC or count > MAX_RANGES or length > MAX_PAYLOAD_BYTES:
        raise Corrupt("not a frame of the memory stream")
    return 16 * int(count) + int(length) + DIGEST_BYTES


def _frame(head: bytes, body: memoryview) -> Frame:
    _, kind, space, count, length = _HEADER.unpack(head)
    table_bytes = 16 * count
    digest = hashlib.sha256(head)
    digest.update(body[: table_bytes + length])
    if digest.digest()[:DIGEST_BYTES] != body[table_bytes + length :]:
        raise Corrupt("a frame of the memory stream was altered on its way")
    numbers = array("Q", bytes(body[:table_bytes])).tolist()
    extents = [(start, start + size) for start, size in zip(numbers[0::2], numbers[1::2], strict=True)]
    try:
        return Frame(Kind(kind), space, extents, body[table_bytes : table_bytes + length])
    except ValueError as error:
        raise Corrupt(f"unknown kind of frame: {kind}") from error
