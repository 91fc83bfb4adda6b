"""One byte stream over several connections, where one alone does not fill the line: a cap per flow, a long way, some loss.

The stream is cut into numbered pieces; each goes over whichever connection (strand) is free, and the other end reads them in the
order of their numbers. Rule: a strand may join at any time, and leaves with a piece of no bytes, the last one when the stream is
at its end; when one ends otherwise, the stream has broken. Nothing is sent twice.
"""

import os
import queue
import select
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from agents.transfer.lines import streams

PIECE_BYTES = 1 << 18
"""Large enough that a piece's cost is its bytes', small enough that a strand that is slow holds up little."""
READY = b"+"
"""What a strand that joined hears from the other end."""
_HEAD = struct.Struct("<QI")


class Spread:
    """The writing end. ``write`` is for one thread; ``join`` and ``leave`` for any."""

    def __init__(
        self,
        fd: int,
        broke: Callable[[], None] = lambda: None,
        wrote: Callable[[int, int], None] = lambda _bytes, _strands: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``fd`` is the first strand. ``broke`` is called when another breaks: whoever waits for an answer would wait for ever.

        ``wrote`` is told how much has been written in all, and over how many strands it goes, after each write.
        """
        self._broke, self._wrote, self._clock = broke, wrote, clock
        self.turn = threading.Condition()
        self._strands = [_Outgoing(fd, self)]
        self._leaving: list[_Outgoing] = []
        self._number = 0
        self._error: OSError | None = None
        self.bytes_written = 0
        self.waited_s = 0.0
        """For strands to take something: as long as that is most of the time, the line is what limits the stream."""

    @property
    def count(self) -> int:
        """Over so many strands it goes."""
        return len(self._strands)

    def join(self, fd: int) -> None:
        """One more, whose other end has joined already; the descriptor is ours from now on."""
        with self.turn:
            self._strands.append(_Outgoing(fd, self))

    def leave(self) -> None:
        """The last that joined is used no more."""
        with self.turn:
            if len(self._strands) > 1:
                self._leaving.append(self._strands.pop())

    def write(self, buffers: Sequence[bytes | memoryview]) -> None:
        """All of them; they may be changed when it returns. Raises OSError when a strand has broken."""
        for piece in _pieces(buffers):
            began_s = self._clock()
            self._give(piece)
            self.waited_s += self._clock() - began_s
            self.bytes_written += sum(map(len, piece))
        self._wrote(self.bytes_written, self.count)

    def finish(self) -> None:
        """Nothing more is written: the other end reads everything, and then the end. Raises OSError when a strand has broken."""
        while self.count > 1:
            self.leave()
        self._give([])

    def broken(self, error: OSError) -> None:
        """By a strand's thread."""
        with self.turn:
            self._error = self._error or error
            self.turn.notify()
        self._broke()

    def _give(self, piece: list[memoryview]) -> None:
        for each in self._take_leaving():
            each.give(self._numbered([]))
            each.end()
        with self.turn:
            strand = self._free()
            alone = len(self._strands) == 1
            strand.idle = alone
        if alone:
            strand.write(self._numbered(piece))  # no thread between: in the blackout every step counts
        else:
            strand.give(self._numbered(piece))

    def _take_leaving(self) -> list["_Outgoing"]:
        with self.turn:
            leaving, self._leaving = self._leaving, []
        return leaving

    def _numbered(self, piece: list[memoryview]) -> list[bytes | memoryview]:
        self._number += 1
        return [_HEAD.pack(self._number - 1, sum(map(len, piece))), *piece]

    def _free(self) -> "_Outgoing":
        """Wait for one; with the turn."""
        while self._error is None:
            if strand := next((each for each in self._strands if each.idle), None):
                return strand
            self.turn.wait()
        raise self._error


class _Outgoing:
    """One strand, and the thread that writes to it, as long as it is not the only one."""

    def __init__(self, fd: int, spread: Spread) -> None:
        self.idle = True
        self.write = streams.writer(fd)
        self._fd, self._spread = fd, spread
        self._given: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def give(self, buffers: list[bytes | memoryview]) -> None:
        """Have it written; it is idle again when that is done."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="strand", daemon=True)
            self._thread.start()
        self._given.put(b"".join(buffers))

    def end(self) -> None:
        """When everything is written, close it."""
        self._given.put(None)

    def _run(self) -> None:
        while (data := self._given.get()) is not None:
            try:
                self.write([data])
            except OSError as error:
                self._spread.broken(error)
                return
            with self._spread.turn:
                self.idle = True
                self._spread.turn.notify()
        os.close(self._fd)


def _pieces(buffers: Sequence[bytes | memoryview]) -> Iterator[list[memoryview]]:
    piece: list[memoryview] = []
    room = PIECE_BYTES
    for buffer in buffers:
        view, at = memoryview(buffer), 0
        while at < len(view):
            piece.append(view[at : at + room])
            at += len(piece[-1])
            room -= len(piece[-1])
            if not room:
                yield piece
                piece, room = [], PIECE_BYTES
    if piece:
        yield piece


class Gathered:
    """The reading end. ``read_into`` is for one thread; ``join`` for any."""

    def __init__(self, fd: int) -> None:
        """``fd`` is the first strand; this, and all that join, are ours from now on."""
        self._strands = [_Incoming(fd)]
        self._next = 0
        self._woken, self._wake = os.pipe()
        self._joining: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._abandoned = False

    def join(self, fd: int) -> None:
        """One more."""
        self._joining.put(fd)
        os.write(self._wake, b"j")

    def abandon(self) -> None:
        """It will not come to its end: another connection has taken its place, which this one's silence must not hold up."""
        self._abandoned = True
        os.write(self._wake, b"a")

    def read_into(self, buffer: memoryview) -> int:
        """Read some bytes of the stream; 0: it is at its end, a strand broke, or it was abandoned. Raises OSError."""
        while not self._abandoned:
            strand = self._at_next()
            if strand is None:
                if not self._strands or not self._hear():
                    return 0
            elif self._ready([strand.fd]):
                got = os.readv(strand.fd, [buffer[: strand.left]])
                strand.left -= got
                if not strand.left:
                    strand.number = None
                    self._next += 1
                return got
        return 0

    def _at_next(self) -> "_Incoming | None":
        """The strand that has the next piece, as far as it is known; who takes its leave is let go."""
        while (strand := next((each for each in self._strands if each.number == self._next), None)) is not None:
            if strand.left:
                return strand
            self._strands.remove(strand)
            os.close(strand.fd)
            self._next += 1
        return None

    def close(self) -> None:
        """Nothing is read any more."""
        self._take_joining()
        for strand in self._strands:
            os.close(strand.fd)
        os.close(self._woken)
        os.close(self._wake)

    def _hear(self) -> bool:
        """Wait for the head of a piece, or for a strand; False: one has ended."""
        waiting = {strand.fd: strand for strand in self._strands if strand.number is None}
        return all(waiting[fd].hear() for fd in self._ready(list(waiting)))

    def _ready(self, fds: Sequence[int]) -> list[int]:
        """Wait until one of them has something, or a strand joins; those that have."""
        poll = select.poll()
        for fd in (self._woken, *fds):
            poll.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll()]
        if self._woken in ready:
            os.read(self._woken, 1)
            self._take_joining()
        return [fd for fd in ready if fd != self._woken]

    def _take_joining(self) -> None:
        while not self._joining.empty():
            self._strands.append(_Incoming(self._joining.get()))


@dataclass(slots=True)
class _Incoming:
    """One strand, and the piece that it is at."""

    fd: int
    number: int | None = None
    left: int = 0
    head: bytes = b""

    def hear(self) -> bool:
        """Something is to be read between two pieces; False: the strand has ended."""
        data = os.read(self.fd, _HEAD.size - len(self.head))
        self.head += data
        if len(self.head) == _HEAD.size:
            self.number, self.left = _HEAD.unpack(self.head)
            self.head = b""
        return bool(data)
