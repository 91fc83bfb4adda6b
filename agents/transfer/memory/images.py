"""The few CRIU images that speak of memory: read them, check them, and complete them with pages that we hold.

Formats from CRIU 4.1.1 (``images/pagemap.proto``, ``mm.proto``, ``vma.proto``, ``criu/include/magic.h``): two magic
words, then per entry a 32-bit length and a protobuf message. ``pages-N.img`` has no header: pages in the order of the
entries marked present. Only the varint fields needed here are decoded; unknown fields are skipped.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from agents.transfer.memory.extents import PAGE_BYTES, Extents, batches, normalised, subtract, union
from agents.transfer.memory.port import MemoryRefused
from agents.transfer.memory.store import HeldSpace

_COMMON_MAGIC = 0x54564319
_PAGEMAP_MAGIC = 0x56084025
_MM_MAGIC = 0x57492820
PE_PARENT = 1 << 0
PE_LAZY = 1 << 1
PE_PRESENT = 1 << 2

_MAP_TYPE = 0x0F
_MAP_PRIVATE = 0x02
_MAP_DROPPABLE = 0x08
_MAP_ANONYMOUS = 0x20
_MAP_LOCKED = 0x2000
_MAP_HUGETLB = 0x40000
_KERNELS_OWN = 1 << 2 | 1 << 3 | 1 << 12  # vsyscall, vDSO, vvar: VMA_AREA_* in the status field

_ENTRY_BYTES = 1 << 26  # CRIU keeps lengths of entries in 32-bit integers here and there
_MM_VMAS = 14
_VMA_START, _VMA_END, _VMA_FLAGS, _VMA_STATUS, _VMA_MADVICE = 1, 2, 6, 7, 9
_WIPE_ON_FORK = 1 << 18
_GUARD = 1 << 16


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive pages of a pagemap; ``offset`` is where they lie in the pages image (None: not there)."""

    start: int
    pages: int
    flags: int
    offset: int | None

    @property
    def end(self) -> int:
        """The address after the last byte."""
        return self.start + self.pages * PAGE_BYTES


@dataclass(frozen=True, slots=True)
class PagemapImage:
    """``pagemap-PID.img``."""

    pages_id: int
    runs: tuple[Run, ...]


def read_pagemap(images: Path, pid: int) -> PagemapImage:
    """The pagemap of one process, by its id inside the VE."""
    entries = _entries(images / f"pagemap-{pid}.img", _PAGEMAP_MAGIC)
    head = next(entries, None)
    if head is None:
        raise MemoryRefused(f"pagemap-{pid}.img is empty")
    runs: list[Run] = []
    offset = 0
    for fields in entries:
        count = int(fields[2][0])
        flags = int(fields[4][0]) if 4 in fields else (PE_PARENT if fields.get(3, [0])[0] else PE_PRESENT)
        runs.append(Run(int(fields[1][0]), count, flags, offset if flags & PE_PRESENT else None))
        offset += count * PAGE_BYTES if flags & PE_PRESENT else 0
    return PagemapImage(int(head[1][0]), tuple(runs))


def lazy_ranges(images: Path, pid: int) -> Extents:
    """Address ranges that CRIU will restore lazily: exactly those may be served by us."""
    ranges: Extents = []
    for vma in _mappings(images, pid):
        flags, status = int(vma[_VMA_FLAGS][0]), int(vma[_VMA_STATUS][0])
        wanted = _MAP_PRIVATE | _MAP_ANONYMOUS
        if flags & (wanted | _MAP_LOCKED | _MAP_HUGETLB) == wanted and not status & _KERNELS_OWN:
            ranges.append((int(vma[_VMA_START][0]), int(vma[_VMA_END][0])))
    return normalised(ranges)


def droppable_ranges(images: Path, pid: int) -> Extents:
    """Address ranges whose pages the kernel may empty at any time (MAP_DROPPABLE, Linux 6.11): the state of the vDSO's getrandom.

    /proc/PID/maps shows them as private memory. Whoever maps them has to cope with zeros, so nothing is lost when they come empty.
    """
    return normalised(
        (int(vma[_VMA_START][0]), int(vma[_VMA_END][0]))
        for vma in _mappings(images, pid)
        if int(vma[_VMA_FLAGS][0]) & _MAP_TYPE == _MAP_DROPPABLE
    )


def wiped_ranges(images: Path, pid: int) -> Extents:
    """Address ranges that a child of the process is to find empty (MADV_WIPEONFORK)."""
    return normalised(
        (int(vma[_VMA_START][0]), int(vma[_VMA_END][0]))
        for vma in _mappings(images, pid)
        if int(vma.get(_VMA_MADVICE, [0])[0]) & _WIPE_ON_FORK
    )


def add_guards(images: Path, pid: int, guards: Extents) -> None:
    """Note guards (MADV_GUARD_INSTALL) that the dump could not see, as CRIU 4.2 itself notes them: mappings of a kind."""
    path = images / f"mm-{pid}.img"
    data = path.read_bytes()
    (length,) = struct.unpack_from("<I", data, 8)
    message = data[12 : 12 + length]
    for start, end in guards:
        fields = ((_VMA_START, start), (_VMA_END, end), (3, 0), (4, 0), (5, 0), (_VMA_FLAGS, 0), (_VMA_STATUS, _GUARD))
        entry = b"".join(_field(number, value) for number, value in fields) + _field(8, 0)
        message += bytes([_MM_VMAS << 3 | 2]) + _varint_of(len(entry)) + entry
    with path.with_suffix(".new").open("wb") as file:
        file.write(data[:8])
        _put(file, message)
        file.write(data[12 + length :])
    path.with_suffix(".new").rename(path)


def processes(images: Path) -> list[int]:
    """The processes in the images, by their ids inside the VE."""
    return sorted(int(path.stem.removeprefix("mm-")) for path in images.glob("mm-*.img"))


def check_held(images: Path, spaces: dict[int, HeldSpace]) -> None:
    """Refuse images that do not fit what we hold: nothing may be restored with a page missing.

    Each process of the images must have been sealed, and each page held must lie where CRIU restores lazily.
    """
    for pid in processes(images):
        if pid not in spaces:
            raise MemoryRefused(f"process {pid} is in the checkpoint, its memory was not sent")
        space = spaces[pid]
        droppable = droppable_ranges(images, pid)
        space.extents, space.owed = subtract(space.settle(), droppable), subtract(space.owed, droppable)
        outside = subtract(union(space.extents, space.owed), lazy_ranges(images, pid))
        if outside:
            raise MemoryRefused(
                f"process {pid}: memory at {outside[0][0]:#x} was kept out of the checkpoint, "
                "and CRIU does not restore it lazily"
            )
    if extra := set(spaces) - set(processes(images)):
        raise MemoryRefused(f"memory was sent of processes that are not in the checkpoint: {sorted(extra)}")


def compose(images: Path, spaces: dict[int, HeldSpace]) -> None:
    """Make the images complete: CRIU's own pages and ours in one pagemap and one pages image per process.

    Copies inside the kernel; a process's old files are replaced only when its new ones are whole. Needs as much
    memory again as the VE has, for the time of the call.
    """
    check_held(images, spaces)
    if any(space.owed for space in spaces.values()):
        raise MemoryRefused("a part of the memory is on the source yet")
    for pid in processes(images):
        _compose_one(images, pid, spaces[pid])


def _compose_one(images: Path, pid: int, space: HeldSpace) -> None:
    old = read_pagemap(images, pid)
    old_pages = images / f"pages-{old.pages_id}.img"
    ours = subtract(space.settle(), normalised((run.start, run.end) for run in old.runs))
    parts = sorted(
        [(run.start, run.end, run) for run in old.runs]
        + [(part[0][0], part[0][1], None) for part in batches(ours, _ENTRY_BYTES, 1)],
        key=lambda part: part[0],
    )
    new_pages = images / f"pages-{old.pages_id}.img.new"
    new_map = images / f"pagemap-{pid}.img.new"
    source = os.open(old_pages, os.O_RDONLY) if old_pages.exists() else -1
    try:
        with new_pages.open("wb") as pages, new_map.open("wb") as pagemap:
            pagemap.write(struct.pack("<II", _COMMON_MAGIC, _PAGEMAP_MAGIC))
            _put(pagemap, _field(1, old.pages_id))
            for start, end, run in parts:
                flags = run.flags if run else PE_LAZY | PE_PRESENT
                count = (end - start) // PAGE_BYTES
                _put(pagemap, _field(1, start) + _field(2, count) + _field(4, flags))
                if run is None:
                    _copy(space.fd, start, pages.fileno(), end - start)
                elif run.offset is not None:
                    _copy(source, run.offset, pages.fileno(), end - start)
    finally:
        if source >= 0:
            os.close(source)
    os.replace(new_pages, old_pages)
    os.replace(new_map, images / f"pagemap-{pid}.img")


def _copy(source: int, offset: int, target: int, length: int) -> None:
    while length:
        done = os.sendfile(target, source, offset, length)
        if not done:
            raise MemoryRefused("a pages image ended early")
        offset, length = offset + done, length - done


def _mappings(images: Path, pid: int) -> Iterator[dict[int, list[int | bytes]]]:
    mm = next(_entries(images / f"mm-{pid}.img", _MM_MAGIC))
    for raw in mm.get(_MM_VMAS, []):
        yield _message(raw if isinstance(raw, bytes) else b"")


def _put(file: BinaryIO, message: bytes) -> None:
    file.write(struct.pack("<I", len(message)) + message)


def _entries(path: Path, magic: int) -> Iterator[dict[int, list[int | bytes]]]:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise MemoryRefused(f"{path.name} is missing from the checkpoint") from error
    if struct.unpack_from("<II", data.ljust(8, b"\0")) != (_COMMON_MAGIC, magic):
        raise MemoryRefused(f"{path.name} is not an image of the expected kind")
    at = 8
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        yield _message(data[at + 4 : at + 4 + length])
        at += 4 + length


def _message(data: bytes) -> dict[int, list[int | bytes]]:
    """A protobuf message as field number to values; numbers and byte strings only."""
    fields: dict[int, list[int | bytes]] = {}
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        value: int | bytes
        if kind == 0:
            value, at = _varint(data, at)
        elif kind == 2:
            length, at = _varint(data, at)
            value, at = data[at : at + length], at + length
        elif kind in {1, 5}:
            width = 8 if kind == 1 else 4
            value, at = int.from_bytes(data[at : at + width], "little"), at + width
        else:
            raise MemoryRefused("an image holds a field of unknown form")
        fields.setdefault(number, []).append(value)
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at


def _field(number: int, value: int) -> bytes:
    return bytes([number << 3]) + _varint_of(value)


def _varint_of(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
