"""What rsync has at its two ends of a pass that may go over several connections, with `cat` in its place at the target."""

import contextlib
import os
import random
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import bridge
from agents.transfer.lines.rsync_shell import Task
from agents.transfer.lines.strands import PIECE_BYTES, READY, Spread
from agents.transfer.lines.use import Stream, connections

ROOT = str(Path(bridge.__file__).parents[1])
NAME = "of-this-pass"
LIMIT_S = 20
SERVER = f"""
import os, pathlib, sys
sys.path.insert(0, {ROOT!r})
from agents.transfer.lines import rsync_server
os._exit(rsync_server.run(pathlib.Path(sys.argv[1]), {NAME!r}, sys.argv[2:]))
"""
JOIN = f"""
import pathlib, sys
sys.path.insert(0, {ROOT!r})
from agents import bridge
bridge.lend(pathlib.Path(sys.argv[1]), sys.argv[2], joins=True)
"""
SHELL = f"""
import sys
sys.path.insert(0, {ROOT!r})
from agents.transfer.lines import rsync_shell
rsync_shell.main(*sys.argv[1:])
"""


def python(code: str, *words: object) -> tuple[str, ...]:
    """Argument list of a program."""
    return (sys.executable, "-c", code, *map(str, words))


class Target:
    """The target's end of one pass."""

    def __init__(self, door: Path, *command: str) -> None:
        self._door = door
        self.program = subprocess.Popen(
            python(SERVER, door, *command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        assert self.program.stdin is not None
        self.spread = Spread(self.program.stdin.fileno())
        self._joined: list[subprocess.Popen[bytes]] = []

    def stranger(self, name: str) -> "subprocess.Popen[bytes]":
        """Somebody who wants to join."""
        while not self._door.exists():
            select.select([], [], [], 0.001)  # nobody tells when it is open
        joiner = subprocess.Popen(python(JOIN, self._door, name), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._joined.append(joiner)
        return joiner

    def join(self) -> "subprocess.Popen[bytes]":
        """One more connection."""
        joiner = self.stranger(NAME)
        assert joiner.stdin is not None
        assert joiner.stdout is not None
        assert joiner.stdout.read(len(READY)) == READY
        return joiner

    def widen(self) -> None:
        """The stream goes over one more."""
        joiner = self.join()
        assert joiner.stdin is not None
        self.spread.join(os.dup(joiner.stdin.fileno()))

    def said(self) -> bytes:
        """All that came out of it."""
        assert self.program.stdout is not None
        return self.program.stdout.read()

    def close(self) -> None:
        """Nothing is left."""
        for each in (self.program, *self._joined):
            each.kill()
            each.wait()
            for pipe in (each.stdin, each.stdout):
                assert pipe is not None
                pipe.close()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    """It gives back what it reads."""
    made = Target(tmp_path / "door", "cat")
    yield made
    made.close()
    assert not (tmp_path / "door").exists()


def test_over_three(target: Target) -> None:
    """What is written over three connections comes out as it was, and the end is the end."""
    target.widen()
    target.widen()
    data = random.Random(7).randbytes(100 * PIECE_BYTES)

    def write() -> None:
        target.spread.write([data])
        target.spread.finish()

    writing = threading.Thread(target=write)
    writing.start()
    assert target.said() == data
    writing.join()
    assert target.program.wait(LIMIT_S) == 0


def test_another_name_does_not_join(target: Target) -> None:
    """Who does not know the name is sent away, and what it says is not read."""
    stranger = target.stranger("another")
    out, _ = stranger.communicate(b"something", timeout=LIMIT_S)
    assert out == b""
    target.spread.write([b"ours"])
    target.spread.finish()

    assert target.said() == b"ours"


def test_a_slow_rsync_wants_no_more(tmp_path: Path) -> None:
    """Where the target takes less than the line brings, a further connection is sent away, and the stream goes on as it was."""
    target = Target(tmp_path / "door", "sh", "-c", "read word; cat")

    def write() -> None:
        with contextlib.suppress(BrokenPipeError):
            target.spread.write([bytes(100 * PIECE_BYTES)])  # a line without an end, which a shell reads byte by byte

    slow = threading.Thread(target=write)
    slow.start()
    while target.spread.bytes_written < 8 * PIECE_BYTES:  # all buffers are full
        select.select([], [], [], 0.001)
    refused = target.stranger(NAME)
    out, _ = refused.communicate(timeout=LIMIT_S)
    assert out == b""
    target.program.kill()
    slow.join()
    target.close()


def test_a_connection_that_breaks(target: Target) -> None:
    """The end of any connection is the end of what rsync reads: it never takes a stream with a hole for a whole one."""
    joined = target.join()
    assert joined.stdin is not None
    joined.stdin.close()

    assert target.program.wait(LIMIT_S) == 0, "cat has read its end"


@pytest.mark.parametrize("status", [0, 23])
def test_its_status_is_the_answer(tmp_path: Path, status: int) -> None:
    """It ends when rsync ends, although the stream goes on, and says what rsync said."""
    target = Target(tmp_path / "door", "sh", "-c", f"exit {status}")
    assert target.program.wait(LIMIT_S) == status
    target.close()


def test_the_shell_carries_rsyncs_words(tmp_path: Path) -> None:
    """rsync's words reach the other end as they are, options of ssh do not; what it says goes there and back; the status too."""
    stream = python(SERVER, tmp_path / "door", "sh", "-c", 'echo "$@"; cat; exit 12', "-")
    task = Task(stream, (), str(tmp_path / "use"))
    shell = python(SHELL, task.argument(), "-l", "root", "192.0.2.1", "rsync", "--server", "a b")
    data = random.Random(1).randbytes(3 * PIECE_BYTES)
    ran = subprocess.run(shell, input=data, capture_output=True, timeout=LIMIT_S, check=False)

    assert ran.stdout == b"rsync --server a b\n" + data
    assert ran.returncode == 12
    assert connections(tmp_path / "use", Stream.FILES) == 1


def test_a_shell_whose_line_breaks(tmp_path: Path) -> None:
    """As with ssh: 255."""
    task = Task(python("import os; os.kill(os.getpid(), 9)"), (), str(tmp_path / "use"))
    ran = subprocess.run(python(SHELL, task.argument(), "host", "rsync"), input=b"x", check=False, timeout=LIMIT_S)

    assert ran.returncode == 255
