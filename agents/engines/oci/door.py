"""Stands in CRIU's place on a runtime's PATH: a CRIU that is started ahead, and gets its order when the agent says so.

A runtime starts CRIU for each of its calls and sends it one order (`criu swrk N`; dump, restore, version, ...). An order to
dump or to restore is kept here: the real CRIU is started at once and waits for it, while the VE still runs on the source. When
the agent writes its word into the pipe, the pagemaps are covered, CRIU enters the VE's cgroup, and it gets the order. Other
orders go straight to CRIU.

Rule: nobody is left behind. While it waits, the end of the agent (which holds the pipe's other end), of the runtime or of CRIU
is the end of all of them; from the word on, CRIU finishes what it began, whoever ends.

Run as a file, `python3 -I -S door.py SETTINGS swrk N`; nothing but the standard library is imported. Sources: CRIU's
images/rpc.proto and criu/cr-service.c (it opens `images_dir_fd` as /proc/PID/fd/N, where PID is who made the socket: we).
"""

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import socket
import stat
import sys
from typing import TypedDict

KEPT = (b"\x08\x01", b"\x08\x02")
"""How an order to dump, or to restore, begins: field 1, a number, 1 or 2."""
MESSAGE_BYTES = 1 << 20
OURS_FROM = min(600, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
"""Descriptors of ours begin here; below it those of the runtime are found under the runtime's numbers."""
WARM_MS = 4
SYS_PIDFD_GETFD = 438
MS_BIND = 4096


class Settings(TypedDict):
    """What the agent wrote down before it started the runtime."""

    criu: list[str]
    """The command that becomes CRIU."""
    pipe: str
    """Where the agent's word comes from."""
    ready: str
    """A file made when only the word is missing."""
    outside: str
    """A cgroup for us; empty: where we are."""


class Word(TypedDict):
    """What the agent says."""

    go: bool
    """Whether CRIU gets its order now; if not, another word will come."""
    covers: list[list[str]]
    """(file, what it covers): mounted before CRIU gets its order."""
    group: str
    """The cgroup that CRIU enters; empty: none, or it has."""
    on_failure: str
    """A file that gets a `1` if CRIU fails; empty: none."""


_libc = ctypes.CDLL(None, use_errno=True)


def main(argv: list[str]) -> None:
    """Become CRIU, or keep its order until the word comes."""
    with open(argv[0]) as file:
        settings = json.load(file)
    command, words = settings["criu"], argv[1:]
    if len(words) == 2 and words[0] == "swrk":
        with socket.socket(fileno=int(words[1])) as runtime:
            if runtime.recv(2, socket.MSG_PEEK) in KEPT:
                os._exit(Door(settings, runtime, int(words[1])).stand())
            runtime.detach()
    os.execv(command[0], [*command, *words])


class Door:
    """One order of one runtime."""

    def __init__(self, settings: Settings, runtime: socket.socket, number: int) -> None:
        self._settings, self._number, self._entered = settings, number, False
        self._parent = _high(os.pidfd_open(os.getppid()))
        self._pipe = _high(os.open(settings["pipe"], os.O_RDONLY | os.O_NONBLOCK))
        self._said = self._first_words()
        self._runtime = socket.socket(fileno=_high(runtime.detach()))
        self._order = self._runtime.recv(MESSAGE_BYTES)
        # runc has put us into the VE's cgroup by now; while nothing of the VE is there, nobody is in it.
        self._stay_outside()
        self._share_directories()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours = socket.socket(fileno=_high(ours.detach()))
        self._criu = self._start(_high(theirs.detach()))
        self._criu_ends = _high(os.pidfd_open(self._criu))

    def _first_words(self) -> bytes:
        """What the agent has said already. One that ended before we opened the pipe, no poll would ever tell of."""
        try:
            said = os.read(self._pipe, MESSAGE_BYTES)
        except BlockingIOError:
            return b""
        if not said:
            os._exit(1)
        return said

    def _stay_outside(self) -> None:
        if outside := self._settings["outside"]:
            with open(f"{outside}/cgroup.procs", "w") as group:
                group.write("0")

    def _ready(self, poll: select.poll) -> list[tuple[int, int]]:
        """Who can be read. While CRIU is in the VE's cgroup, nobody waits to be moved from one cgroup to another.

        The kernel's first move after a pause of 10 to 20 ms waits for the end of an RCU grace period, 6 to 11 ms (measured on Linux
        6.18; cgroup_threadgroup_rwsem). Moving ourselves to where we are is no move, and keeps that lock warm.
        """
        while not (ready := poll.poll(WARM_MS if self._entered else None)):
            self._stay_outside()
        return ready

    def _share_directories(self) -> None:
        """The order names directories by the runtime's descriptors; CRIU looks for them in this process."""
        for name in os.listdir(f"/proc/{os.getppid()}/fd"):
            number = int(name)
            with contextlib.suppress(OSError):
                if 2 < number < OURS_FROM and not _open(number) and self._is_directory(number):
                    taken = _libc.syscall(SYS_PIDFD_GETFD, self._parent, number, 0)
                    if taken >= 0:
                        os.dup2(_high(taken), number, inheritable=False)

    @staticmethod
    def _is_directory(number: int) -> bool:
        return stat.S_ISDIR(os.stat(f"/proc/{os.getppid()}/fd/{number}").st_mode)

    def _start(self, theirs: int) -> int:
        """CRIU, waiting for its order on the descriptor it was told."""
        command = self._settings["criu"]
        child = os.fork()
        if not child:
            try:
                os.dup2(theirs, self._number)
                os.execv(command[0], [*command, "swrk", str(self._number)])
            finally:
                os._exit(127)
        os.close(theirs)
        return child

    def stand(self) -> int:
        """Until CRIU has ended; its exit status."""
        with open(self._settings["ready"], "w"):
            pass
        while (word := self._wait()) is not None:
            for source, target in word["covers"]:
                _mount(source, target)
            if word["group"]:
                with open(os.path.join(word["group"], "cgroup.procs"), "w") as group:
                    group.write(str(self._criu))
                self._entered = True
            if word["go"]:
                return self._work(word["on_failure"])
        os.kill(self._criu, signal.SIGKILL)
        return self._ended()

    def _work(self, on_failure: str) -> int:
        self._ours.send(self._order)
        self._relay()
        status = self._ended()
        if status and on_failure:
            # What a CRIU that failed has let go of must not get far.
            with contextlib.suppress(OSError), open(on_failure, "w") as freezer:
                freezer.write("1")
        return status

    def _wait(self) -> Word | None:
        """The agent's word; None: somebody has ended, or the agent wants it no more."""
        poll = select.poll()
        for fd in (self._pipe, self._parent, self._criu_ends):
            poll.register(fd, select.POLLIN)
        while b"\n" not in self._said:
            ready = {fd for fd, _ in self._ready(poll)}
            data = b"" if ready - {self._pipe} else os.read(self._pipe, MESSAGE_BYTES)
            if not data:
                return None
            self._said += data
        line, _, self._said = self._said.partition(b"\n")
        word: Word = json.loads(line)
        return word

    def _relay(self) -> None:
        """Messages both ways, until CRIU has said all."""
        poll = select.poll()
        poll.register(self._ours, select.POLLIN)
        poll.register(self._runtime, select.POLLIN)
        other = {self._ours.fileno(): self._runtime, self._runtime.fileno(): self._ours}
        while True:
            for fd, _ in self._ready(poll):
                message = b""
                with contextlib.suppress(OSError):
                    message = (self._ours if other[fd] is self._runtime else self._runtime).recv(MESSAGE_BYTES)
                with contextlib.suppress(OSError):
                    if message:
                        other[fd].send(message)
                    else:
                        other[fd].shutdown(socket.SHUT_WR)
                if not message:
                    if fd == self._ours.fileno():
                        return
                    poll.unregister(fd)

    def _ended(self) -> int:
        _, status = os.waitpid(self._criu, 0)
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code


def _high(fd: int) -> int:
    """The same descriptor out of the runtime's way; not inherited."""
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, OURS_FROM)
    os.close(fd)
    return moved


def _open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _mount(source: str, target: str) -> None:
    if _libc.mount(source.encode(), target.encode(), None, MS_BIND, None):
        raise OSError(ctypes.get_errno(), f"mount {source} on {target}")


if __name__ == "__main__":
    main(sys.argv[1:])
