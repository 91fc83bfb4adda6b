"""What a restored address space still lacks, and where in the store it lies: PURE.

The VE runs while its memory is filled in: it may unmap, move and fork ranges that have not arrived. Each segment
carries the distance from its address now to its address in the store, so that moving costs nothing.
"""

from bisect import bisect_right, insort
from dataclasses import dataclass, field

from agents.transfer.memory.extents import Extents


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """``[start, end)`` in the process; byte ``a`` lies at ``a + shift`` in the store."""

    start: int
    end: int
    shift: int = 0


@dataclass(slots=True)
class Missing:
    """The segments of one address space that have not been placed yet, in order."""

    segments: list[Segment] = field(default_factory=list)
    moved: bool = False
    """Some may lie elsewhere in the store than in the process."""

    @classmethod
    def of(cls, extents: Extents) -> "Missing":
        """All of ``extents``, each at its own address in the store."""
        return cls([Segment(start, end) for start, end in extents])

    def copy(self) -> "Missing":
        """The same for a forked child."""
        return Missing(list(self.segments), self.moved)

    def around(self, page: int, before: int, after: int) -> Segment | None:
        """The part of the segment with ``page`` that reaches at most so far to each side; None: not missing."""
        at = bisect_right(self.segments, page, key=lambda segment: segment.start) - 1
        if at < 0 or page >= self.segments[at].end:
            return None
        segment = self.segments[at]
        return Segment(max(segment.start, page - before), min(segment.end, page + after), segment.shift)

    def first(self, length: int) -> Segment | None:
        """At most ``length`` bytes from the front; None: nothing is missing."""
        if not self.segments:
            return None
        segment = self.segments[0]
        return Segment(segment.start, min(segment.end, segment.start + length), segment.shift)

    def cut(self, start: int, end: int) -> list[Segment]:
        """Take ``[start, end)`` out; what was missing of it."""
        taken: list[Segment] = []
        low = max(0, bisect_right(self.segments, start, key=lambda segment: segment.start) - 1)
        high = low
        left: list[Segment] = []
        while high < len(self.segments) and self.segments[high].start < end:
            segment = self.segments[high]
            high += 1
            if segment.end <= start:
                left.append(segment)
                continue
            if segment.start < start:
                left.append(Segment(segment.start, start, segment.shift))
            taken.append(Segment(max(segment.start, start), min(segment.end, end), segment.shift))
            if segment.end > end:
                left.append(Segment(end, segment.end, segment.shift))
        self.segments[low:high] = left
        return taken

    def stored(self, start: int, end: int) -> list[Segment]:
        """Take out what lies in the store at ``[start, end)``, wherever it is in the process; what there was."""
        taken: list[Segment] = []
        for shift in {segment.shift for segment in self.segments} if self.moved else {0}:
            for segment in self.cut(start - shift, end - shift):
                if segment.shift == shift:
                    taken.append(segment)
                else:
                    self.put_back(segment)
        return taken

    def put_back(self, *segments: Segment) -> None:
        """These were cut and could not be placed."""
        for segment in segments:
            insort(self.segments, segment)

    def move(self, start: int, to: int, length: int) -> None:
        """The process moved ``length`` bytes from ``start`` to ``to`` (mremap)."""
        self.moved = True
        self.cut(to, to + length)
        for segment in self.cut(start, start + length):
            distance = to - start
            insort(
                self.segments,
                Segment(segment.start + distance, segment.end + distance, segment.shift - distance),
            )
