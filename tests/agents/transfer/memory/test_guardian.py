"""Whoever dies while a restored VE's memory is being filled: no page of it is ever wrong."""

import contextlib
import os
import select
import signal
import socket
import subprocess
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from agents.transfer.memory.filling import Filling, Kind, Note
from agents.transfer.memory.guardian import Guardian
from agents.transfer.memory.lazy import LazyServer, PagesSocket
from agents.transfer.memory.store import ADDRESS_END, HeldSpace
from scenarios.lab.fixtures import need_root
from tests.agents.transfer.memory.memory_ve import compiled

pytestmark = pytest.mark.lab

PAGE = 4096
BASE = 0x100000000000
MIB = 192
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def held() -> Iterator[HeldSpace]:
    """A store with the memory that `restored` expects; each use of it needs a copy, for what was placed is given back."""
    fd = os.memfd_create("held")
    os.ftruncate(fd, ADDRESS_END)
    words = [0] * 512
    for page in range(MIB * 256):
        first = (page * 0x9E3779B97F4A7C15 + 1) % (1 << 64)
        words[0], words[511] = first, (first + 511) % (1 << 64)
        os.pwrite(fd, b"".join(word.to_bytes(8, "little") for word in (words[0],)), BASE + page * PAGE)
        os.pwrite(fd, words[511].to_bytes(8, "little"), BASE + page * PAGE + 511 * 8)
    yield HeldSpace(fd, [(BASE, BASE + MIB * 256 * PAGE)])
    os.close(fd)


@pytest.fixture(scope="module")
def restored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See restored.c."""
    need_root()
    return compiled("restored", tmp_path_factory.mktemp("restored"))


def copy_of(held: HeldSpace) -> HeldSpace:
    """The same pages in a file of their own."""
    fd = os.memfd_create("copy")
    os.ftruncate(fd, ADDRESS_END)
    for start, end in held.extents:
        at = start
        while at < end:
            os.lseek(fd, at, os.SEEK_SET)
            at += os.sendfile(fd, held.fd, at, end - at)
    return HeldSpace(fd, list(held.extents), owed=list(held.owed), pid_in_ve=1)


class Restore:
    """A restored process and the guardian of its memory, in a child process as it is in the keeper."""

    def __init__(
        self,
        held: HeldSpace,
        restored: Path,
        directory: Path,
        seed: int,
        group: Path | None = None,
        first: type[LazyServer] = LazyServer,
    ) -> None:
        """`held` is the process's memory; what of it is owed comes from `lend`. ``first``: the server in the first worker."""
        pages = PagesSocket(directory)
        self.told, tell = os.pipe()
        self.lend, lent = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        """By this the guardian is given streams to whoever lends."""
        guardian = Guardian(pages, Filling({1: copy_of(held)}), group)
        self.figures = guardian.figures
        self.guardian = os.fork()
        if not self.guardian:
            os.close(self.told)
            self.lend.close()
            try:
                _guard(guardian, tell, lent, first)
            finally:
                os._exit(1)
        os.close(guardian.filling.held[1].fd)
        os.close(tell)
        lent.close()
        self.words()
        words = [str(restored), str(pages.path), str(MIB), str(seed), "0.6"]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
        pages.listener.close()
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "restored\n"
        while self.words()[3] == "waiting":
            pass

    def words(self) -> list[str]:
        """What the guardian said last: its process id, its worker's, how much is placed, its state."""
        self._said = os.read(self.told, 4096).decode().splitlines()
        self.last = self._said[-1].split() if self._said else []
        return self.last

    def outcome(self) -> str:
        """What the process found in the end."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], LIMIT_S)[0]:
            self.process.kill()
            return "it stands still"
        return self.process.stdout.read().strip()

    def close(self) -> None:
        """End everything."""
        with self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.last and int(self.last[0]) != self.guardian:  # another took over
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(self.last[0]), signal.SIGKILL)
        os.close(self.told)
        self.lend.close()
        os.kill(self.guardian, signal.SIGKILL)
        os.waitpid(self.guardian, 0)


def _guard(guardian: Guardian, tell: int, lent: socket.socket, first: type[LazyServer]) -> None:
    """What the keeper's loop does with a guardian; says how it stands whenever something happened."""
    with patch("agents.transfer.memory.guardian.LazyServer", first):
        guardian.start()
    while True:
        state = _state(guardian)
        os.write(tell, f"{os.getpid()} {guardian.worker} {guardian.figures.placed_bytes} {state}\n".encode())
        if state == "filled":
            os._exit(0)
        notes = guardian.notes
        if notes is None:
            signal.pause()
            continue
        ready, _, _ = select.select([notes.fileno(), guardian.death, lent.fileno()], [], [])
        if lent.fileno() in ready:
            _, fds, _, _ = socket.recv_fds(lent, 1, 2)
            guardian.lend(fds)
        else:
            guardian.hear()


def _state(guardian: Guardian) -> str:
    if guardian.broken:
        return "broken"
    if guardian.filling.filled and not guardian.worker:
        return "filled"
    return "filling" if guardian.filling.restored else "waiting"


def kill_worker(restore: Restore) -> None:
    """The worker, by the number the guardian told last."""
    os.kill(int(restore.last[1]), signal.SIGKILL)


def kill_guardian(restore: Restore) -> None:
    """The guardian."""
    os.kill(restore.guardian, signal.SIGKILL)


def kill_both_in_turn(restore: Restore) -> None:
    """The guardian, and then the worker of the one that took over."""
    os.kill(restore.guardian, signal.SIGKILL)
    while True:
        words = restore.words()
        if words and int(words[0]) != restore.guardian and int(words[1]):
            break
    os.kill(int(words[1]), signal.SIGKILL)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("mishap", [lambda restore: None, kill_worker, kill_guardian, kill_both_in_turn])
def test_no_page_is_ever_wrong(
    held: HeldSpace, restored: Path, tmp_path: Path, mishap: Callable[[Restore], None], seed: int
) -> None:
    """A process checks, empties, unmaps, moves and forks memory that is being filled while guardian and worker die."""
    restore = Restore(held, restored, tmp_path, seed)
    try:
        mishap(restore)
        checked, count, wrong, errors = restore.outcome().split()
        assert (checked, wrong, errors) == ("checked", "wrong", "0")
        assert int(count) > MIB * 200
    finally:
        restore.close()


class EndsWithFork(LazyServer):
    """It is killed when it has taken a fork's event from the kernel, and nobody knows of it yet."""

    def _happened(self, note: Note, fd: int = -1) -> None:
        if note.kind is Kind.FORK:
            os.kill(os.getpid(), signal.SIGKILL)
        super()._happened(note, fd)


class GuardianEndsWithFork(LazyServer):
    """The first kills its guardian when it has taken a fork's event; the second ends before it takes any."""

    def _happened(self, note: Note, fd: int = -1) -> None:
        if note.kind is Kind.FORK and not self._figures._words[20]:
            self._figures._words[20] = 1
            guardian = os.getppid()
            os.kill(guardian, signal.SIGKILL)
            while os.getppid() == guardian:
                pass
        super()._happened(note, fd)

    def _wake_all(self) -> None:
        if self._figures._words[20] == 1:
            self._figures._words[20] = 2
            os.kill(os.getpid(), signal.SIGKILL)
        super()._wake_all()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_forked_child_outlives_the_worker(held: HeldSpace, restored: Path, tmp_path: Path, seed: int) -> None:
    """A worker is killed with a child's descriptor in its hand: the child reads its memory all the same."""
    restore = Restore(held, restored, tmp_path, seed, first=EndsWithFork)
    try:
        assert restore.outcome().split()[2:] == ["wrong", "0"]
        assert int(restore.words()[0]) == restore.guardian
    finally:
        restore.close()


def test_guardian_ends_while_it_is_told_of_a_fork(held: HeldSpace, restored: Path, tmp_path: Path) -> None:
    """The worker that takes over knows the child, and does not lay it to the next worker's death."""
    restore = Restore(held, restored, tmp_path, 1, first=GuardianEndsWithFork)
    try:
        assert restore.outcome().split()[2:] == ["wrong", "0"]
    finally:
        restore.close()


def test_without_anybody_the_kernel_gives_zeros(held: HeldSpace, restored: Path, tmp_path: Path) -> None:
    """What all this is for: when guardian and worker end in one instant, the process reads wrong pages. So the test can fail."""
    restore = Restore(held, restored, tmp_path, 1)
    try:
        worker = int(restore.last[1])
        for pid in (restore.guardian, worker):
            os.kill(pid, signal.SIGSTOP)
        for pid in (restore.guardian, worker):
            os.kill(pid, signal.SIGKILL)
        assert int(restore.outcome().split()[3]) > 0
    finally:
        restore.close()


def test_lost_event_freezes_the_ve(held: HeldSpace, restored: Path, tmp_path: Path) -> None:
    """A worker that dies while it takes what nobody can get again: the VE is frozen, and told to be incomplete."""
    group = tmp_path / "group"
    group.mkdir()
    restore = Restore(held, restored, tmp_path, 1, group)
    try:
        worker = int(restore.last[1])
        os.kill(worker, signal.SIGSTOP)
        restore.figures._words[8:14] = memoryview(array("Q", [Kind.FORK, 0, 0, 0, 0, 1 << 40]))
        os.kill(worker, signal.SIGKILL)
        while (words := restore.words())[-1] == "filling":
            pass
        assert words[-1] == "broken"
        assert (group / "cgroup.freeze").read_text() == "1"
    finally:
        restore.close()
