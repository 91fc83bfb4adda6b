"""Which of the memory that was kept out of a dump may be restored: decided from the mappings in CRIU's images."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.transfer.memory import images
from agents.transfer.memory.port import MemoryRefused
from agents.transfer.memory.store import ADDRESS_END, HeldSpace

PAGE = 4096
AT = 0x7FBDC09B1000
PRIVATE, DROPPABLE, ANONYMOUS, LOCKED = 0x02, 0x08, 0x20, 0x2000
HEADER = struct.pack("<II", 0x54564319, 0x57492820)
"""Of mm-PID.img (criu/include/magic.h)."""


def varint(value: int) -> bytes:
    """As protobuf writes a number."""
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def mm_image(*mappings: tuple[int, int, int]) -> bytes:
    """mm-PID.img with mappings of (start, end, flags of mmap)."""
    message = b""
    for start, end, flags in mappings:
        entry = b"".join(
            bytes([number << 3]) + varint(value) for number, value in ((1, start), (2, end), (6, flags), (7, 1))
        )
        message += bytes([14 << 3 | 2]) + varint(len(entry)) + entry
    return HEADER + struct.pack("<I", len(message)) + message


@pytest.fixture
def held() -> Iterator[HeldSpace]:
    """Two mappings of one page each, both sent by the source."""
    fd = os.memfd_create("held")
    os.ftruncate(fd, ADDRESS_END)
    yield HeldSpace(fd, [(AT, AT + PAGE), (AT + 4 * PAGE, AT + 5 * PAGE)])
    os.close(fd)


def images_of(directory: Path, flags: int) -> Path:
    """Images of process 1: ordinary private memory, and a mapping of these flags behind it."""
    ordinary = (AT, AT + PAGE, PRIVATE | ANONYMOUS)
    (directory / "mm-1.img").write_bytes(mm_image(ordinary, (AT + 4 * PAGE, AT + 5 * PAGE, flags)))
    return directory


def test_droppable_memory_comes_empty(tmp_path: Path, held: HeldSpace) -> None:
    """What the kernel may drop is private in /proc/PID/maps and not lazy for CRIU: accepted, and none of its pages is placed."""
    images.check_held(images_of(tmp_path, DROPPABLE | ANONYMOUS), {1: held})
    assert held.settle() == [(AT, AT + PAGE)]


@pytest.mark.parametrize("flags", [PRIVATE | ANONYMOUS | LOCKED, PRIVATE], ids=["locked", "file"])
def test_memory_that_is_not_lazy_is_refused(tmp_path: Path, held: HeldSpace, flags: int) -> None:
    """Any other memory that CRIU would not restore lazily may not be lost: the restore is refused, with its address."""
    with pytest.raises(MemoryRefused, match=f"{AT + 4 * PAGE:#x} was kept out"):
        images.check_held(images_of(tmp_path, flags), {1: held})
