"""Read a running process's pages in large pieces, leave zero pages out, and keep to a rate.

One buffer, filled by ``process_vm_readv`` with up to 1,024 ranges at a time; no step of Python per page. Memory that the
process may not read itself (``PROT_NONE``) is read through ``/proc/PID/mem``. Pages that vanish while they are
read are left out: their owner unmapped them, and the next look will say so.
"""

import ctypes
import errno
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from agents.transfer.memory import kernel
from agents.transfer.memory.extents import PAGE_BYTES, Extent, Extents, batches, normalised, size_bytes

BATCH_BYTES = 1 << 20
_ZERO_PAGE = bytes(PAGE_BYTES)
_WORDS_PER_PAGE = PAGE_BYTES // 8


class Cancelled(Exception):
    """The work was called off."""


class Throttle:
    """Holds a stream to ``bytes_per_s`` (None: free), and ends it when ``cancel`` is set.

    It counts from the moment it was made, and forgets credit older than a tenth of a second, so that a pause is not
    followed by a burst.
    """

    def __init__(
        self,
        bytes_per_s: float | None,
        cancel: threading.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bytes_per_s = bytes_per_s
        self._cancel = cancel or threading.Event()
        self._clock = clock
        self._free_at = clock()

    def take(self, count_bytes: int) -> None:
        """Wait until ``count_bytes`` may pass. Raises ``Cancelled``."""
        if self._cancel.is_set():
            raise Cancelled
        if self.bytes_per_s is None:
            return
        now = self._clock()
        self._free_at = max(self._free_at, now - 0.1) + count_bytes / self.bytes_per_s
        if self._free_at > now and self._cancel.wait(self._free_at - now):
            raise Cancelled


@dataclass(frozen=True, slots=True)
class Pages:
    """Some pages as they were read: ``extents`` in order, their bytes one after another in ``data``.

    ``data`` is only valid until the next is asked for. ``zero`` are pages that were read and hold nothing but
    zeros; ``lost`` could not be read.
    """

    extents: Extents
    data: memoryview
    zero: Extents
    lost: Extents


class Reader:
    """Reads pages of one process after another into one buffer."""

    def __init__(self) -> None:
        self._buffer = mmap.mmap(-1, BATCH_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._view = memoryview(self._buffer)
        self._anchor = ctypes.c_char.from_buffer(self._buffer)
        self._address = ctypes.addressof(self._anchor)

    def close(self) -> None:
        del self._anchor
        self._view.release()
        self._buffer.close()

    def read(self, pid: int, extents: Sequence[Extent], throttle: Throttle) -> Iterator[Pages]:
        """All of ``extents``, a batch at a time. Raises ``ProcessLookupError`` when the process is gone."""
        for batch in batches(extents, BATCH_BYTES, kernel.IOV_MAX):
            throttle.take(0)
            present, lost = self._fill(pid, batch)
            yield self._without_zeros(present, lost)

    def read_whole(self, pid: int, extents: Extents) -> memoryview:
        """All of ``extents``, zeros too, at most a batch; valid until the next is asked for. Raises ``ProcessLookupError``
        and ``OSError`` when any of it cannot be read."""
        present, lost = self._fill(pid, extents)
        if lost:
            raise OSError(errno.EFAULT, f"memory of process {pid} at {lost[0][0]:#x} cannot be read")
        return self._view[: size_bytes(present)]

    def _fill(self, pid: int, batch: Extents) -> tuple[Extents, Extents]:
        """Read the batch to the front of the buffer: what was read, and what could not be."""
        present: Extents = []
        lost: Extents = []
        rest = list(batch)
        filled = 0
        while rest:
            done = self._attempt(pid, rest, filled)
            filled += done
            while rest and done >= rest[0][1] - rest[0][0]:
                done -= rest[0][1] - rest[0][0]
                present.append(rest.pop(0))
            if rest:
                start, end = rest[0]
                if done:
                    present.append((start, start + done))
                unreadable = (start + done, start + done + PAGE_BYTES)
                (present if self._forced(pid, unreadable[0], filled) else lost).append(unreadable)
                filled += PAGE_BYTES if present and present[-1] == unreadable else 0
                rest[0] = (unreadable[1], end)
                if unreadable[1] >= end:
                    rest.pop(0)
        return present, lost

    def _attempt(self, pid: int, ranges: Extents, filled: int) -> int:
        """Bytes read from the start of ``ranges``, in whole pages."""
        try:
            done = kernel.read_memory(pid, ranges, self._address + filled)
        except OSError as error:
            if error.errno == errno.EFAULT:
                return 0
            raise
        return done & ~(PAGE_BYTES - 1)

    def _forced(self, pid: int, address: int, filled: int) -> bool:
        """Read one page the way a debugger does."""
        try:
            memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.preadv(memory, [self._view[filled : filled + PAGE_BYTES]], address) == PAGE_BYTES
            finally:
                os.close(memory)
        except FileNotFoundError as error:
            raise ProcessLookupError(errno.ESRCH, f"process {pid} is gone") from error
        except OSError:
            return False

    def _without_zeros(self, present: Extents, lost: Extents) -> Pages:
        length = size_bytes(present)
        zeros = self._zero_offsets(length)
        if not zeros:
            return Pages(present, self._view[:length], [], lost)
        kept, zero = _split(present, zeros)
        filled = 0
        for start, end in _kept_offsets(length, zeros):
            if start != filled:
                self._view[filled : filled + end - start] = self._view[start:end]
            filled += end - start
        return Pages(kept, self._view[:filled], zero, lost)

    def _zero_offsets(self, length: int) -> list[int]:
        """Offsets of pages that are all zeros: looked at closely only where the first word is zero."""
        first_words = self._view[:length].cast("Q")[::_WORDS_PER_PAGE].tolist()
        found: list[int] = []
        at = -1
        while True:
            try:
                at = first_words.index(0, at + 1)
            except ValueError:
                return found
            offset = at * PAGE_BYTES
            if self._buffer[offset : offset + PAGE_BYTES] == _ZERO_PAGE:
                found.append(offset)


def _split(present: Extents, zeros: Sequence[int]) -> tuple[Extents, Extents]:
    """The ranges kept, in the order of the buffer, and those that are zero."""
    kept: Extents = []
    zero: Extents = []
    offset = 0
    remaining = iter(zeros)
    next_zero = next(remaining, None)
    for start, end in present:
        at = start
        while next_zero is not None and next_zero < offset + end - start:
            address = start + next_zero - offset
            if address > at:
                kept.append((at, address))
            zero.append((address, address + PAGE_BYTES))
            at = address + PAGE_BYTES
            next_zero = next(remaining, None)
        if at < end:
            kept.append((at, end))
        offset += end - start
    return kept, normalised(zero)


def _kept_offsets(length: int, zeros: Sequence[int]) -> Iterator[Extent]:
    at = 0
    for zero in zeros:
        if zero > at:
            yield at, zero
        at = zero + PAGE_BYTES
    if at < length:
        yield at, length


def select(pages: Pages, wanted: Extents) -> Pages:
    """Only the ``wanted`` of the pages, moved together in their buffer; ``wanted`` keeps the order of the pages."""
    filled = 0
    offset = 0
    remaining = iter(wanted)
    piece = next(remaining, None)
    for start, end in pages.extents:
        while piece is not None and start <= piece[0] and piece[1] <= end:
            at, length = offset + piece[0] - start, piece[1] - piece[0]
            if at != filled:
                pages.data[filled : filled + length] = pages.data[at : at + length]
            filled += length
            piece = next(remaining, None)
        offset += end - start
    return Pages(wanted, pages.data[:filled], pages.zero, pages.lost)
