"""Serve a restored VE's memory from the store while it runs already: the other end of CRIU's ``lazy-pages.socket``.

CRIU's restore with ``--lazy-pages`` connects to that socket in its work directory and hands over, per process, its id and
a userfaultfd over the mappings it left empty; at the end the word ``RSTF``. From then on every first touch of a
page waits for us, and beside that everything is filled in from the front, so that a moment later nothing waits any
more. The VE may fork, unmap and move meanwhile; the kernel tells and waits until we have heard.

The rule kept here: as long as one page is missing, no userfaultfd is closed, whatever goes wrong, for the kernel
would give the VE zeros in place of its data (``guardian`` sees to that when this process ends).
"""

import array
import ctypes
import errno
import mmap
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agents.transfer.memory import images, kernel
from agents.transfer.memory.extents import PAGE_BYTES
from agents.transfer.memory.filling import Filling, Kind, Note, Space
from agents.transfer.memory.missing import Segment
from agents.transfer.memory.port import Filled, MemoryRefused
from agents.transfer.memory.post_copy import Debt
from agents.transfer.memory.store import HeldSpace

SOCKET_NAME = "lazy-pages.socket"
_FINISHED = 0x52535446
_EVENT_BYTES = 32
_PAGEFAULT = 0x12
_AROUND_BYTES = 16 * PAGE_BYTES
_FILL_BYTES = 1 << 18
_RESTORE, _DEBT = "restore", "debt"
_EVERYWHERE = (1 << 16, (1 << 47) - PAGE_BYTES)
_PROCESS_GONE = {errno.ESRCH, errno.ENOSPC}

Tell = Callable[[Note, int], None]
"""Tells the guardian what happened, with a descriptor (-1: none), before it is acted on."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a userfaultfd: its kind, whose it is, its own number, and what it says."""

    kind: int
    index: int
    number: int
    first: int
    second: int
    third: int

    @property
    def descriptor(self) -> int:
        """Of a fork: the child's userfaultfd, in the process that took the event."""
        return self.first & 0xFFFFFFFF

    @property
    def note(self) -> Note | None:
        """As the guardian must know it; None: it need not."""
        match self.kind:
            case Kind.FORK:
                return Note(Kind.FORK, self.index, number=self.number)
            case Kind.REMAP:
                return Note(Kind.REMAP, self.index, self.first, self.second, self.third, self.number)
            case Kind.REMOVE | Kind.UNMAP:
                return Note(Kind(self.kind), self.index, self.first, self.second, number=self.number)
            case _:
                return None


class Figures:
    """What is seen of the worker from outside its process, in memory shared with it.

    Events of the kernel are read straight into it: one that was taken and not told yet is found there by who comes after.
    """

    def __init__(self) -> None:
        self._bytes = memoryview(mmap.mmap(-1, mmap.PAGESIZE))
        self._words = self._bytes.cast("Q")

    @property
    def hearing_restore(self) -> bool:
        """A message of CRIU's restore is being taken, and the guardian was not told of it yet."""
        return bool(self._words[0])

    @hearing_restore.setter
    def hearing_restore(self, on: bool) -> None:
        self._words[0] = int(on)

    def take_event(self, uffd: int, index: int) -> None:
        """Take one event of the process in this place of the list. Raises BlockingIOError when there is none."""
        self._words[8] = 0
        self._words[12] = index
        self._words[13] += 1
        os.readv(uffd, [self._bytes[64 : 64 + _EVENT_BYTES]])

    def event(self) -> Event | None:
        """The event taken last, as long as it has not been dealt with."""
        kind = self._bytes[64]
        if not kind:
            return None
        return Event(kind, self._words[12], self._words[13], self._words[9], self._words[10], self._words[11])

    def dealt_with(self) -> None:
        """The event was told, or needs no telling."""
        self._words[8] = 0

    @property
    def placed_bytes(self) -> int:
        """Bytes copied into the VE."""
        return self._words[1]

    @property
    def faults(self) -> int:
        """How often somebody had to wait for a page."""
        return self._words[2]

    def placed(self, count_bytes: int) -> None:
        """More bytes were copied."""
        self._words[1] += count_bytes

    def faulted(self) -> None:
        """Somebody waits."""
        self._words[2] += 1


class PagesSocket:
    """The socket in the restore's work directory, listening; it outlives a worker that ended before CRIU came."""

    def __init__(self, work_directory: Path) -> None:
        self.path = work_directory / SOCKET_NAME
        self.path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        _bind(self.listener, self.path)
        self.listener.listen(1)

    def close(self) -> None:
        self.listener.close()
        self.path.unlink(missing_ok=True)


def prepare(image_directory: Path, held: dict[int, HeldSpace]) -> Filling:
    """Everything that is to be restored. Raises ``MemoryRefused`` if images and store do not fit."""
    images.check_held(image_directory, held)
    for pid, space in held.items():
        _add_lazy_pages(image_directory, pid, space)
    return Filling(held, {pid: images.wiped_ranges(image_directory, pid) for pid in held})


class LazyServer:
    """Hears CRIU's restore, then fills the VE's memory. Blocking; the one worker of a process of its own.

    ``filling`` may be one that another worker had begun.
    """

    def __init__(self, pages: PagesSocket, filling: Filling, figures: Figures, tell: Tell) -> None:
        self._listener, self._filling, self._figures, self._tell = pages.listener, filling, figures, tell
        self._selector = selectors.DefaultSelector()
        self._debt = Debt(filling, self._selector, _DEBT)
        for index in range(len(filling.spaces)):
            self._watch(index)

    def serve(self, guardian: socket.socket) -> Filled:
        """Until all memory is in place.

        Raises ``MemoryRefused`` if the restore ends before its time (the restored processes are gone then), and
        ``GuardianGone`` when the other end of ``guardian`` is closed.
        """
        began = time.monotonic()
        if self._filling.connection >= 0:
            self._selector.register(self._filling.connection, selectors.EVENT_READ, _RESTORE)
        elif not self._filling.restored:
            self._selector.register(self._listener, selectors.EVENT_READ, self._listener)
        self._selector.register(guardian, selectors.EVENT_READ, guardian)
        self._wake_all()
        while not (self._filling.restored and self._complete()):
            for key, _ in self._selector.select(0 if self._filling.restored and self._placeable() else None):
                if key.data is guardian:
                    self._hear_guardian(guardian)
                elif key.data is _DEBT:
                    self._debt.hear()
                    self._answer_all()
                elif key.data is self._listener:
                    self._accept()
                elif key.data is _RESTORE:
                    self._hear_restore()
                elif isinstance(key.data, int):
                    self._hear_space(key.data)
            if self._filling.restored:
                self._fill_some()
            self._debt.go_on()
        return Filled(self._figures.placed_bytes, self._figures.faults, time.monotonic() - began)

    def done(self) -> None:
        """Whoever owes pages is told that they have come."""
        self._debt.done()

    def close(self) -> None:
        """This process places no pages any more."""
        self._debt.disconnect()
        self._selector.close()

    def _hear_guardian(self, guardian: socket.socket) -> None:
        """It has gone, or gives us a stream to the source."""
        data, fds, _, _ = socket.recv_fds(guardian, 1, 2)
        if not data:
            raise GuardianGone
        self._debt.connect(*fds)
        self._answer_all()

    def _answer_all(self) -> None:
        for space in self._filling.spaces:
            for page in list(space.waiting):
                self._answer(space, page)

    def _watch(self, index: int) -> None:
        self._selector.register(self._filling.spaces[index].uffd, selectors.EVENT_READ, index)

    def _wake_all(self) -> None:
        """Whoever waits for a page because of a worker that ended asks again."""
        for space in self._filling.spaces:
            kernel.uffd_wake(space.uffd, _EVERYWHERE)

    def _happened(self, note: Note, fd: int = -1) -> None:
        try:
            self._tell(note, fd)
        except (BrokenPipeError, ConnectionResetError) as error:
            self._filling.apply(note, fd)  # it happened all the same: whoever goes on must know
            self._figures.dealt_with()  # and must not take a worker that ends next for one that kept it to itself
            raise GuardianGone from error
        self._filling.apply(note, fd)
        if note.kind in {Kind.TAKEN, Kind.FORK}:
            self._watch(len(self._filling.spaces) - 1)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        self._selector.unregister(self._listener)
        self._happened(Note(Kind.CONNECTED), connection.detach())
        self._selector.register(self._filling.connection, selectors.EVENT_READ, _RESTORE)

    def _hear_restore(self) -> None:
        """One message of CRIU's; what is read of it must be told before we may end."""
        self._figures.hearing_restore = True
        try:
            with socket.socket(fileno=os.dup(self._filling.connection)) as connection:
                self._hear_message(connection)
        finally:
            self._figures.hearing_restore = False

    def _hear_message(self, connection: socket.socket) -> None:
        word = connection.recv(4, socket.MSG_WAITALL)
        if len(word) != 4:
            raise MemoryRefused("the restore ended before all processes were there")
        (number,) = struct.unpack("=i", word)
        if number == _FINISHED:
            self._selector.unregister(self._filling.connection)
            self._happened(Note(Kind.RESTORED))
        elif number > 0:
            uffd = _receive_descriptor(connection)
            if number not in self._filling.held:
                raise MemoryRefused(f"the restore asks for memory of process {number}, which was not sent")
            self._happened(Note(Kind.TAKEN, first=number), uffd)

    def _hear_space(self, index: int) -> None:
        space = self._filling.spaces[index]
        while self._hear_event(index, space):
            pass
        for page in list(space.waiting):
            self._answer(space, page)

    def _hear_event(self, index: int, space: Space) -> bool:
        """Take one event from the kernel; False: there is none."""
        try:
            self._figures.take_event(space.uffd, index)
        except BlockingIOError:
            return False
        event = self._figures.event()
        assert event is not None
        if event.kind == _PAGEFAULT:
            self._figures.faulted()
            space.waiting.add(event.second & ~(PAGE_BYTES - 1))
        elif note := event.note:
            self._happened(note, event.descriptor if note.kind is Kind.FORK else -1)
            if note.kind is Kind.REMOVE:
                _let_go(space, note.first, note.second)
        self._figures.dealt_with()
        return True

    def _answer(self, space: Space, page: int) -> None:
        """Give the page somebody waits for, and its neighbours."""
        segment = space.missing.around(page, page % _AROUND_BYTES, _AROUND_BYTES - page % _AROUND_BYTES)
        if segment is None:
            if not self._debt.want(space, page) and _zero(space, page):
                space.waiting.discard(page)
            return
        if segment.start < page and not self._place(space, Segment(page, page + PAGE_BYTES, segment.shift)):
            return
        if self._place(space, segment) and space.missing.around(page, 0, PAGE_BYTES) is None:
            space.waiting.discard(page)

    def _place(self, space: Space, segment: Segment) -> bool:
        """Copy a segment into the process; False: an event must be heard first."""
        pieces = space.missing.cut(segment.start, segment.end)
        for index, piece in enumerate(pieces):
            with _Window(space.store.fd, piece.start + piece.shift, piece.end - piece.start) as source:
                reached = self._copy(space, piece, source)
            if reached is None:
                _gone(space)
                return True
            if reached < piece.end:
                space.missing.put_back(Segment(reached, piece.end, piece.shift), *pieces[index + 1 :])
                return False
            if not space.shares:
                kernel.punch_hole(space.store.fd, (piece.start + piece.shift, piece.end + piece.shift))
        return True

    def _copy(self, space: Space, piece: Segment, source: int) -> int | None:
        """Copy from `source`, where the piece begins; the address up to which that is done. None: the process is gone.

        The kernel copies into one mapping at a time: a range that reaches into the next is refused whole with ENOENT, as is one
        that is not mapped. So what is refused is halved, and only a single page that is refused counts as unmapped.
        """
        at, step = piece.start, piece.end - piece.start
        while at < piece.end:
            step = min(step, piece.end - at)
            done, error = kernel.uffd_copy(space.uffd, at, source + at - piece.start, step)
            at += done
            self._figures.placed(done)
            match error:
                case 0:
                    step *= 2
                case errno.EAGAIN:
                    if not done:
                        return at
                case errno.EEXIST:
                    kernel.uffd_wake(space.uffd, (at, at + PAGE_BYTES))
                    at += PAGE_BYTES
                case errno.ENOENT if step > PAGE_BYTES:
                    step = step // 2 & -PAGE_BYTES
                case errno.ENOENT:
                    at += PAGE_BYTES  # its event is on the way
                case errno.ESRCH | errno.ENOSPC:
                    return None
                case _:
                    raise OSError(error, f"placing memory at {at:#x}: {os.strerror(error)}")
        return at

    def _complete(self) -> bool:
        return all(space.complete for space in self._filling.spaces)

    def _placeable(self) -> bool:
        return any(space.missing.segments for space in self._filling.spaces)

    def _fill_some(self) -> None:
        for space in self._filling.spaces:
            if segment := space.missing.first(_FILL_BYTES):
                self._place(space, segment)
                return


class GuardianGone(Exception):
    """The process that holds the descriptors beside us has ended."""


def _let_go(space: Space, start: int, end: int) -> None:
    """Emptied by the process: what is touched there later is new and zero, and no business of ours."""
    try:
        kernel.uffd_unregister(space.uffd, (start, end))
    except OSError as error:
        if error.errno not in {errno.ENOMEM, errno.EINVAL, *_PROCESS_GONE}:
            raise


def _zero(space: Space, page: int) -> bool:
    _, error = kernel.uffd_zero(space.uffd, (page, page + PAGE_BYTES))
    if error == errno.EEXIST:
        kernel.uffd_wake(space.uffd, (page, page + PAGE_BYTES))
    if error in _PROCESS_GONE:
        _gone(space)
    if error not in {0, errno.EEXIST, errno.EAGAIN, errno.ENOENT, *_PROCESS_GONE}:
        raise OSError(error, f"placing a zero page: {os.strerror(error)}")
    return error != errno.EAGAIN


def _gone(space: Space) -> None:
    space.clear()


class _Window:
    """A part of the store, mapped: the kernel copies from our address space."""

    def __init__(self, fd: int, offset: int, length: int) -> None:
        self._map = mmap.mmap(fd, length, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=offset)

    def __enter__(self) -> int:
        self._anchor = ctypes.c_char.from_buffer(self._map)
        return ctypes.addressof(self._anchor)

    def __exit__(self, *_: object) -> None:
        del self._anchor
        self._map.close()


def _add_lazy_pages(image_directory: Path, pid: int, space: HeldSpace) -> None:
    """Pages that CRIU wrote and yet leaves to the lazy server: take them into the store."""
    image = images.read_pagemap(image_directory, pid)
    runs = [run for run in image.runs if run.flags & images.PE_LAZY and run.offset is not None]
    if not runs:
        return
    with (image_directory / f"pages-{image.pages_id}.img").open("rb") as pages:
        for run in runs:
            assert run.offset is not None
            pages.seek(run.offset)
            os.pwrite(space.fd, pages.read(run.end - run.start), run.start)
    space.news += [(run.start, run.end) for run in runs]
    space.settle()


def _bind(listener: socket.socket, path: Path) -> None:
    """Bind by a short name: the path of a UNIX socket has at most 107 bytes."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        listener.bind(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)


def _receive_descriptor(connection: socket.socket) -> int:
    _, ancillary, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(4))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(data[:4])
            return numbers[0]
    raise MemoryRefused("the restore sent no userfaultfd")
