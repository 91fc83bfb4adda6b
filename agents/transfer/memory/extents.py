"""Sets of address ranges: PURE.

A set is a list of ``(start, end)`` byte addresses, sorted, non-empty, not touching. All operations are
linear merges, so that their cost follows the number of ranges and never the number of pages.
"""

from collections.abc import Iterable, Iterator, Sequence

PAGE_BYTES = 4096

Extent = tuple[int, int]
Extents = list[Extent]


def normalised(ranges: Iterable[Extent]) -> Extents:
    """Any ranges, in any order and overlapping, as a set."""
    merged: Extents = []
    for start, end in sorted(ranges):
        if start >= end:
            continue
        if merged and start <= merged[-1][1]:
            if end > merged[-1][1]:
                merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


def union(left: Sequence[Extent], right: Sequence[Extent]) -> Extents:
    """What is in either."""
    return normalised((*left, *right))


def intersect(left: Sequence[Extent], right: Sequence[Extent]) -> Extents:
    """What is in both."""
    common: Extents = []
    i = j = 0
    while i < len(left) and j < len(right):
        start = max(left[i][0], right[j][0])
        end = min(left[i][1], right[j][1])
        if start < end:
            common.append((start, end))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return common


def subtract(left: Sequence[Extent], right: Sequence[Extent]) -> Extents:
    """What is in ``left`` and not in ``right``."""
    rest: Extents = []
    j = 0
    for start, end in left:
        at = start
        while j < len(right) and right[j][1] <= at:
            j += 1
        k = j
        while k < len(right) and right[k][0] < end:
            if right[k][0] > at:
                rest.append((at, right[k][0]))
            at = max(at, right[k][1])
            k += 1
        if at < end:
            rest.append((at, end))
    return rest


def size_bytes(extents: Iterable[Extent]) -> int:
    """How many bytes the set covers."""
    return sum(end - start for start, end in extents)


def batches(extents: Iterable[Extent], limit_bytes: int, limit_count: int) -> Iterator[Extents]:
    """The set cut into parts of at most ``limit_bytes`` and ``limit_count`` ranges each, in order."""
    part: Extents = []
    room = limit_bytes
    for start, end in extents:
        at = start
        while at < end:
            take = min(end - at, room)
            part.append((at, at + take))
            at += take
            room -= take
            if room == 0 or len(part) == limit_count:
                yield part
                part, room = [], limit_bytes
    if part:
        yield part
