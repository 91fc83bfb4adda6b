"""The source's side of memory pre-copy: rounds while the VE runs, one last look and one last round when it is frozen.

Rules: the VE is only read, never stopped for longer than it takes to inject one system call per process; what the
target holds at the end is, page by page, what the frozen VE holds, and the target proves it before it restores
(``Kind.SEAL``). Where the stream breaks, it goes on over another connection with what the target lacks (``ledger``). A process
that cannot be tracked is compared by content; one that cannot be handled at all fails the pre-copy, not the VE.
"""

import hashlib
import json
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain

from agents.transfer.memory import areas
from agents.transfer.memory.areas import Gone, ProcessFacts
from agents.transfer.memory.compression import Compressor
from agents.transfer.memory.content import ContentTracker
from agents.transfer.memory.extents import (
    PAGE_BYTES,
    Extents,
    batches,
    intersect,
    normalised,
    size_bytes,
    subtract,
    union,
)
from agents.transfer.memory.frames import (
    COUNT_BYTES,
    MAX_RANGES,
    Corrupt,
    FrameReader,
    Kind,
    ReadInto,
    Write,
    write_frame,
)
from agents.transfer.memory.ledger import Ledger
from agents.transfer.memory.port import LastLook, MemoryRefused, RoundStats
from agents.transfer.memory.reader import Cancelled, Reader, Throttle
from agents.transfer.memory.remembered import Budget
from agents.transfer.memory.soft_dirty import SoftDirtyTracker
from agents.transfer.memory.tracking import NotTrackable, Tracker, Whole, WriteTracker
from migrator.wire.facts import MemoryMethod

COMPRESSED_NOTE = "memory was compressed on its way, because that was quicker on this line"
Processes = Callable[[], Sequence[int]]
"""The VE's processes now, as this host numbers them."""


@dataclass(slots=True)
class _Space:
    """One address space: the tracker that watches it, and what the target holds of it."""

    number: int
    process: ProcessFacts
    tracker: Tracker
    note: str = ""
    at_target: Extents = field(default_factory=list)
    owed: Extents = field(default_factory=list)
    """What the target will ask for (post-copy)."""


@dataclass(slots=True)
class _Tally:
    """What one round did, while it is being done."""

    wire_bytes: int = 0
    page_bytes: int = 0
    content_bytes: int = 0
    notes: list[str] = field(default_factory=list)


class SourceSession:
    """One migration's memory, from the source's side; implements ``port.Precopy``.

    Blocking: run each call in a worker thread. Not for use from two threads at once, but ``cancel`` may be called
    from any.
    """

    def __init__(
        self,
        init_pid: int,
        processes: Processes,
        write: Write,
        read_into: ReadInto,
        *,
        method: MemoryMethod,
        shadow_cap_bytes: int = 1 << 30,
        rate_bytes_per_s: float | None = None,
        compress: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``shadow_cap_bytes``: what content comparison may remember on this host. ``compress``: pages may be."""
        self._depth = areas.namespace_depth(init_pid)
        self._processes = processes
        self._write = write
        self._answers = FrameReader(read_into)
        self.method = method
        self._budget = Budget(shadow_cap_bytes)
        self._cancelled = threading.Event()
        self._throttle = Throttle(rate_bytes_per_s, self._cancelled, clock)
        self._clock = clock
        self._compressor = Compressor(wanted=compress, clock=clock)
        self._reader = Reader()
        self._ledger = Ledger()
        self._spaces: dict[tuple[int, int], _Space] = {}
        self._next_number = 1
        self._rounds = 0
        self._last_round_at: float | None = None
        self.done_bytes = self.total_bytes = 0
        """Of the round under way: read so far, and to be read as far as it is known."""
        self.seal = ""
        """Names what the target holds, once it has confirmed that; see `seal_of`."""

    def cancel(self) -> None:
        """End the call in progress with ``Cancelled``."""
        self._cancelled.set()

    def resume(self, write: Write, read_into: ReadInto) -> None:
        """The stream broke in a round, or the round was called off: the next goes over this connection, with what the target lacks.

        Raises ``MemoryRefused`` when the target has not kept what it had; nothing was harmed. Raises ``Corrupt``, ``OSError``.
        """
        self._write, self._answers = write, FrameReader(read_into)
        self._cancelled.clear()
        write_frame(write, Kind.RESUME)
        standing = self._ledger.settle(int.from_bytes(self._answer(), "big"))
        for space in self._spaces.values():
            space.at_target = standing.held.get(space.number, [])
            space.tracker.lost(standing.doubtful.get(space.number, []))
        for number in standing.unforgotten:
            self._put(Kind.FORGET, number)

    def set_rate(self, bytes_per_s: float | None) -> None:
        """The bandwidth cap from now on; None: free."""
        self._throttle.bytes_per_s = bytes_per_s

    def round(self) -> RoundStats:
        began = self._clock()
        since = began - self._last_round_at if self._last_round_at is not None else None
        tally = _Tally()
        self.done_bytes = self.total_bytes = 0
        self._meet_processes(tally)
        for space in list(self._spaces.values()):
            try:
                self._send_round(space, tally)
            except (Gone, ProcessLookupError):
                self._forget(space, tally)
        self._sync(tally)
        self._last_round_at = began
        return self._stats(tally, began, since)

    def last_look(self) -> LastLook:
        tally = _Tally()
        self._meet_processes(tally, frozen=True)
        changed: dict[int, Extents] = {}
        for space in self._spaces.values():
            try:
                wanted, content = space.tracker.changed_at_last()
            except (Gone, ProcessLookupError) as error:
                raise MemoryRefused(f"a process of the frozen VE ended: {error}") from error
            self._drop(space, subtract(space.at_target, content), tally)
            changed[space.process.pid] = wanted
        return LastLook(
            changed_bytes=sum(size_bytes(extents) for extents in changed.values()),
            processes=tuple(space.process for space in self._spaces.values()),
            changed=changed,
        )

    def send_last(self, look: LastLook) -> RoundStats:
        began = self._clock()
        self._throttle.bytes_per_s = None  # the VE stands still: the blackout has the whole line
        tally = _Tally()
        for space in self._spaces.values():
            lost = self._send(space, look.changed[space.process.pid], tally, [])
            if lost:
                raise MemoryRefused(
                    f"memory of process {space.process.pid} at {lost[0][0]:#x} cannot be read while it is frozen"
                )
        self._seal(tally)
        return self._stats(tally, began, None)

    def leave_last(self, look: LastLook) -> RoundStats:
        """Instead of ``send_last``, for post-copy: the target learns which pages it will have to ask for, and gets none."""
        began, tally = self._clock(), _Tally()
        for space in self._spaces.values():
            space.owed = normalised(look.changed[space.process.pid])
            self._drop(space, space.owed, tally)
            for part in batches(space.owed, 1 << 62, MAX_RANGES):
                tally.wire_bytes += self._put(Kind.OWED, space.number, part)
        self._seal(tally)
        return self._stats(tally, began, None)

    def undo(self) -> None:
        for space in self._spaces.values():
            space.tracker.release()
        self._spaces.clear()
        self._reader.close()

    def _meet_processes(self, tally: _Tally, *, frozen: bool = False) -> None:
        """Take up processes that are new, and let go of those that ended or became another program."""
        found: dict[tuple[int, int], ProcessFacts] = {}
        for pid in self._processes():
            try:
                process = areas.facts(pid, self._depth)
            except Gone:
                continue
            found[(pid, process.start_ticks)] = process
        for key, space in list(self._spaces.items()):
            if key not in found or space.tracker.space_gone:
                self._forget(space, tally)
        for key, process in found.items():
            if key in self._spaces:
                self._spaces[key].process = process
            else:
                self._spaces[key] = self._take_up(process, frozen)

    def _take_up(self, process: ProcessFacts, frozen: bool) -> _Space:
        tracker: Tracker | None = None
        note = ""
        if frozen:
            tracker = Whole(process)
        elif self.method in {MemoryMethod.TRACKED, MemoryMethod.SOFT_DIRTY}:
            try:
                tracked = self.method is MemoryMethod.TRACKED
                tracker = WriteTracker(process) if tracked else SoftDirtyTracker(process, self._processes)
            except NotTrackable as reason:
                note = f"{reason}; compared by content"
        number, self._next_number = self._next_number, self._next_number + 1
        return _Space(number, process, tracker or ContentTracker(process, self._budget), note)

    def _forget(self, space: _Space, tally: _Tally) -> None:
        self._spaces = {key: other for key, other in self._spaces.items() if other is not space}
        space.tracker.release()
        tally.wire_bytes += self._put(Kind.FORGET, space.number)

    def _send_round(self, space: _Space, tally: _Tally) -> None:
        wanted, content = space.tracker.changed()
        tally.content_bytes += size_bytes(content)
        self.total_bytes += size_bytes(wanted)
        if space.note:
            tally.notes.append(space.note)
        done: Extents = []
        try:
            self._drop(space, subtract(space.at_target, content), tally)
            lost = self._send(space, wanted, tally, done)
        except (OSError, Cancelled):
            space.tracker.lost(subtract(wanted, normalised(done)))  # the ledger knows of the others
            raise
        space.tracker.lost(lost)

    def _send(self, space: _Space, wanted: Extents, tally: _Tally, done: Extents) -> Extents:
        """Read and send, and add it to ``done``; what is zero or lost is dropped at the target. Returns what could not be read."""
        sent: Extents = []
        zero: Extents = []
        lost: Extents = []
        for pages in self._reader.read(space.process.pid, wanted, self._throttle):
            sifted = space.tracker.sift(pages)
            self.done_bytes += len(pages.data)
            if sifted.extents:
                tally.wire_bytes += self._send_pages(space, sifted.extents, sifted.data)
                tally.page_bytes += len(sifted.data)
            done += pages.extents
            sent += sifted.extents
            zero += pages.zero
            lost += pages.lost
        space.at_target = union(space.at_target, sent)
        self._drop(space, normalised((*zero, *lost)), tally)
        return normalised(lost)

    def _send_pages(self, space: _Space, extents: Extents, data: memoryview) -> int:
        """Bytes on the wire."""
        compressed = self._compressor.compress(data)
        kind, payload = (Kind.PAGES, data) if compressed is None else (Kind.COMPRESSED, memoryview(compressed))
        began = self._clock()
        self._throttle.take(len(payload))
        wire_bytes = self._put(kind, space.number, extents, payload)
        self._compressor.wrote(len(data), wire_bytes, self._clock() - began)
        return wire_bytes

    def _drop(self, space: _Space, extents: Extents, tally: _Tally) -> None:
        gone = intersect(space.at_target, extents)
        if gone:
            for part in batches(gone, 1 << 62, MAX_RANGES):
                tally.wire_bytes += self._put(Kind.DROP, space.number, part)
            space.at_target = subtract(space.at_target, gone)

    def _sync(self, tally: _Tally) -> None:
        """Wait until the target has taken everything in, so that a round's time is the line's and not a buffer's."""
        tally.wire_bytes += self._put(Kind.SYNC, payload=self._rounds.to_bytes(COUNT_BYTES, "big"))
        self._answer()
        self._ledger.confirm({space.number: space.at_target for space in self._spaces.values()})

    def _seal(self, tally: _Tally) -> None:
        held = [
            {
                "space": space.number,
                "pid": space.process.pid_in_ve,
                "bytes": size_bytes(space.at_target),
                "map": fingerprint(space.at_target),
                "owed": fingerprint(space.owed),
            }
            for space in self._spaces.values()
        ]
        payload = json.dumps(held).encode()
        tally.wire_bytes += self._put(Kind.SEAL, payload=payload)
        said = json.loads(self._answer())
        if not said.get("sealed"):
            raise MemoryRefused(f"the target does not hold what the source sent: {said.get('why', 'no reason given')}")
        self.seal = seal_of(payload)

    def _put(
        self, kind: Kind, space: int = 0, extents: Extents | None = None, payload: bytes | memoryview = b""
    ) -> int:
        """Write a frame; bytes on the wire."""
        self._ledger.note(kind, space, extents or [])
        return write_frame(self._write, kind, space, extents or [], payload)

    def refusal(self) -> str:
        """After the stream broke: why the target refused it, if that is what happened."""
        try:
            frame = self._answers.next()
            said = json.loads(bytes(frame.payload)) if frame is not None else {}
        except (Corrupt, OSError, ValueError):
            return ""
        return str(said.get("why", "")) if isinstance(said, dict) else ""

    def _answer(self) -> bytes:
        frame = self._answers.next()
        if frame is None or frame.kind is not Kind.ANSWER:
            raise Corrupt("the target closed the memory stream without an answer")
        return bytes(frame.payload)

    def _stats(self, tally: _Tally, began: float, since_s: float | None) -> RoundStats:
        self._rounds += 1
        return RoundStats(
            number=self._rounds,
            pages=tally.page_bytes // PAGE_BYTES,
            wire_bytes=tally.wire_bytes,
            duration_s=self._clock() - began,
            interval_s=since_s,
            content_bytes=tally.content_bytes,
            processes=len(self._spaces),
            shadow_bytes=self._budget.spent_bytes,
            notes=(*tally.notes, *self._compression_note()),
        )

    def _compression_note(self) -> tuple[str, ...]:
        return (COMPRESSED_NOTE,) if self._compressor.saved_bytes else ()


def fingerprint(extents: Extents) -> str:
    """A hash of which pages are held; both sides compute it."""
    return hashlib.sha256(array("Q", chain.from_iterable(extents)).tobytes()).hexdigest()


def seal_of(payload: bytes) -> str:
    """The name of a sealed memory: a hash of all that the seal says."""
    return hashlib.sha256(payload).hexdigest()
