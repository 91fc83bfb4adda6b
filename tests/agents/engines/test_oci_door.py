"""The door in CRIU's place: what it keeps, what it passes on, and that nobody is left behind it.

What stands behind it here is a program that answers as CRIU's `swrk` does: one message for one. The real one is behind it in
`test_oci_contract`.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.engines.oci import door

VERSION, DUMP = b"\x08\x0a", b"\x08\x01"
LIMIT_S = 10.0
CRIU = """
import os, socket, struct, sys
work = socket.socket(fileno=int(sys.argv[2]))
open(sys.argv[0] + ".pid", "w").write(str(os.getpid()))
if order := work.recv(1 << 16):
    pid, _, _ = struct.unpack("3i", work.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    found = os.readlink(f"/proc/{pid}/fd/{order[2]}") if len(order) > 2 else ""
    work.send(b"did " + found.encode())
    sys.exit(int(os.environ.get("CRIU_STATUS", "0")))
"""


class Runtime:
    """What the agent, the runtime and CRIU have of one call."""

    def __init__(self, directory: Path, status: int = 0) -> None:
        self.criu, self.ready = directory / "criu", directory / "ready"
        self.criu.write_text(CRIU)
        os.mkfifo(directory / "pipe")
        self.pipe = os.open(directory / "pipe", os.O_RDWR)
        settings = directory / "settings.json"
        command = [sys.executable, str(self.criu)]
        settings.write_text(
            json.dumps({"criu": command, "pipe": str(directory / "pipe"), "ready": str(self.ready), "outside": ""})
        )
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(LIMIT_S)
        number = theirs.fileno()
        argv = [sys.executable, "-I", "-S", door.__file__, str(settings), "swrk", str(number)]
        environment = {**os.environ, "CRIU_STATUS": str(status)}
        self.process = subprocess.Popen(argv, pass_fds=[number], env=environment)
        theirs.close()

    def order(self, message: bytes) -> None:
        """As a runtime gives it; returns when the door has it."""
        self.socket.send(message)
        watched = select.poll()
        while not self.ready.exists():
            watched.poll(2)

    def word(self, **more: object) -> None:
        """The agent's."""
        os.write(
            self.pipe, json.dumps({"go": True, "covers": [], "group": "", "on_failure": "", **more}).encode() + b"\n"
        )

    def criu_ends(self) -> int:
        """A descriptor that can be read when the one behind the door has ended."""
        name = self.criu.with_suffix(".pid")
        watched = select.poll()
        while not (name.exists() and name.read_text()):
            watched.poll(2)
        return os.pidfd_open(int(name.read_text()))

    def let_go(self) -> None:
        """The agent has ended."""
        if self.pipe >= 0:
            os.close(self.pipe)
            self.pipe = -1

    def close(self) -> None:
        """Nothing of it stays."""
        self.let_go()
        self.socket.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    """A runtime that succeeds."""
    made = Runtime(tmp_path)
    yield made
    made.close()


def ended(pidfd: int) -> bool:
    """Whether it ends within the limit."""
    watched = select.poll()
    watched.register(pidfd, select.POLLIN)
    return bool(watched.poll(LIMIT_S * 1000))


def test_questions_go_straight_to_criu(runtime: Runtime) -> None:
    """Which version it is, a runtime asks and hears at once."""
    runtime.socket.send(VERSION)

    assert runtime.socket.recv(100) == b"did "
    assert not runtime.ready.exists()


def test_an_order_waits_for_the_word(runtime: Runtime) -> None:
    """CRIU runs, and gets the order when the agent says so; then the runtime hears its answer and its end."""
    runtime.order(DUMP)
    runtime.criu_ends()
    runtime.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        runtime.socket.recv(100)
    runtime.socket.settimeout(LIMIT_S)

    runtime.word()

    assert runtime.socket.recv(100) == b"did "
    assert runtime.socket.recv(100) == b""
    assert runtime.process.wait(LIMIT_S) == 0


def test_criu_finds_the_directories_of_the_runtime(runtime: Runtime, tmp_path: Path) -> None:
    """An order names a directory by the runtime's number of it; CRIU looks for it where the order came from."""
    images = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        runtime.order(DUMP + bytes([images]))
        runtime.word()

        assert runtime.socket.recv(1000) == b"did " + os.fsencode(tmp_path)
    finally:
        os.close(images)


def test_a_failure_is_written_down(tmp_path: Path) -> None:
    """What a failed CRIU has let go of is stopped before the runtime goes on."""
    runtime, freezer = Runtime(tmp_path, status=3), tmp_path / "freeze"
    try:
        runtime.order(DUMP)
        runtime.word(on_failure=str(freezer))

        assert runtime.process.wait(LIMIT_S) == 3
        assert freezer.read_text() == "1"
    finally:
        runtime.close()


def test_criu_enters_the_group(runtime: Runtime, tmp_path: Path) -> None:
    """By a word of its own, it is in the VE's cgroup before it has its order."""
    group = tmp_path / "group"
    group.mkdir()
    runtime.order(DUMP)
    runtime.criu_ends()
    pid = runtime.criu.with_suffix(".pid").read_text()

    runtime.word(go=False, group=str(group))
    runtime.word()

    assert runtime.socket.recv(100) == b"did "
    assert (group / "cgroup.procs").read_text() == pid


@pytest.mark.parametrize("who", ["agent", "criu"])
def test_nobody_is_left_behind(runtime: Runtime, who: str) -> None:
    """While it waits, the end of the agent or of CRIU is the end of all."""
    runtime.order(DUMP)
    criu = runtime.criu_ends()

    if who == "agent":
        runtime.let_go()
    else:
        signal.pidfd_send_signal(criu, signal.SIGKILL)

    assert ended(criu)
    assert runtime.process.wait(LIMIT_S) != 0


def test_an_agent_that_ended_before_is_noticed(runtime: Runtime) -> None:
    """The runtime outlived its agent before it came to CRIU: the door does not begin to wait."""
    runtime.let_go()

    runtime.socket.send(DUMP)

    assert runtime.process.wait(LIMIT_S) != 0
    assert not runtime.ready.exists()


def test_nobody_is_left_behind_a_killed_runtime(tmp_path: Path) -> None:
    """While it waits, the end of the runtime is the end of the door and of CRIU."""
    ours, theirs = os.pipe()
    if not (child := os.fork()):
        os.close(ours)
        try:
            Runtime(tmp_path).order(DUMP)
            os.write(theirs, b"k")
            signal.pause()
        finally:
            os._exit(1)
    os.close(theirs)
    assert os.read(ours, 1) == b"k"
    criu_pid = tmp_path / "criu.pid"
    while not (criu_pid.exists() and criu_pid.read_text()):
        select.poll().poll(2)
    criu, agents_end = os.pidfd_open(int(criu_pid.read_text())), os.open(tmp_path / "pipe", os.O_RDWR)

    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)

    assert ended(criu)
    os.close(agents_end)
    os.close(ours)
