"""Serve a restored VE's memory from the store while it runs already: the other end of CRIU's ``lazy-pages.socket``.

CRIU's restore with ``--lazy-pages`` connects to that socket in its work directory and hands over, per process, its id and
a userfaultfd over the mappings it left empty; at the end the word ``RSTF``. From then on every first touch of a
page waits for us, and beside that everything is filled in from the front, so that a moment later nothing waits any
more. The VE may fork, unmap and move meanwhile; the kernel tells and waits until we have heard.

The rule kept here: as long as one page is missing, no userfaultfd of ours is closed, whatever goes wrong, for the kernel
would give the VE zeros in place of its data. ``serve`` that fails leaves them open (the VE's threads wait, nothing
is lost) and its caller must freeze the VE or end it; only ``release`` closes them.
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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agents.transfer.memory import images, kernel
from agents.transfer.memory.extents import PAGE_BYTES
from agents.transfer.memory.missing import Missing, Segment
from agents.transfer.memory.port import Filled, MemoryRefused
from agents.transfer.memory.store import HeldSpace

SOCKET_NAME = "lazy-pages.socket"
_FINISHED = 0x52535446
_EVENT_BYTES = 32
_PAGEFAULT, _FORK, _REMAP, _REMOVE, _UNMAP = 0x12, 0x13, 0x14, 0x15, 0x16
_AROUND_BYTES = 16 * PAGE_BYTES
_FILL_BYTES = 1 << 18
_PROCESS_GONE = {errno.ESRCH, errno.ENOSPC}


@dataclass(slots=True)
class _Process:
    """One address space being filled. ``shares``: a fork may still need the same pages of the store."""

    uffd: int
    store: HeldSpace
    missing: Missing
    shares: bool = False
    waiting: set[int] = field(default_factory=set)
    """Pages somebody waits for that could not be placed yet (an event came first)."""


class LazyServer:
    """Listens in the restore's work directory, then fills the VE's memory. Blocking; for a thread of its own."""

    def __init__(self, work_directory: Path, image_directory: Path, spaces: Mapping[int, HeldSpace]) -> None:
        """Listens when it returns; start the restore then. Raises ``MemoryRefused`` if images and store do not fit."""
        images.check_held(image_directory, dict(spaces))
        self._spaces = dict(spaces)
        for pid, space in self._spaces.items():
            _add_lazy_pages(image_directory, pid, space)
        self._path = work_directory / SOCKET_NAME
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        _bind(self._listener, self._path)
        self._listener.listen(1)
        self._selector = selectors.DefaultSelector()
        self._stop_in, self._stop_out = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector.register(self._stop_in, selectors.EVENT_READ, None)
        self._processes: list[_Process] = []
        self._restored = False
        self._faults = 0
        self._bytes = 0

    def serve(self, on_restored: Callable[[], None] = lambda: None) -> Filled:
        """Until all memory is in place. ``on_restored`` is called when the VE is about to run.

        Raises ``MemoryRefused`` if the restore ends before its time (the restored processes are gone then) and
        ``ServerStopped`` after ``stop``.
        """
        began = time.monotonic()
        self._selector.register(self._listener, selectors.EVENT_READ, self._listener)
        connection: socket.socket | None = None
        while not (self._restored and not self._unfinished()):
            for key, _ in self._selector.select(0 if self._restored else None):
                if key.data is None:
                    raise ServerStopped("the lazy server was stopped")
                if key.data is self._listener:
                    connection = self._accept()
                elif key.data is connection and connection is not None:
                    if self._hear_restore(connection):
                        on_restored()
                elif isinstance(key.data, _Process):
                    self._hear_process(key.data)
            if self._restored:
                self._fill_some()
        return Filled(self._bytes, self._faults, time.monotonic() - began)

    def stop(self) -> None:
        """End ``serve`` from another thread; userfaultfds stay open."""
        os.write(self._stop_out, b"x")

    def release(self) -> None:
        """Close everything. Only after ``serve`` returned, or when the restored processes are gone."""
        for process in self._processes:
            os.close(process.uffd)
        self._processes.clear()
        self._selector.close()
        self._listener.close()
        self._path.unlink(missing_ok=True)
        os.close(self._stop_in)
        os.close(self._stop_out)

    def _accept(self) -> socket.socket:
        connection, _ = self._listener.accept()
        self._selector.unregister(self._listener)
        self._selector.register(connection, selectors.EVENT_READ, connection)
        return connection

    def _hear_restore(self, connection: socket.socket) -> bool:
        """One message of CRIU's restore; True: it was the last, the VE is about to run."""
        word = connection.recv(4, socket.MSG_WAITALL)
        if len(word) != 4:
            self._selector.unregister(connection)
            connection.close()
            if not self._restored:
                raise MemoryRefused("the restore ended before all processes were there")
            return False
        (number,) = struct.unpack("=i", word)
        if number == _FINISHED:
            self._restored = True
            return True
        if number > 0:
            self._take_up(number, _receive_descriptor(connection))
        return False

    def _take_up(self, pid: int, uffd: int) -> None:
        space = self._spaces.get(pid)
        process = _Process(uffd, space or HeldSpace(-1), Missing.of(space.settle() if space else []))
        self._processes.append(process)
        self._selector.register(uffd, selectors.EVENT_READ, process)
        if space is None:
            raise MemoryRefused(f"the restore asks for memory of process {pid}, which was not sent")

    def _hear_process(self, process: _Process) -> None:
        while True:
            try:
                event = os.read(process.uffd, _EVENT_BYTES)
            except BlockingIOError:
                break
            kind = event[0]
            first, second, third = struct.unpack_from("=3Q", event, 8)
            if kind == _PAGEFAULT:
                self._faults += 1
                process.waiting.add(second & ~(PAGE_BYTES - 1))
            elif kind == _FORK:
                self._follow_fork(process, first & 0xFFFFFFFF)
            elif kind == _REMAP:
                process.missing.move(first, second, third)
            elif kind in {_REMOVE, _UNMAP}:
                self._removed(process, first, second, unmapped=kind == _UNMAP)
        for page in list(process.waiting):
            self._answer(process, page)

    def _follow_fork(self, parent: _Process, uffd: int) -> None:
        parent.shares = True
        child = _Process(uffd, parent.store, parent.missing.copy(), shares=True)
        self._processes.append(child)
        self._selector.register(uffd, selectors.EVENT_READ, child)

    def _removed(self, process: _Process, start: int, end: int, *, unmapped: bool) -> None:
        """Gone from the process: never to be filled; what is touched there later is new and zero."""
        process.missing.cut(start, end)
        process.waiting = {page for page in process.waiting if not start <= page < end}
        if not unmapped:
            try:
                kernel.uffd_unregister(process.uffd, (start, end))
            except OSError as error:
                if error.errno not in {errno.ENOMEM, errno.EINVAL, *_PROCESS_GONE}:
                    raise

    def _answer(self, process: _Process, page: int) -> None:
        """Give the page somebody waits for, and its neighbours."""
        segment = process.missing.around(page, page % _AROUND_BYTES, _AROUND_BYTES - page % _AROUND_BYTES)
        if segment is None:
            if self._zero(process, page):
                process.waiting.discard(page)
            return
        if segment.start < page and not self._place(process, Segment(page, page + PAGE_BYTES, segment.shift)):
            return
        if self._place(process, segment) and process.missing.around(page, 0, PAGE_BYTES) is None:
            process.waiting.discard(page)

    def _zero(self, process: _Process, page: int) -> bool:
        _, error = kernel.uffd_zero(process.uffd, (page, page + PAGE_BYTES))
        if error == errno.EEXIST:
            kernel.uffd_wake(process.uffd, (page, page + PAGE_BYTES))
        if error in _PROCESS_GONE:
            self._gone(process)
        if error not in {0, errno.EEXIST, errno.EAGAIN, errno.ENOENT, *_PROCESS_GONE}:
            raise OSError(error, f"placing a zero page: {os.strerror(error)}")
        return error != errno.EAGAIN

    def _place(self, process: _Process, segment: Segment) -> bool:
        """Copy a segment into the process; False: an event must be heard first."""
        pieces = process.missing.cut(segment.start, segment.end)
        for index, piece in enumerate(pieces):
            at = piece.start
            with _Window(process.store.fd, piece.start + piece.shift, piece.end - piece.start) as source:
                while at < piece.end:
                    done, error = kernel.uffd_copy(process.uffd, at, source + at - piece.start, piece.end - at)
                    at += done
                    self._bytes += done
                    if error == errno.EAGAIN:
                        if not done:
                            rest = Segment(at, piece.end, piece.shift)
                            process.missing.put_back(rest, *pieces[index + 1 :])
                            return False
                    elif error == errno.EEXIST:
                        kernel.uffd_wake(process.uffd, (at, at + PAGE_BYTES))
                        at += PAGE_BYTES
                    elif error == errno.ENOENT:
                        at += PAGE_BYTES  # unmapped; its event is on the way
                    elif error in _PROCESS_GONE:
                        self._gone(process)
                        return True
                    elif error:
                        raise OSError(error, f"placing memory at {at:#x}: {os.strerror(error)}")
            if not process.shares:
                kernel.punch_hole(process.store.fd, (piece.start + piece.shift, piece.end + piece.shift))
        return True

    def _gone(self, process: _Process) -> None:
        process.missing.segments.clear()
        process.waiting.clear()

    def _unfinished(self) -> bool:
        return any(process.missing.segments for process in self._processes)

    def _fill_some(self) -> None:
        for process in self._processes:
            if segment := process.missing.first(_FILL_BYTES):
                self._place(process, segment)
                return


class ServerStopped(Exception):
    """``stop`` was called; memory is missing still, and the userfaultfds are open."""


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
