"""Keeps a lazy restore going whichever process dies: a guardian that holds every descriptor, a worker that places pages.

Measured on Linux 6.18: when the last descriptor of a userfaultfd is closed, threads that wait on it are woken and read
*zeros*, and so does everyone who touches the rest. A worker that is killed would thereby corrupt the VE in silence. So the
guardian holds a second descriptor of each userfaultfd, and the store; each worker is a fork of it:

* The worker ends: the guardian forks another, which goes on from what the guardian was told. Pages that came from the
  source by post-copy it asks for again.
* The guardian ends: the worker becomes guardian itself, and forks a worker.
* The worker ends between taking a fork's event from the kernel and telling it: the guardian takes the child's descriptor out
  of the worker's ``anchor``.
* The anchor has ended with it, or workers end again and again: the guardian freezes the VE's cgroup, keeps all other
  descriptors open, and says so.

Guardian and worker killed in one instant is the case left; the agent sees that nobody answers and reports it.
"""

import contextlib
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from agents.transfer.memory import anchor
from agents.transfer.memory.filling import NOTE_BYTES, Filling, Kind, Note
from agents.transfer.memory.lazy import Event, Figures, GuardianGone, LazyServer, PagesSocket
from agents.transfer.memory.port import MemoryRefused

WORKERS_MAX = 4
_FILLED, _REFUSED, _BROKE = 0, 3, 4


class Guardian:
    """One lazy restore, as the guardian sees it.

    ``start`` and ``hear`` may return in another process than they were called in: in a worker that has become
    the guardian. The caller compares process ids.
    """

    def __init__(
        self, pages: PagesSocket, filling: Filling, group: Path | None, forked: Callable[[], None] = lambda: None
    ) -> None:
        """``group``: the VE's cgroup, frozen when its memory cannot be completed. ``forked``: run first in a worker."""
        self._pages, self.filling, self.group, self._forked = pages, filling, group, forked
        self.figures = Figures()
        self.broken = ""
        """Why the memory cannot be completed; empty as long as it can."""
        self._worker = self._workers = 0
        self._heard = 0
        """The number of the last event the worker told of."""
        self.notes: socket.socket | None = None
        """What the worker says; to be watched for reading."""
        self.death = -1
        """Readable when the worker has ended: its socket does not tell, for the anchor holds it too."""
        self._anchor = -1

    @property
    def worker(self) -> int:
        """The worker's process id; 0: there is none."""
        return self._worker

    def start(self) -> None:
        """Fork a worker."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._workers += 1
        self._worker = os.fork()
        if self._worker:
            theirs.close()
            ours.setblocking(False)  # recv_fds takes no notice of MSG_DONTWAIT
            self.notes, self.death = ours, os.pidfd_open(self._worker)
            return
        ours.close()
        self._forked()
        self._work(theirs)
        theirs.close()
        self._workers = 0
        if self.filling.filled:
            self.end()
        else:
            self.start()

    def hear(self) -> None:
        """Something is to be read from ``notes``, or ``death`` is readable."""
        ended, status = os.waitpid(self._worker, os.WNOHANG)
        while self._hear_note():
            pass
        if ended:
            self._worker = 0
            why = "" if self.filling.filled else self._not_told()
            self._let_go()
            self._ended(os.waitstatus_to_exitcode(status), why)

    def _hear_note(self) -> bool:
        """Take in what the worker told; False: there is nothing."""
        assert self.notes is not None
        try:
            data, fds, _, _ = socket.recv_fds(self.notes, NOTE_BYTES, 1)
        except BlockingIOError:
            return False
        except ConnectionResetError:  # it ended with something of ours unread; what it told before comes after this
            return True
        if not data:
            return False
        note = Note.unpack(data)
        if note.kind is Kind.ANCHORED:
            self._anchor = fds[0]
            return True
        self.filling.apply(note, fds[0] if fds else -1)
        self._heard = max(self._heard, note.number)
        if self.filling.filled:
            with contextlib.suppress(OSError):
                self.notes.send(b"k")
        return True

    def _let_go(self) -> None:
        """Of the worker that has ended, and of its anchor."""
        for fd in (self.death, self._anchor):
            if fd >= 0:
                os.close(fd)
        self.death = self._anchor = -1
        if self.notes is not None:
            self.notes.close()
            self.notes = None

    def lend(self, fds: Sequence[int]) -> None:
        """A stream to the source, for the worker; the descriptors are not the caller's any more."""
        if self.notes is not None:
            with contextlib.suppress(OSError):  # it has ended, and whoever lends begins again
                socket.send_fds(self.notes, [b"p"], fds)
        for fd in fds:
            os.close(fd)

    def end(self) -> None:
        """The VE is complete, or gone: end the worker, close everything."""
        if self._worker:
            os.kill(self._worker, signal.SIGKILL)
            os.waitpid(self._worker, 0)
            self._worker = 0
        self._let_go()
        self._pages.close()
        if self.filling.connection >= 0:
            os.close(self.filling.connection)
            self.filling.connection = -1
        for space in self.filling.spaces:
            os.close(space.uffd)
        self.filling.spaces.clear()

    def _ended(self, code: int, why: str) -> None:
        if self.filling.filled:
            self.end()
        elif code == _REFUSED:
            self.broken = "the restore ended before all processes were there"
        elif why:
            self._give_up(why)
        elif self._workers >= WORKERS_MAX:
            self._give_up(f"{self._workers} workers ended one after the other, the last with {code}")
        else:
            self.start()

    def _not_told(self) -> str:
        """Take in what the worker had taken from the kernel and not told; why that cannot be done, if it cannot."""
        event = self.figures.event()
        if event is not None and event.number > self._heard and (note := event.note):
            fd = self._of_child(event) if note.kind is Kind.FORK else -1
            if note.kind is Kind.FORK and fd < 0:
                return "the worker and what keeps its descriptors ended while it took up a process that was just forked"
            self.filling.apply(note, fd)
        self.figures.dealt_with()
        lost = self.figures.hearing_restore and not self.filling.restored
        return "the worker ended while it heard CRIU's restore" if lost else ""

    def _of_child(self, event: Event) -> int:
        return anchor.take_out(self._anchor, event.descriptor) if self._anchor >= 0 else -1

    def _give_up(self, why: str) -> None:
        self.broken = f"{why}; up to {self.filling.missing_bytes >> 20} MiB are missing, the VE stands still"
        if self.group is not None:
            (self.group / "cgroup.freeze").write_text("1")

    def _work(self, guardian: socket.socket) -> None:
        """In the worker: to the end of the process; returns only when the guardian has gone."""
        anchor_pid = 0
        try:
            anchor_pid, pidfd = anchor.start(guardian)
            socket.send_fds(guardian, [Note(Kind.ANCHORED).pack()], [pidfd])
            os.close(pidfd)
            code = self._serve(guardian)
        except (GuardianGone, BrokenPipeError, ConnectionResetError):
            if anchor_pid:
                os.waitpid(anchor_pid, 0)  # it saw the same
            return
        except MemoryRefused:
            code = _REFUSED
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            code = _BROKE
        os._exit(code)

    def _serve(self, guardian: socket.socket) -> int:
        def tell(note: Note, fd: int) -> None:
            socket.send_fds(guardian, [note.pack()], [fd] if fd >= 0 else [])

        server = LazyServer(self._pages, self.filling, self.figures, tell)
        try:
            server.serve(guardian)
            self.filling.filled = True
            tell(Note(Kind.FILLED), -1)
            _acknowledged(guardian)
            server.done()
        finally:
            server.close()
        return _FILLED


def _acknowledged(guardian: socket.socket) -> None:
    """Wait until it knows; a stream that it gives us meanwhile is not needed any more. Raises ``GuardianGone``."""
    data = b"p"
    while data == b"p":
        data, fds, _, _ = socket.recv_fds(guardian, 1, 2)
        for fd in fds:
            os.close(fd)
    if not data:
        raise GuardianGone
