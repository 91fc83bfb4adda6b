"""Pages are compressed where that is quicker, and come out as they went in."""

import os
import zlib
from collections.abc import Sequence

import pytest

from agents.transfer.memory.compression import Compressor, expanded
from agents.transfer.memory.frames import Corrupt, Kind, ReadInto, Write, write_frame
from agents.transfer.memory.store import PageStore

MIB = 1 << 20
TEXT = memoryview(b"the same words again and again, as memory often is; " * 20165)[:MIB]
NOISE = memoryview(os.urandom(MIB))


class Line:
    """A clock, and a line and a processor of a given speed on it."""

    def __init__(self, line_bytes_per_s: float, pack_bytes_per_s: float) -> None:
        self.now_s = 0.0
        self._line, self._pack = line_bytes_per_s, pack_bytes_per_s
        self.compressor = Compressor(clock=self._clock)
        self._looks = 0

    def _clock(self) -> float:
        # The compressor looks before it compresses and after; in between, compression takes its time.
        self._looks += 1
        return self.now_s + self._looks // 2 * self.size / self._pack

    def send(self, data: memoryview, times: int) -> int:
        """How many of these were compressed."""
        count = 0
        for _ in range(times):
            self.size, self._looks = len(data), 0
            compressed = self.compressor.compress(data)
            count += compressed is not None
            wire = len(data if compressed is None else compressed)
            self.compressor.wrote(len(data), wire, wire / self._line)
        return count


def test_a_slow_line_is_spared() -> None:
    """At 100 Mbit/s, text is compressed as soon as the line is known."""
    assert Line(12e6, 80e6).send(TEXT, 100) > 80


def test_a_fast_line_is_not_held_up() -> None:
    """At 10 Gbit/s, compression would be the slowest part: nothing is compressed."""
    assert Line(1.2e9, 80e6).send(TEXT, 100) == 0


def test_what_does_not_get_smaller_is_not_packed() -> None:
    """Noise goes as it is on any line."""
    assert Line(12e6, 80e6).send(NOISE, 100) == 0


def test_it_is_not_packed_unasked() -> None:
    """Who does not want it has not even samples taken."""
    compressor = Compressor(wanted=False)
    compressor.wrote(100 * MIB, 100 * MIB, 100.0)

    assert compressor.compress(TEXT) is None
    assert not compressor.pays


def test_the_store_holds_what_was_packed() -> None:
    """A compressed frame puts the same pages in the same places as one that is not."""
    stream, answers = bytearray(), bytearray()
    write_frame(_into(stream), Kind.COMPRESSED, 1, [(0x10000, 0x10000 + MIB)], zlib.compress(TEXT, 1))
    store = PageStore(_from(stream), _into(answers), cap_bytes=8 * MIB)

    assert not store.receive()
    assert store.held_bytes == MIB
    store.close()


@pytest.mark.parametrize("size_bytes", [MIB - 4096, MIB + 4096])
def test_another_length_is_refused(size_bytes: int) -> None:
    """More or fewer pages than the frame names are no pages at all; nor are bytes that are not compressed."""
    with pytest.raises(Corrupt):
        expanded(memoryview(zlib.compress(TEXT, 1)), size_bytes)
    with pytest.raises(Corrupt):
        expanded(NOISE, MIB)


def _into(buffer: bytearray) -> Write:
    def write(parts: Sequence[bytes | memoryview]) -> None:
        for part in parts:
            buffer.extend(part)

    return write


def _from(buffer: bytearray) -> ReadInto:
    def read_into(view: memoryview) -> int:
        count = min(len(view), len(buffer))
        view[:count] = buffer[:count]
        del buffer[:count]
        return count

    return read_into
