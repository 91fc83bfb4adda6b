"""What a CRIU that is killed with a VE in its hands leaves behind, and that the VE is given back as it was.

The killed CRIU is a program of that name here, which does to a process what CRIU does to it: stops it, thaws its cgroup, lends
its registers out. The real one is killed in tests/lab/test_faults.py.
"""

import contextlib
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agents.engines.oci import cgroup, custody, guard
from agents.engines.oci.cgroup import Group
from agents.tracing import ptrace
from agents.tracing.ptrace import Seized
from scenarios.lab import groups
from scenarios.lab.fixtures import need_root, own_name
from tests.agents.transfer.memory.memory_ve import Ve

COUNTS = """
import os, signal, sys, threading
def work():
    while True:
        os.write(1, b"x")
threading.Thread(target=work, daemon=True).start()
sys.stdout.write("up\\n"); sys.stdout.flush()
signal.pause()
"""
CRIU = """
import ctypes, os, sys, time
from agents.tracing import ptrace
ctypes.CDLL(None).prctl(15, b"criu")
pid, group = int(sys.argv[1]), sys.argv[2]
held = [ptrace.Seized(tid, patience_s=1.0) for tid in ptrace.threads(pid)]
for each in held:
    each.__enter__()
open(group + "/cgroup.freeze", "w").write("0")
print("holds", flush=True)
time.sleep(60)
"""
LIMIT_S = 10.0


@pytest.fixture
def ve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ve]:
    """One whose group is where the engine looks for it."""
    need_root()
    monkeypatch.setattr(cgroup, "MOUNT", groups.unified())
    name = own_name("k")
    group = Group(name)
    group.make()
    made = Ve(group.path)
    yield made
    group.thaw()
    (group.path / "cgroup.kill").write_text("1")
    for process in made.started:
        with process:
            process.kill()
    group.remove()
    with contextlib.suppress(OSError):  # others use it too
        group.path.parent.rmdir()


def started(ve: Ve) -> "subprocess.Popen[bytes]":
    """A process that writes without an end; frozen."""
    process = ve.start(sys.executable, "-c", COUNTS)
    ve.freeze()
    return process


def goes_on(process: "subprocess.Popen[bytes]") -> None:
    """Waits until it has written more than a pipe holds."""
    assert process.stdout is not None
    seen = 0
    while seen < 1 << 17:
        got = os.read(process.stdout.fileno(), 1 << 16)
        assert got
        seen += len(got)


def in_hands_of_criu(pid: int, noted: Path) -> None:
    """Every thread on CRIU's registers, in CRIU's code, with CRIU's mask; nobody traces it any more."""
    at = next(start for (start, _), rights, _ in custody._mapped(pid) if "x" in rights)
    with open(f"/proc/{pid}/mem", "wb", buffering=0) as memory:
        os.pwrite(memory.fileno(), b"\x0f\x05\xcc" + b"\xcc" * 5, at)

    def disturb() -> None:
        for tid in ptrace.threads(pid):
            with Seized(tid, patience_s=1.0) as thread:
                registers = list(ptrace.REGISTERS.unpack(thread.registers()))
                registers[ptrace.RIP], registers[ptrace.RAX], registers[ptrace.ORIG_RAX] = at + 2, 0, ptrace.NO_SYSCALL
                thread.set_registers(ptrace.REGISTERS.pack(*registers))
                thread.set_signal_mask(ptrace.EVERY_SIGNAL)

    ptrace.in_own_thread(disturb)
    assert noted.exists()


def test_threads_are_given_back(ve: Ve, tmp_path: Path) -> None:
    """A process whose threads stand on foreign registers in foreign code goes on where it was, with its own code."""
    process = started(ve)
    custody.note([process.pid], tmp_path / "noted")
    masks = [
        (Path("/proc", str(process.pid), "task", str(tid), "status")).read_text() for tid in ptrace.threads(process.pid)
    ]
    in_hands_of_criu(process.pid, tmp_path / "noted")

    assert custody.give_back(tmp_path / "noted") == []

    again = [
        (Path("/proc", str(process.pid), "task", str(tid), "status")).read_text() for tid in ptrace.threads(process.pid)
    ]
    assert [blocked(each) for each in again] == [blocked(each) for each in masks]
    ve.thaw()
    goes_on(process)
    assert process.poll() is None


def blocked(status: str) -> str:
    """The signal mask in a /proc status file."""
    return next(line for line in status.splitlines() if line.startswith("SigBlk"))


def test_one_that_has_run_on_keeps_its_registers(ve: Ve, tmp_path: Path) -> None:
    """What happened after the note happened: giving it back would let the process live a moment twice."""
    process = started(ve)
    custody.note([process.pid], tmp_path / "noted")
    ve.thaw()
    goes_on(process)
    ve.freeze()
    before = registers(process.pid)

    custody.give_back(tmp_path / "noted")

    assert registers(process.pid) == before
    ve.thaw()
    goes_on(process)


def registers(pid: int) -> list[bytes]:
    """Of each thread."""

    def look() -> list[bytes]:
        found = []
        for tid in ptrace.threads(pid):
            with Seized(tid, patience_s=1.0) as thread:
                found.append(thread.registers())
        return found

    return ptrace.in_own_thread(look)


def test_left_descriptors_are_closed(ve: Ve, tmp_path: Path) -> None:
    """What was opened in the process after the note goes once it runs; what it had stays."""
    process = started(ve)
    custody.note([process.pid], tmp_path / "noted")
    own = sorted(os.listdir(f"/proc/{process.pid}/fd"))
    left = custody.Leftover(process.pid, {99: "/nowhere"}, ())

    custody.put_away([left])  # gone already: not an error
    assert sorted(os.listdir(f"/proc/{process.pid}/fd")) == own

    ve.thaw()
    first = own[0]
    custody.put_away([custody.Leftover(process.pid, {int(first): os.readlink(f"/proc/{process.pid}/fd/{first}")}, ())])
    assert sorted(os.listdir(f"/proc/{process.pid}/fd")) == own[1:]


@pytest.mark.parametrize("guarded", [True, False])
def test_criu_killed_with_the_ve_thawed(ve: Ve, guarded: bool) -> None:
    """With a guard the cgroup is frozen before the kernel lets the processes go; without one they run: the guard it is."""
    process = started(ve)
    before = registers(process.pid)
    with subprocess.Popen(
        [sys.executable, "-c", CRIU, str(process.pid), str(ve.group)], stdout=subprocess.PIPE
    ) as criu:
        assert criu.stdout is not None
        with guard.watched(Group(ve.group.name)) if guarded else contextlib.nullcontext():
            assert criu.stdout.readline()
            until(lambda: not guarded or "TracerPid:\t0" not in status(criu.pid))
            # Not by Popen, which looks with waitpid(2) and so takes the stops away that the guard waits for in a thread of ours.
            os.kill(criu.pid, signal.SIGKILL)
            until(lambda: "State:\tZ" in status(criu.pid))
    if not guarded:
        goes_on(process)
        return
    until(lambda: "frozen 1" in (ve.group / "cgroup.events").read_text())
    assert registers(process.pid) == before


def status(pid: int) -> str:
    """What /proc says of it."""
    return Path(f"/proc/{pid}/status").read_text()


def until(true: Callable[[], bool]) -> None:
    """Wait for it."""
    deadline = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < deadline


def test_extended_registers_are_noted(ve: Ve, tmp_path: Path) -> None:
    """The note holds the vector registers too, in the layout in which ptrace takes them back."""
    process = started(ve)
    custody.note([process.pid], tmp_path / "noted")

    held = custody._read(tmp_path / "noted")[process.pid]

    assert len(held.threads) == 2
    assert all(len(each.extended) >= 512 and struct.unpack_from("=H", each.extended) for each in held.threads.values())
