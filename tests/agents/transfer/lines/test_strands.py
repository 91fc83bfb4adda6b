"""One stream over several connections: what is written is what is read, whoever joins, leaves or breaks."""

import os
import random
import socket
import threading
from collections.abc import Iterator

import pytest

from agents.transfer.lines.strands import PIECE_BYTES, Gathered, Spread


class Line:
    """Both ends of a stream, and sockets between them."""

    def __init__(self) -> None:
        self.broke = threading.Event()
        self.read = bytearray()
        self._ends: list[socket.socket] = []
        self._reader: threading.Thread | None = None
        self._first, there = self.strand()
        self.spread, self.gathered = Spread(self._first, self.broke.set), Gathered(there)

    def strand(self) -> tuple[int, int]:
        """Another connection: both ends."""
        here, there = socket.socketpair()
        here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the least there is, so that strands are not free
        self._ends.append(there.dup())
        return here.detach(), there.detach()

    def join(self) -> None:
        """One more strand."""
        here, there = self.strand()
        self.gathered.join(there)
        self.spread.join(here)

    def read_on(self) -> None:
        """Read in a thread until the end."""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def all(self, count: int) -> bytes:
        """What was read when so many bytes were."""
        assert self._reader is not None
        while len(self.read) < count and self._reader.is_alive():
            self._reader.join(0.005)
        return bytes(self.read)

    def cut(self, number: int) -> None:
        """A strand breaks."""
        self._ends[number].shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Everything breaks."""
        for number in range(len(self._ends)):
            self.cut(number)
            self._ends[number].close()
        if self._reader is not None:
            self.ended()
        self.gathered.close()
        os.close(self._first)

    def ended(self) -> None:
        """Returns when the reading end found the stream ended."""
        assert self._reader is not None
        self._reader.join(20)
        assert not self._reader.is_alive()

    def _read(self) -> None:
        buffer = memoryview(bytearray(70_001))
        while got := self.gathered.read_into(buffer):
            self.read += buffer[:got]


@pytest.fixture
def line() -> Iterator[Line]:
    """With one strand."""
    made = Line()
    yield made
    made.close()


@pytest.mark.parametrize("strands", [1, 2, 5])
@pytest.mark.parametrize("seed", range(4))
def test_order(line: Line, strands: int, seed: int) -> None:
    """Everything comes, in order, however it is cut and over however many strands."""
    cut = random.Random(seed)
    for _ in range(strands - 1):
        line.join()
    line.read_on()
    wrote = bytearray()
    while len(wrote) < 4 * PIECE_BYTES:
        buffers = [cut.randbytes(cut.choice((0, 1, 17, 4096, PIECE_BYTES, PIECE_BYTES + 3))) for _ in range(3)]
        line.spread.write(buffers)
        wrote += b"".join(buffers)

    assert line.all(len(wrote)) == wrote
    assert line.spread.bytes_written == len(wrote)


def test_what_was_given_may_change(line: Line) -> None:
    """The writer's buffer is its own again as soon as the write returns."""
    line.join()
    line.read_on()
    buffer = bytearray(PIECE_BYTES)
    for number in range(8):
        buffer[:] = bytes([number]) * PIECE_BYTES
        line.spread.write([memoryview(buffer)])

    assert line.all(8 * PIECE_BYTES) == b"".join(bytes([number]) * PIECE_BYTES for number in range(8))


@pytest.mark.parametrize("strands", [1, 2, 5])
@pytest.mark.parametrize("seed", range(4))
def test_the_end(line: Line, strands: int, seed: int) -> None:
    """After `finish` the other end reads all that was written, over whatever strands, and then the end."""
    for _ in range(strands - 1):
        line.join()
    line.read_on()
    wrote = random.Random(seed).randbytes(2 * strands * PIECE_BYTES + seed)
    line.spread.write([wrote])
    line.spread.finish()

    line.ended()
    assert line.read == wrote


def test_joins_and_leaves_meanwhile(line: Line) -> None:
    """A strand may come and go at any time between two writes, and the stream goes on over the others."""
    line.read_on()
    wrote = b""
    for number in range(12):
        if number in (2, 3, 7):
            line.join()
        if number in (5, 6, 9):
            line.spread.leave()
        part = random.Random(number).randbytes(3 * PIECE_BYTES + number)
        line.spread.write([part])
        wrote += part

    assert line.all(len(wrote)) == wrote
    assert line.spread.count == 1
    line.spread.leave()
    assert line.spread.count == 1, "the first never leaves"


def test_strand_that_left_may_end(line: Line) -> None:
    """Its connection is nobody's concern any more."""
    line.join()
    line.read_on()
    line.spread.write([bytes(4 * PIECE_BYTES)])
    line.spread.leave()
    line.spread.write([b"between"])  # with its leave; its thread closes it
    line.spread.write([b"after"])

    assert line.all(4 * PIECE_BYTES + 12).endswith(b"betweenafter")
    assert not line.broke.is_set()


def test_strand_breaks(line: Line) -> None:
    """The writer hears of it, and whoever waits for an answer to what was lost is told."""
    line.join()
    line.read_on()
    line.spread.write([bytes(4 * PIECE_BYTES)])
    line.all(4 * PIECE_BYTES)
    line.cut(1)

    with pytest.raises(BrokenPipeError):
        line.spread.write([bytes(100 * PIECE_BYTES)])

    assert line.broke.is_set()
    line.ended()


def test_stream_ends(line: Line) -> None:
    """The end of a strand that did not take its leave is the end of the stream."""
    line.join()
    here, there = line.strand()
    line.gathered.join(there)
    line.read_on()
    os.close(here)

    line.ended()
