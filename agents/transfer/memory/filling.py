"""Where a lazy restore stands: which address spaces there are, and what each of them still lacks.

The worker that places pages and the guardian beside it both keep one of these. The worker tells the guardian, before it
acts on it, everything that cannot be found out again: a descriptor that came, a range that the VE unmapped or
moved, a fork. Pages placed are not told: placing one again is refused by the kernel (EEXIST) and harms nothing.
"""

import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Self

from agents.transfer.memory.extents import Extents
from agents.transfer.memory.missing import Missing
from agents.transfer.memory.store import HeldSpace

_NOTE = struct.Struct("=iiQQQQ")
NOTE_BYTES = _NOTE.size


class Kind(IntEnum):
    """What a note says; the kernel's own numbers where it is an event of a userfaultfd."""

    TAKEN = 1
    """A restored process, by its id in the VE (`first`); its userfaultfd comes with the note."""
    RESTORED = 2
    """CRIU has finished: the VE may run from now on."""
    FILLED = 3
    """Nothing is missing any more."""
    CONNECTED = 4
    """CRIU's restore has come; its connection comes with the note."""
    ANCHORED = 5
    """Said by a worker of its anchor, which comes with the note."""
    FORK = 0x13
    """A child of process `index`; its userfaultfd comes with the note."""
    REMAP = 0x14
    """`third` bytes were moved from `first` to `second`."""
    REMOVE = 0x15
    """`first` to `second` was emptied (madvise)."""
    UNMAP = 0x16
    """`first` to `second` was unmapped."""


@dataclass(frozen=True, slots=True)
class Note:
    """One thing that happened; `index` is the place of the process in the list."""

    kind: Kind
    index: int = 0
    first: int = 0
    second: int = 0
    third: int = 0
    number: int = 0
    """Of the event it tells of; it rises."""

    def pack(self) -> bytes:
        """As bytes, always `NOTE_BYTES` of them."""
        return _NOTE.pack(self.kind, self.index, self.first, self.second, self.third, self.number)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """The inverse of `pack`."""
        kind, *rest = _NOTE.unpack(data)
        return cls(Kind(kind), *rest)


@dataclass(slots=True)
class Space:
    """One address space being filled. ``shares``: a fork may still need the same pages of the store."""

    uffd: int
    store: HeldSpace
    missing: Missing
    """What is in the store."""
    remote: Missing = field(default_factory=Missing)
    """What is on the source yet (post-copy)."""
    asked: Missing = field(default_factory=Missing)
    """What of that has been asked for; in the worker only."""
    shares: bool = False
    wiped: Extents = field(default_factory=list)
    """Ranges that a child is to find empty (MADV_WIPEONFORK)."""
    waiting: set[int] = field(default_factory=set)
    """Pages somebody waits for that could not be placed yet (an event came first, or they are on the source)."""

    @property
    def lacks(self) -> tuple[Missing, Missing, Missing]:
        """All that is missing, wherever it is."""
        return self.missing, self.remote, self.asked

    @property
    def complete(self) -> bool:
        """Nothing is."""
        return not any(each.segments for each in self.lacks)

    def cut(self, start: int, end: int) -> None:
        """``[start, end)`` was unmapped, or emptied."""
        for each in self.lacks:
            each.cut(start, end)

    def clear(self) -> None:
        """The process has gone."""
        for each in self.lacks:
            each.segments.clear()
        self.waiting.clear()

    def arrived(self, start: int, end: int) -> None:
        """What lies at ``[start, end)`` in the store is there now."""
        self.missing.put_back(*self.remote.stored(start, end), *self.asked.stored(start, end))


@dataclass(slots=True)
class Filling:
    """All address spaces of one restore. ``held`` is what the store has, by process id in the VE; ``wiped`` see `Space`."""

    held: Mapping[int, HeldSpace]
    wiped: Mapping[int, Extents] = field(default_factory=dict)
    spaces: list[Space] = field(default_factory=list)
    connection: int = -1
    """CRIU's restore speaks here, until `restored`."""
    restored: bool = False
    filled: bool = False

    def apply(self, note: Note, fd: int = -1) -> None:
        """Take in what happened; ``fd`` is the descriptor that came with it."""
        match note.kind:
            case Kind.CONNECTED:
                self.connection = fd
            case Kind.TAKEN:
                held = self.held[note.first]
                missing, remote = Missing.of(held.settle()), Missing.of(held.owed)
                self.spaces.append(Space(fd, held, missing, remote, wiped=self.wiped.get(note.first, [])))
            case Kind.FORK:
                self._fork(self.spaces[note.index], fd)
            case Kind.REMAP:
                for each in self.spaces[note.index].lacks:
                    each.move(note.first, note.second, note.third)
            case Kind.REMOVE | Kind.UNMAP:
                space = self.spaces[note.index]
                space.cut(note.first, note.second)
                space.waiting = {page for page in space.waiting if not note.first <= page < note.second}
            case Kind.RESTORED:
                self.restored = True
                os.close(self.connection)
                self.connection = -1
            case Kind.FILLED:
                self.filled = True

    def _fork(self, parent: Space, fd: int) -> None:
        parent.shares = True
        missing, remote, asked = (each.copy() for each in parent.lacks)
        child = Space(fd, parent.store, missing, remote, asked, shares=True, wiped=parent.wiped)
        for start, end in parent.wiped:
            child.cut(start, end)
        self.spaces.append(child)

    @property
    def missing_bytes(self) -> int:
        """What is not known to be in place."""
        return _size_bytes(each for space in self.spaces for each in space.lacks)

    @property
    def owed_bytes(self) -> int:
        """What of that is on the source yet."""
        return _size_bytes(each for space in self.spaces for each in (space.remote, space.asked))


def _size_bytes(parts: Iterable[Missing]) -> int:
    return sum(segment.end - segment.start for part in parts for segment in part.segments)
