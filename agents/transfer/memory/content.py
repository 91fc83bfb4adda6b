"""Know which pages the target holds unchanged by comparing content: for kernels without write tracking.

The source keeps what it sent: whole pages in a shadow (compared byte by byte) while the budget lasts, and beyond it
the SHA-256 of each page. Nothing is taken for equal that is not, up to that hash. It costs a read of all memory in
each round, also in the last one, and the shadow on the source; ``Budget.spent_bytes`` tells.
"""

import ctypes
import hashlib
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass

from agents.transfer.memory.areas import ProcessFacts, ours
from agents.transfer.memory.extents import PAGE_BYTES, Extent, Extents, intersect, normalised, subtract, union
from agents.transfer.memory.pagemap import Pagemap
from agents.transfer.memory.reader import Pages, select

_libc = ctypes.CDLL(None)
_libc.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_libc.memcmp.restype = ctypes.c_int
_WINDOW_BYTES = 1 << 24
_WINDOWS_KEPT = 4
DIGEST_COST_BYTES = 200
"""What one page beyond the budget costs: its digest, and its place in a dictionary."""


@dataclass(slots=True)
class Budget:
    """Memory that all shadows of one migration may take together."""

    cap_bytes: int
    spent_bytes: int = 0

    def take(self, count_bytes: int) -> bool:
        """Spend, if it is there."""
        if self.spent_bytes + count_bytes > self.cap_bytes:
            return False
        self.spent_bytes += count_bytes
        return True


class Shadow:
    """Copies of pages at their own addresses, in a sparse file without a name."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._fd = os.memfd_create("memory-shadow", os.MFD_CLOEXEC)
        os.ftruncate(self._fd, 1 << 47)
        self._windows: dict[int, mmap.mmap] = {}
        self._known: Extents = []
        self._digests: dict[int, bytes] = {}
        self._charged = 0

    def close(self) -> None:
        self._windows.clear()
        os.close(self._fd)
        self._budget.spent_bytes -= self._charged

    def differing(self, extent: Extent, data: memoryview) -> Extents:
        """The pages of ``extent`` whose content is not what was kept; what is new counts as different."""
        known = intersect([extent], self._known)
        found = [page for start, end in known for page in self._compare(start, end, data[start - extent[0] :])]
        for start, end in subtract([extent], known):
            for page in range(start, end, PAGE_BYTES):
                kept = self._digests.get(page)
                if kept is None or kept != _digest(data, page - extent[0]):
                    found.append((page, page + PAGE_BYTES))
        return normalised(found)

    def keep(self, extent: Extent, data: memoryview) -> None:
        """Keep what was sent."""
        for start, end in subtract([extent], self._known):
            if self._charge(end - start):
                self._known = union(self._known, [(start, end)])
        for start, end in intersect([extent], self._known):
            os.pwrite(self._fd, data[start - extent[0] : end - extent[0]], start)
        for start, end in subtract([extent], self._known):
            for page in range(start, end, PAGE_BYTES):
                if page not in self._digests:
                    self._charge(DIGEST_COST_BYTES, always=True)
                self._digests[page] = _digest(data, page - extent[0])

    def forget(self, extents: Extents) -> None:
        """These pages have no content any more."""
        if intersect(self._known, extents):
            self._known = subtract(self._known, extents)
        for start, end in extents if self._digests else ():
            for page in range(start, end, PAGE_BYTES):
                self._digests.pop(page, None)

    def _charge(self, count_bytes: int, *, always: bool = False) -> bool:
        if not self._budget.take(count_bytes):
            if not always:
                return False
            self._budget.spent_bytes += count_bytes
        self._charged += count_bytes
        return True

    def _compare(self, start: int, end: int, data: memoryview) -> Iterator[Extent]:
        """Pages that differ, found by halving what differs."""
        new = _address(data)
        at = start
        while at < end:
            window = at & ~(_WINDOW_BYTES - 1)
            stop = min(end, window + _WINDOW_BYTES)
            old = self._window(window) + at - window
            for first, last in _differing(new + at - start, old, stop - at):
                yield at + first, at + last
            at = stop

    def _window(self, base: int) -> int:
        if base not in self._windows:
            if len(self._windows) >= _WINDOWS_KEPT:
                del self._windows[next(iter(self._windows))]
            self._windows[base] = mmap.mmap(self._fd, _WINDOW_BYTES, offset=base)
        return _address(memoryview(self._windows[base]))


class ContentTracker:
    """The Tracker that hands out everything and sifts it by content."""

    def __init__(self, process: ProcessFacts, budget: Budget) -> None:
        self._process = process
        self._shadow = Shadow(budget)
        self._is_last = False
        self.space_gone = False

    def changed(self) -> tuple[Extents, Extents]:
        mine = ours(self._process)
        with Pagemap(self._process.pid) as pagemap:
            content = pagemap.content(mine)
        return content, content

    def changed_at_last(self) -> tuple[Extents, Extents]:
        self._is_last = True
        return self.changed()

    def sift(self, pages: Pages) -> Pages:
        """Only what differs from what was sent; that is remembered as sent, unless no round will follow."""
        self._shadow.forget(pages.zero)
        self._shadow.forget(pages.lost)
        wanted: Extents = []
        at = 0
        for start, end in pages.extents:
            data = pages.data[at : at + end - start]
            for piece in self._shadow.differing((start, end), data):
                wanted.append(piece)
                if not self._is_last:
                    self._shadow.keep(piece, data[piece[0] - start : piece[1] - start])
            at += end - start
        return select(pages, wanted)

    def lost(self, pages: Extents) -> None:
        self._shadow.forget(pages)

    def release(self) -> None:
        self._shadow.close()


def _digest(data: memoryview, offset: int) -> bytes:
    return hashlib.sha256(data[offset : offset + PAGE_BYTES]).digest()


def _address(data: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(data))


def _differing(new: int, old: int, length: int) -> Iterator[Extent]:
    if _libc.memcmp(new, old, length) == 0:
        return
    if length == PAGE_BYTES:
        yield 0, PAGE_BYTES
        return
    half = max(PAGE_BYTES, (length // 2) & ~(PAGE_BYTES - 1))
    yield from _differing(new, old, half)
    for first, last in _differing(new + half, old + half, length - half):
        yield first + half, last + half
