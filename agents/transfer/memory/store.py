"""The target's store of pages: one sparse file in memory per address space, each page at its own address.

A page sent twice overwrites itself, so the store takes no more memory than the VE had content, and nothing is ever
rearranged: the lazy server maps pages from where they lie (``lazy``), and complete images are composed by copying
inside the kernel (``images``). The files have no name; they live as long as this process.

The rule kept here: nothing is given out before the seal, and the seal is refused unless the set of pages held
equals the source's, space by space. A frame is taken in whole and counted, or the source is told that it was not (``RESUME``).
"""

import contextlib
import json
import os
from dataclasses import dataclass, field

from agents.transfer.memory.compression import expanded
from agents.transfer.memory.extents import Extents, intersect, normalised, size_bytes, subtract, union
from agents.transfer.memory.frames import (
    COUNT_BYTES,
    MAX_PAYLOAD_BYTES,
    Corrupt,
    Frame,
    FrameReader,
    Kind,
    ReadInto,
    Write,
    write_frame,
)
from agents.transfer.memory.kernel import punch_hole
from agents.transfer.memory.port import MemoryRefused
from agents.transfer.memory.source import fingerprint, seal_of

ADDRESS_END = 1 << 47


@dataclass(slots=True)
class HeldSpace:
    """One address space: ``fd`` holds each page at its address; ``extents`` says which are there."""

    fd: int
    extents: Extents = field(default_factory=list)
    news: Extents = field(default_factory=list)
    """Added since the last frame that needed order; joined to ``extents`` only then."""
    owed: Extents = field(default_factory=list)
    """Pages that have content, which is on the source yet (post-copy)."""
    pid_in_ve: int = 0

    def settle(self) -> Extents:
        """The set of pages held, in order."""
        if self.news:
            self.extents = union(self.extents, normalised(self.news))
            self.news = []
        return self.extents


class PageStore:
    """Takes in one migration's memory stream; implements ``port.PageHolder`` with ``images.compose``."""

    def __init__(self, read_into: ReadInto, write: Write, *, cap_bytes: int) -> None:
        """``cap_bytes``: more than this is refused, so that a wrong plan cannot fill the target's memory."""
        self._frames = FrameReader(read_into)
        self._write = write
        self._cap_bytes = cap_bytes
        self._spaces: dict[int, HeldSpace] = {}
        self._taken = self._earlier_bytes = 0
        self.sealed = False
        self.memory_bytes = 0
        """What it took of this host's memory when pages came last."""
        self.seal = ""
        """Names the sealed content (`source.seal_of`); the source names it in the images it sends."""

    def go_on(self, read_into: ReadInto, write: Write) -> None:
        """The stream broke, and begins again where it broke."""
        self._earlier_bytes += self._frames.bytes_read
        self._frames, self._write = FrameReader(read_into), write

    def receive(self) -> bool:
        try:
            while (frame := self._frames.next()) is not None:
                self._take(frame)
                self._taken += frame.kind is not Kind.RESUME
                if self.sealed:
                    return True
        except MemoryRefused as error:
            with contextlib.suppress(OSError):
                write_frame(self._write, Kind.ANSWER, payload=json.dumps({"sealed": False, "why": str(error)}).encode())
            raise
        return False

    @property
    def wire_bytes(self) -> int:
        """Bytes received."""
        return self._earlier_bytes + self._frames.bytes_read

    @property
    def held_bytes(self) -> int:
        """Bytes of pages held."""
        return sum(size_bytes(space.settle()) for space in self._spaces.values())

    @property
    def owes(self) -> bool:
        """Whether the source has a part of it yet, or had."""
        return any(space.owed for space in self._spaces.values())

    def spaces(self) -> dict[int, HeldSpace]:
        """By process id inside the VE. Raises ``MemoryRefused`` before the seal."""
        if not self.sealed:
            raise MemoryRefused("the memory on the target is not complete")
        return {space.pid_in_ve: space for space in self._spaces.values()}

    def give_back(self) -> None:
        """The memory of a store whose content was placed; its seal stays known."""
        for space in self._spaces.values():
            os.close(space.fd)
        self._spaces.clear()

    def close(self) -> None:
        self.give_back()
        self.sealed = False

    def _take(self, frame: Frame) -> None:
        match frame.kind:
            case Kind.PAGES:
                self._put(frame.space, frame.extents, frame.payload)
            case Kind.COMPRESSED:
                self._put(frame.space, frame.extents, expanded(frame.payload, _bounded(size_bytes(frame.extents))))
            case Kind.DROP:
                self._drop(self._space(frame.space), frame.extents)
            case Kind.FORGET:
                if space := self._spaces.pop(frame.space, None):
                    os.close(space.fd)
            case Kind.SYNC:
                write_frame(self._write, Kind.ANSWER, payload=bytes(frame.payload))
            case Kind.SEAL:
                self._seal(bytes(frame.payload))
            case Kind.RESUME:
                write_frame(self._write, Kind.ANSWER, payload=self._taken.to_bytes(COUNT_BYTES, "big"))
            case Kind.OWED:
                space = self._space(frame.space)
                _possible(frame.extents)
                space.owed = union(space.owed, normalised(frame.extents))
            case Kind.ANSWER | Kind.WANT | Kind.DONE:
                raise Corrupt("an answer where pages were expected")

    def _space(self, number: int) -> HeldSpace:
        if number not in self._spaces:
            fd = os.memfd_create(f"memory-{number}", os.MFD_CLOEXEC)
            os.ftruncate(fd, ADDRESS_END)
            self._spaces[number] = HeldSpace(fd)
        return self._spaces[number]

    def _put(self, number: int, extents: Extents, pages: memoryview) -> None:
        if size_bytes(extents) != len(pages):
            raise Corrupt("a frame of the memory stream names other pages than it carries")
        _possible(extents)
        space = self._space(number)
        at = 0
        for start, end in extents:
            _write_all(space.fd, pages[at : at + end - start], start)
            at += end - start
        space.news += extents
        if len(space.news) > 1 << 16:
            space.settle()
        self.memory_bytes = sum(os.fstat(each.fd).st_blocks * 512 for each in self._spaces.values())
        if self.memory_bytes > self._cap_bytes:
            raise MemoryRefused(f"the VE's memory exceeds the {self._cap_bytes >> 20} MiB set aside for it")

    @staticmethod
    def _drop(space: HeldSpace, extents: Extents) -> None:
        gone = intersect(space.settle(), normalised(extents))
        for extent in gone:
            punch_hole(space.fd, extent)
        space.extents = subtract(space.extents, gone)

    def _seal(self, payload: bytes) -> None:
        claims: list[dict[str, object]] = json.loads(payload)
        why = self._why_not(claims)
        if not why:
            for claim in claims:
                self._space(int(str(claim["space"]))).pid_in_ve = int(str(claim["pid"]))
            self.sealed, self.seal = True, seal_of(payload)
        write_frame(self._write, Kind.ANSWER, payload=json.dumps({"sealed": self.sealed, "why": why}).encode())

    def _why_not(self, claims: list[dict[str, object]]) -> str:
        wanted = {int(str(claim["space"])) for claim in claims}
        if extra := set(self._spaces) - wanted:
            return f"pages of {len(extra)} processes that do not exist any more"
        for claim in claims:
            space = self._space(int(str(claim["space"])))
            extents = space.settle()
            if fingerprint(extents) != claim["map"] or fingerprint(space.owed) != claim["owed"]:
                return (
                    f"process {claim['pid']} has {claim['bytes']} bytes on the source, "
                    f"{size_bytes(extents)} are here, or others"
                )
        to_come = sum(size_bytes(space.owed) for space in self._spaces.values())
        if self.memory_bytes + to_come > self._cap_bytes:
            return f"the VE's memory exceeds the {self._cap_bytes >> 20} MiB set aside for it"
        return ""


def _possible(extents: Extents) -> None:
    if any(end > ADDRESS_END or start >= end for start, end in extents):
        raise Corrupt("a frame of the memory stream names an impossible address")


def _bounded(count_bytes: int) -> int:
    """What a frame may expand to: no more than it could carry as it is."""
    if not 0 <= count_bytes <= MAX_PAYLOAD_BYTES:
        raise Corrupt("a frame of the memory stream names more pages than one may carry")
    return count_bytes


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    while data:
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done
