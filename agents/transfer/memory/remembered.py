"""What was sent, remembered on the source so that what changed can be found by comparing; and never more than a budget.

A page is remembered whole (compared byte by byte) while the budget lasts, then by its SHA-256, 32 bytes in place of 4,096,
then not at all. Rule: nothing is taken for equal that is not, up to that hash; what is not remembered is different.
The cap is hard: it counts the blocks that the files of this module take, and room for everybody's hashes is kept free.
"""

import ctypes
import hashlib
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from agents.transfer.memory.extents import (
    PAGE_BYTES,
    Extent,
    Extents,
    intersect,
    normalised,
    size_bytes,
    subtract,
    union,
)
from agents.transfer.memory.kernel import punch_hole

_libc = ctypes.CDLL(None)
_libc.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_libc.memcmp.restype = ctypes.c_int
_WINDOW_BYTES = 1 << 24
_WINDOWS_KEPT = 4
HASH_BYTES = 32
_HASHED_BYTES = PAGE_BYTES // HASH_BYTES * PAGE_BYTES
"""So much memory has its hashes in one block of the file."""


@dataclass(slots=True)
class Budget:
    """Memory that all of one migration may take together to remember what it sent."""

    cap_bytes: int
    spent_bytes: int = 0
    _expected: dict[int, int] = field(default_factory=dict)
    _copied_bytes: int = 0

    def expect(self, whose: int, content_bytes: int) -> None:
        """So much memory of this owner is to be remembered one way or the other; 0: it has ended."""
        self._expected[whose] = content_bytes

    def copies(self, wanted_bytes: int) -> int:
        """Take room for copies of pages; bytes granted, which may be less, so that hashes still have theirs."""
        rest, free = sum(self._expected.values()) - self._copied_bytes, self.cap_bytes - self.spent_bytes
        if wanted_bytes + _hashes_of(rest - wanted_bytes) <= free:
            granted = wanted_bytes
        else:
            granted = max(0, free - _hashes_of(rest)) & -PAGE_BYTES
        self.spent_bytes += granted
        self._copied_bytes += granted
        return granted

    def hashes(self, blocks: int) -> bool:
        """Take room for blocks of hashes, all or none."""
        if self.spent_bytes + blocks * PAGE_BYTES > self.cap_bytes:
            return False
        self.spent_bytes += blocks * PAGE_BYTES
        return True

    def give_back(self, copied_bytes: int, hash_blocks: int = 0) -> None:
        """They were freed."""
        self._copied_bytes -= copied_bytes
        self.spent_bytes -= copied_bytes + hash_blocks * PAGE_BYTES


def _hashes_of(rest_bytes: int) -> int:
    """Room for the hashes of so much, twice what they need together: they may lie scattered."""
    return 2 * (rest_bytes // _HASHED_BYTES + 1) * PAGE_BYTES if rest_bytes > 0 else 0


class Remembered:
    """One process's pages as they were sent, at their own addresses in files without a name."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._copies = _sparse("memory-sent", 1 << 47)
        self._hashes = _sparse("memory-hashes", (1 << 47) // PAGE_BYTES * HASH_BYTES)
        self._windows: dict[int, mmap.mmap] = {}
        self._copied: Extents = []
        self._hashed: Extents = []
        self._hash_blocks: set[int] = set()

    def close(self) -> None:
        """Everything is forgotten."""
        self._windows.clear()
        os.close(self._copies)
        os.close(self._hashes)
        self._budget.expect(id(self), 0)
        self._budget.give_back(size_bytes(self._copied), len(self._hash_blocks))

    def expect(self, content_bytes: int) -> None:
        """So much is going to be kept here."""
        self._budget.expect(id(self), content_bytes)

    def differing(self, extent: Extent, data: memoryview) -> Extents:
        """The pages of ``extent`` whose content is not what was kept; what is not known counts as different."""
        copied, hashed = intersect([extent], self._copied), intersect([extent], self._hashed)
        found = [page for start, end in copied for page in self._compare(start, end, data[start - extent[0] :])]
        for start, end in hashed:
            kept = os.pread(self._hashes, (end - start) // PAGE_BYTES * HASH_BYTES, start // PAGE_BYTES * HASH_BYTES)
            now = _hash_all(data[start - extent[0] : end - extent[0]])
            if kept != now:
                found += [
                    (start + at // HASH_BYTES * PAGE_BYTES, start + (at // HASH_BYTES + 1) * PAGE_BYTES)
                    for at in range(0, len(now), HASH_BYTES)
                    if kept[at : at + HASH_BYTES] != now[at : at + HASH_BYTES]
                ]
        return normalised((*found, *subtract(subtract([extent], copied), hashed)))

    def keep(self, extent: Extent, data: memoryview) -> None:
        """Keep what was sent."""
        for start, end in subtract(subtract([extent], self._copied), self._hashed):
            if granted := self._budget.copies(end - start):
                self._copied = union(self._copied, [(start, start + granted)])
            if start + granted < end and self._hash_room(start + granted, end):
                self._hashed = union(self._hashed, [(start + granted, end)])
        for start, end in intersect([extent], self._copied):
            _write(self._copies, data[start - extent[0] : end - extent[0]], start)
        for start, end in intersect([extent], self._hashed):
            hashes = _hash_all(data[start - extent[0] : end - extent[0]])
            _write(self._hashes, memoryview(hashes), start // PAGE_BYTES * HASH_BYTES)

    def only(self, content: Extents) -> None:
        """All else is forgotten: what loses its content is dropped at the target, and must be sent should it come again."""
        if gone := subtract(union(self._copied, self._hashed), content):
            self.forget(gone)

    def forget(self, extents: Extents) -> None:
        """These pages have no content any more, or are not at the target as they were."""
        gone = intersect(self._copied, extents)
        for extent in gone:
            punch_hole(self._copies, extent)
        self._copied = subtract(self._copied, gone)
        self._budget.give_back(size_bytes(gone))
        self._hashed = subtract(self._hashed, extents)

    def _hash_room(self, start: int, end: int) -> bool:
        blocks = set(range(start // _HASHED_BYTES, (end - 1) // _HASHED_BYTES + 1)) - self._hash_blocks
        if not self._budget.hashes(len(blocks)):
            return False
        self._hash_blocks |= blocks
        return True

    def _compare(self, start: int, end: int, data: memoryview) -> Iterator[Extent]:
        """Pages that differ from their copies, found by halving what differs."""
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
            self._windows[base] = mmap.mmap(self._copies, _WINDOW_BYTES, offset=base)
        return _address(memoryview(self._windows[base]))


def _sparse(name: str, length: int) -> int:
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    os.ftruncate(fd, length)
    return fd


def _write(fd: int, data: memoryview, offset: int) -> None:
    while data:
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done


def _hash_all(data: memoryview) -> bytes:
    return b"".join(hashlib.sha256(data[at : at + PAGE_BYTES]).digest() for at in range(0, len(data), PAGE_BYTES))


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
