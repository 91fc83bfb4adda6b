"""Whether pages are compressed (zlib) on their way: only where that brings them to the target sooner, as measured.

A byte that goes as it is takes the line's time; one that is compressed takes processor time, and then the line's for what is left.
Both are measured while pages go: the line by every frame, compression by a sample now and then. At 1 Gbit/s it hardly ever pays.

Rule: what is expanded is exactly as long as the frame says, or the stream is refused.
"""

import time
import zlib
from collections.abc import Callable

from agents.transfer.memory.frames import Corrupt

LEVEL = 1
"""zlib's quickest: its others take several times as long for some percent."""
SAMPLE_EVERY_BYTES = 32 << 20
SAMPLE_BYTES = 256 << 10
MEASURED_FROM_BYTES = 8 << 20
"""Before that much has gone, buffers were filled, and the line was not measured."""
FORGETS = 0.9
"""What the past counts at each new frame."""
PAYS_BELOW = 0.9
"""Of the time without compression: what is nearly equal is not worth the VE's processor."""


class Compressor:
    """One stream's decision; `compress` each payload, and tell `wrote` how long the line took for it."""

    def __init__(self, *, wanted: bool = True, clock: Callable[[], float] = time.perf_counter) -> None:
        self._wanted, self._clock = wanted, clock
        self._line_s = self._line_bytes = 0.0
        self._gone_bytes = 0
        self._next_sample = MEASURED_FROM_BYTES
        self._cpu_s_per_byte, self._share = 0.0, 1.0
        self.saved_bytes = 0
        """What did not have to be sent."""

    @property
    def pays(self) -> bool:
        """Whether compression brings the next pages to the target sooner."""
        if not self._wanted or not self._cpu_s_per_byte or not self._line_bytes:
            return False
        return quicker(self._cpu_s_per_byte, self._share, self._line_s / self._line_bytes)

    def compress(self, data: memoryview) -> bytes | None:
        """Compressed; None: it goes as it is."""
        if not self._wanted:
            return None
        if self.pays:
            compressed = self._measured(data)
            return compressed if len(compressed) < len(data) else None
        if self._gone_bytes >= self._next_sample:
            self._next_sample = self._gone_bytes + SAMPLE_EVERY_BYTES
            self._measured(data[:SAMPLE_BYTES])
        return None

    def _measured(self, data: memoryview) -> bytes:
        began = self._clock()
        compressed = zlib.compress(data, LEVEL)
        self._cpu_s_per_byte, self._share = (self._clock() - began) / len(data), len(compressed) / len(data)
        return compressed

    def wrote(self, data_bytes: int, wire_bytes: int, took_s: float) -> None:
        """So many bytes of pages went in so many bytes on the line, which took so long."""
        self._gone_bytes += data_bytes
        self.saved_bytes += max(0, data_bytes - wire_bytes)
        self._line_s = FORGETS * self._line_s + took_s
        self._line_bytes = FORGETS * self._line_bytes + wire_bytes


def quicker(cpu_s_per_byte: float, share: float, line_s_per_byte: float) -> bool:
    """Whether a byte that is compressed to this `share` of it reaches the target sooner than one that is not."""
    return cpu_s_per_byte + share * line_s_per_byte < PAYS_BELOW * line_s_per_byte


def expanded(payload: memoryview, size_bytes: int) -> memoryview:
    """The inverse of `compress`. Raises ``Corrupt``."""
    inflating = zlib.decompressobj()
    try:
        data = inflating.decompress(payload, size_bytes + 1)
    except zlib.error as error:
        raise Corrupt(f"compressed pages cannot be expanded: {error}") from error
    if len(data) != size_bytes or not inflating.eof:
        raise Corrupt("compressed pages are not as many as the frame names")
    return memoryview(data)
