"""Which pages of a process have content, and which were written: ``/proc/PID/pagemap``.

On Linux 6.7 and later by the ``PAGEMAP_SCAN`` ioctl, which also tells zero pages apart; before that by reading
the file, eight bytes per page, searched without a step of Python per page.
"""

import errno
import os
import re
from collections.abc import Sequence
from functools import cache

from agents.transfer.memory import kernel
from agents.transfer.memory.extents import PAGE_BYTES, Extent, Extents, normalised

ENTRY_BYTES = 8
_READ_PAGES = 1 << 17
_HAS_CONTENT = re.compile(rb"[\x40-\xff]+")  # bit 63: present, bit 62: swapped; in each entry's last byte

_SOFT_DIRTY = re.compile(rb"[\x80-\xff]+")  # bit 55; in each entry's last byte but one

_SOMETHING = kernel.PAGE_IS_PRESENT | kernel.PAGE_IS_SWAPPED


class Pagemap:
    """An open pagemap. Nothing here is held between calls: each answer is as new as the call."""

    def __init__(self, pid: int) -> None:
        """Raises ProcessLookupError when the process has gone."""
        try:
            self._fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise ProcessLookupError(errno.ESRCH, f"process {pid} is gone") from error

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> "Pagemap":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def content(self, spans: Sequence[Extent]) -> Extents:
        """The pages that hold something: in memory or swap, and not the kernel's zero page where it can tell."""
        try:
            return self._scan(spans, 0, protect=False)
        except OSError as error:
            if error.errno not in {errno.ENOTTY, errno.EINVAL}:
                raise
        return normalised(extent for span in spans for extent in self._read(span, 7, _HAS_CONTENT))

    def softly_dirty(self, spans: Sequence[Extent]) -> Extents:
        """Pages written or mapped since the bits were cleared last (`soft_dirty`); none on kernels without these bits."""
        return normalised(extent for span in spans for extent in self._read(span, 6, _SOFT_DIRTY))

    def take_written(self, spans: Sequence[Extent]) -> Extents:
        """Pages written since the last call, protected again in the same step; only where writes are tracked."""
        return self._scan(spans, kernel.PAGE_IS_WPALLOWED | kernel.PAGE_IS_WRITTEN, protect=True)

    def unwritten(self, spans: Sequence[Extent]) -> Extents:
        """Pages with content, under tracking, and not written since ``take_written``."""
        mask = kernel.PAGE_IS_WPALLOWED | kernel.PAGE_IS_WRITTEN
        return self._scan(spans, mask, protect=False, inverted=kernel.PAGE_IS_WRITTEN)

    def tracked(self, spans: Sequence[Extent]) -> Extents:
        """Pages with content whose mapping is under tracking."""
        return self._scan(spans, kernel.PAGE_IS_WPALLOWED, protect=False)

    def guards(self, spans: Sequence[Extent]) -> Extents:
        """Where there are no pages but guards (MADV_GUARD_INSTALL); nothing on kernels without them."""
        if not _guards_known():
            return []
        found = (
            kernel.scan_pagemap(
                self._fd, span, inverted=0, mask=kernel.PAGE_IS_GUARD, anyof=0, returned=kernel.PAGE_IS_GUARD
            )
            for span in spans
        )
        return normalised((start, end) for one in found for start, end, _ in one)

    def raw(self, span: Extent) -> bytes:
        """The entries of the span as the kernel gives them, for a reader that expects this very format."""
        start, end = span
        wanted = (end - start) // PAGE_BYTES * ENTRY_BYTES
        parts: list[bytes] = []
        while wanted:
            part = os.pread(self._fd, wanted, start // PAGE_BYTES * ENTRY_BYTES + sum(map(len, parts)))
            if not part:
                break
            parts.append(part)
            wanted -= len(part)
        return b"".join(parts)

    def _scan(self, spans: Sequence[Extent], mask: int, *, protect: bool, inverted: int = 0) -> Extents:
        nothing = kernel.PAGE_IS_PFNZERO | (kernel.PAGE_IS_GUARD if _guards_known() else 0)
        return normalised(
            (start, end)
            for span in spans
            for start, end, _ in kernel.scan_pagemap(
                self._fd,
                span,
                inverted=inverted | nothing,
                mask=mask | nothing,
                anyof=_SOMETHING,
                returned=_SOMETHING,
                protect=protect,
            )
        )

    def _read(self, span: Extent, byte: int, wanted: re.Pattern[bytes]) -> Extents:
        """Pages in whose entries this byte is as wanted."""
        found: Extents = []
        for at in range(span[0], span[1], _READ_PAGES * PAGE_BYTES):
            entries = self.raw((at, min(at + _READ_PAGES * PAGE_BYTES, span[1])))[byte::ENTRY_BYTES]
            found.extend(
                (at + run.start() * PAGE_BYTES, at + run.end() * PAGE_BYTES) for run in wanted.finditer(entries)
            )
        return found


def scan_works() -> bool:
    """Whether this kernel has ``PAGEMAP_SCAN`` and asynchronous write protection (Linux 6.7)."""
    try:
        with Pagemap(os.getpid()) as own:
            own.tracked([(PAGE_BYTES, 2 * PAGE_BYTES)])
    except OSError:
        return False
    return True


@cache
def _guards_known() -> bool:
    """Whether this kernel tells guards apart (Linux 6.15)."""
    with Pagemap(os.getpid()) as own:
        try:
            kernel.scan_pagemap(
                own._fd,
                (PAGE_BYTES, 2 * PAGE_BYTES),
                inverted=0,
                mask=kernel.PAGE_IS_GUARD,
                anyof=0,
                returned=kernel.PAGE_IS_GUARD,
            )
        except OSError:
            return False
    return True
