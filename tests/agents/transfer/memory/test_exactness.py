"""What the target holds after the seal is, page by page, what the frozen VE holds; found out by reading both anew.

The tests read the frozen processes' memory with code of their own: `/proc/PID/maps`, `mem` and `pagemap`.
"""

import os
import random
import re
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from agents.transfer.lines import streams
from agents.transfer.memory import veil
from agents.transfer.memory.frames import Corrupt
from agents.transfer.memory.port import LastLook
from agents.transfer.memory.soft_dirty import soft_dirty_works
from agents.transfer.memory.source import SourceSession
from agents.transfer.memory.store import HeldSpace, PageStore
from migrator.wire.facts import MemoryMethod
from tests.agents.transfer.memory.memory_ve import Ve

pytestmark = pytest.mark.lab

AHEAD = (
    MemoryMethod.TRACKED,
    pytest.param(
        MemoryMethod.SOFT_DIRTY,
        marks=pytest.mark.skipif(not soft_dirty_works(), reason="this kernel has no soft-dirty bits: see tests/vm"),
    ),
    MemoryMethod.CONTENT,
)
PAGE = 4096
MODES = (
    *("plain", "forks", "threads", "mremap", "munmap", "dontneed", "free", "shared", "file"),
    *("none", "guard", "stack", "huge", "exec", "locked", "code"),
)
ZERO = bytes(PAGE)
GUARD = 1 << 58
"""In a pagemap's word: a guard region, which has no content to compare (linux/Documentation/admin-guide/mm/pagemap.rst)."""


class Pair:
    """Both ends of one memory stream, over a socket pair that can break."""

    def __init__(self, ve: Ve, init: int, method: MemoryMethod) -> None:
        self.left_bytes = sys.maxsize
        """So many reach the target yet; then the line breaks."""
        self.vanishing_bytes = 0
        """And so many more are written before that is noticed."""
        self._connect()
        ours, theirs = self.ends
        self.source = SourceSession(init, ve.processes, self._write, streams.reader(ours.fileno()), method=method)
        self.store = PageStore(streams.reader(theirs.fileno()), streams.writer(theirs.fileno()), cap_bytes=1 << 32)
        self._receive()

    def resume(self) -> None:
        """Over another line, for now a whole one."""
        self._hang_up()
        self.left_bytes = sys.maxsize
        self._connect()
        ours, theirs = self.ends
        self.store.go_on(streams.reader(theirs.fileno()), streams.writer(theirs.fileno()))
        self._receive()
        self.source.resume(self._write, streams.reader(ours.fileno()))

    def close(self) -> None:
        self.source.undo()
        self._hang_up()
        self.store.close()

    def _connect(self) -> None:
        self.ends = socket.socketpair()

    def _receive(self) -> None:
        def receive() -> None:
            with suppress(Corrupt):
                self.store.receive()

        self._thread = threading.Thread(target=receive)
        self._thread.start()

    def _write(self, buffers: Sequence[bytes | memoryview]) -> None:
        data = b"".join(buffers)
        if self.left_bytes:
            self.ends[0].sendall(data[: self.left_bytes])
        self.left_bytes -= len(data)
        if self.left_bytes < 0:
            self.vanishing_bytes += self.left_bytes
            self.left_bytes = 0
            self.ends[0].shutdown(socket.SHUT_RDWR)
            if self.vanishing_bytes < 0:
                raise ConnectionResetError("the line broke")

    def _hang_up(self) -> None:
        self.ends[0].close()
        self._thread.join()
        self.ends[1].close()


def moved(ve: Ve, pair: Pair, breaks_after: Callable[[], int] | None = None) -> LastLook:
    """Rounds while it runs, then the frozen rest; returns with the VE frozen and the memory sealed. In each round the line may
    break after so many bytes."""
    for pause_s in (0.05, 0.02, 0.08):
        if breaks_after is not None:
            pair.left_bytes, pair.vanishing_bytes = breaks_after(), breaks_after()
            with suppress(OSError, Corrupt):
                pair.source.round()
            pair.resume()
        pair.source.round()
        time.sleep(pause_s)  # not awaited: the program has to get on between rounds, it does not matter how far
    ve.freeze()
    look = pair.source.last_look()
    pair.source.send_last(look)
    assert pair.store.sealed
    return look


@pytest.mark.parametrize("method", AHEAD)
@pytest.mark.parametrize("mode", MODES)
def test_held_is_what_the_frozen_ve_holds(ve: Ve, churn: Path, tmp_path: Path, mode: str, method: MemoryMethod) -> None:
    """Under every kind of change, by either method: each page is held as it is, or is left to CRIU, which can see it."""
    init = ve.start(str(churn), mode, str(os.getpid()), str(tmp_path / "mapped"))
    carried = 0
    for _ in range(3):
        pair = Pair(ve, init.pid, method)
        try:
            look = moved(ve, pair)
            held = {facts.pid: space for facts in look.processes for space in [pair.store.spaces()[facts.pid_in_ve]]}
            alive = [pid for pid in ve.processes() if Path(f"/proc/{pid}/maps").read_bytes()]
            assert sorted(held) == alive
            carried += sum(check(pid, held[pid], veiled(look, pid, tmp_path)) for pid in held)
        finally:
            ve.thaw()
            pair.close()
    assert carried > 300
    assert init.poll() is None


@pytest.mark.parametrize("method", AHEAD)
@pytest.mark.parametrize("mode", ["plain", "forks", "munmap", "dontneed", "exec"])
def test_it_goes_on_over_another_line(ve: Ve, churn: Path, tmp_path: Path, mode: str, method: MemoryMethod) -> None:
    """The line breaks anywhere in any round, and what is held in the end is what the frozen VE holds all the same."""
    init = ve.start(str(churn), mode, str(os.getpid()), str(tmp_path / "mapped"))
    carried = 0
    for seed in range(3):
        anywhere = random.Random(seed)
        pair = Pair(ve, init.pid, method)
        try:
            look = moved(ve, pair, lambda anywhere=anywhere: int(10 ** anywhere.uniform(2, 6.7)))  # type: ignore[misc]
            held = {facts.pid: space for facts in look.processes for space in [pair.store.spaces()[facts.pid_in_ve]]}
            carried += sum(check(pid, held[pid], veiled(look, pid, tmp_path)) for pid in held)
        finally:
            ve.thaw()
            pair.close()
    assert carried > 300


COMES_AGAIN = """
import ctypes, mmap, pathlib, signal, sys, time
memory = mmap.mmap(-1, 64 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
fill = lambda *_: memory.seek(0) or memory.write(b"the same again. " * 64 * 256)
signal.signal(signal.SIGUSR1, lambda *_: memory.madvise(mmap.MADV_DONTNEED))
signal.signal(signal.SIGUSR2, fill)
fill()
pathlib.Path(sys.argv[1]).write_text(str(ctypes.addressof(ctypes.c_char.from_buffer(memory))))
print("ready", flush=True)
while True:
    time.sleep(1)
"""


@pytest.mark.parametrize("method", AHEAD)
def test_a_page_that_comes_again_as_it_was_is_sent_again(ve: Ve, tmp_path: Path, method: MemoryMethod) -> None:
    """What was dropped between two rounds is dropped at the target; the same content afterwards has to go there anew."""
    init = ve.start(sys.executable, "-c", COMES_AGAIN, str(tmp_path / "address"))
    start = int((tmp_path / "address").read_text())
    pair = Pair(ve, init.pid, method)
    try:
        pair.source.round()
        for number, word in ((signal.SIGUSR1, bytes(16)), (signal.SIGUSR2, b"the same again. ")):
            os.kill(init.pid, number)
            until(lambda word=word: content_of(init.pid, start).startswith(word))  # type: ignore[misc]
            pair.source.round()
        ve.freeze()
        pair.source.send_last(pair.source.last_look())
        [held] = pair.store.spaces().values()
        assert os.pread(held.fd, 64 * PAGE, start) == b"the same again. " * 64 * 256
    finally:
        ve.thaw()
        pair.close()


def content_of(pid: int, start: int) -> bytes:
    """64 pages of a process."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        return os.pread(memory.fileno(), 64 * PAGE, start)


def until(condition: Callable[[], bool]) -> None:
    """Wait for what the VE does by itself."""
    deadline_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.002)


def veiled(look: LastLook, pid: int, directory: Path) -> Path:
    """The pagemap that CRIU is shown of a process."""
    [facts] = [each for each in look.processes if each.pid == pid]
    return Path(veil.cover(facts, directory).path)


def check(pid: int, held: HeldSpace, shown: Path) -> int:
    """Compare one process; the number of pages that we carry."""
    carried = 0
    where = held.settle()
    with (
        open(f"/proc/{pid}/mem", "rb", buffering=0) as memory,
        open(f"/proc/{pid}/pagemap", "rb", buffering=0) as true,
        shown.open("rb", buffering=0) as seen,
    ):
        for start, end in mappings(pid):
            for address in range(start, end, PAGE):
                word = entry(true, address)
                present = word >> 62 != 0 and not word & GUARD
                ours = any(first <= address < last for first, last in where)
                if ours:
                    carried += 1
                    assert os.pread(held.fd, PAGE, address) == os.pread(memory.fileno(), PAGE, address), (
                        f"process {pid}: {address:#x} is held otherwise"
                    )
                elif present and not entry(seen, address) >> 62:
                    assert os.pread(memory.fileno(), PAGE, address) == ZERO, (
                        f"process {pid}: {address:#x} is neither held nor left to CRIU"
                    )
    return carried


def entry(pagemap: object, address: int) -> int:
    """The pagemap's word for one page."""
    data = os.pread(pagemap.fileno(), 8, address // PAGE * 8)  # type: ignore[attr-defined]
    return int(struct.unpack("=Q", data)[0]) if len(data) == 8 else 0


def mappings(pid: int) -> Iterator[tuple[int, int]]:
    """All mappings but the kernel's own."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        found = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if found and not re.search(r"\[(vsyscall|vvar|vvar_vclock|vdso)\]", line):
            yield int(found[1], 16), int(found[2], 16)
