"""Puts right in a dump what CRIU would not restore as it was.

Rule: only what was seen to go wrong, with the version; the change is the smallest that an unchanged CRIU restores rightly.

* A periodic timer descriptor that fired and was not read before the freeze (seen with CRIU 4.2.1 on Linux 6.18): the kernel
  arms it again only when it is read, so that it shows no time left; CRIU arms it with that, which disarms it for ever.
  Given one nanosecond it fires at once, and then goes on with its interval.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

HEAD_BYTES = 8
"""Two magic numbers (criu/include/image-desc.h); then entries of a length and a protobuf message."""
FILE_TIMER = 12
"""images/fdinfo.proto: file_entry.tfd."""
TIMER_SECONDS, TIMER_NANOSECONDS, INTERVAL_SECONDS, INTERVAL_NANOSECONDS = 7, 8, 9, 10
"""images/timerfd.proto."""
Field = tuple[int, int, int, int]
"""Number, value of a number or length of bytes, where its value begins, where it ends."""


def repair(images: Path) -> int:
    """Everything that is known; how many things were put right."""
    path = images / "files.img"
    if not path.exists():
        return 0
    data = bytearray(path.read_bytes())
    places = [place for entry in _entries(data) for place in _stopped_timers(data, *entry)]
    for place in places:
        data[place] = 1
    if places:
        path.write_bytes(data)
    return len(places)


def _entries(data: bytearray) -> Iterator[tuple[int, int]]:
    at = HEAD_BYTES
    while at + 4 <= len(data):
        (length,) = struct.unpack_from("<I", data, at)
        yield at + 4, at + 4 + length
        at += 4 + length


def _stopped_timers(data: bytearray, begin: int, end: int) -> Iterator[int]:
    """Where the nanoseconds left stand of timers that have an interval and no time left."""
    for number, _, start, stop in _fields(data, begin, end):
        if number != FILE_TIMER:
            continue
        timer = {field[0]: field for field in _fields(data, start, stop)}
        left = [timer[number][1] for number in (TIMER_SECONDS, TIMER_NANOSECONDS)]
        interval = [timer[number][1] for number in (INTERVAL_SECONDS, INTERVAL_NANOSECONDS)]
        if any(interval) and not any(left):
            yield timer[TIMER_NANOSECONDS][2]


def _fields(data: bytearray, at: int, end: int) -> Iterator[Field]:
    """The fields of a protobuf message (protobuf.dev/programming-guides/encoding)."""
    while at < end:
        key, at = _varint(data, at)
        start = at
        match key & 7:
            case 0:
                value, at = _varint(data, at)
            case 1:
                value, at = 8, at + 8
            case 2:
                value, start = _varint(data, at)
                at = start + value
            case 5:
                value, at = 4, at + 4
            case kind:
                raise ValueError(f"a protobuf field of kind {kind}")
        yield key >> 3, value, start, at


def _varint(data: bytearray, at: int) -> tuple[int, int]:
    value = shift = 0
    while data[at] & 0x80:
        value |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
    return value | data[at] << shift, at + 1
