"""What a VE has to be given back when the CRIU that dumps it is killed, noted before CRIU touches it.

CRIU borrows every thread (its registers, its signal mask), puts code and descriptors of its own into every process, and puts
all of it back at its end, which a killed CRIU does not reach.

Rule: a thread is given back only what it held at the same point of its program: one that stands where it stood, or inside
CRIU's code. One that has run on keeps its registers, or it would live a moment twice. Source: compel's infect.c in CRIU 4.2.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgpack

from agents.tracing import ptrace
from agents.tracing.borrowed import SYS_CLOSE, SYS_MUNMAP, call_in, read_memory
from agents.tracing.ptrace import NotTraceable, Seized

PATIENCE_S = 1.0
CODE_OF_CRIU = "/memfd:CRIUMFD"
INJECTED_BYTES = 64
"""At the start of the first executable area CRIU writes its system call instructions, and afterwards what was there."""


@dataclass(frozen=True, slots=True)
class Thread:
    """What one thread held."""

    registers: bytes
    extended: bytes
    signal_mask: int


@dataclass(frozen=True, slots=True)
class Process:
    """What one process held."""

    threads: dict[int, Thread]
    descriptors: frozenset[int]
    code_at: int
    """Where CRIU would write its instructions; 0 when there is no such place."""
    code: bytes


@dataclass(frozen=True, slots=True)
class Leftover:
    """What CRIU left in a process that only the process itself can put away, once it runs."""

    pid: int
    descriptors: dict[int, str]
    """Number -> what it leads to."""
    areas: tuple[tuple[int, int], ...]


def note(pids: Iterable[int], file: Path) -> None:
    """Write down what the processes hold, which stand still (about 0.05 ms a thread).

    A process that cannot be looked at is left out.
    """
    held = ptrace.in_own_thread(lambda: list(_all(pids, _process)))
    content = [
        [
            pid,
            [
                [tid, each.registers, each.extended, each.signal_mask.to_bytes(8, "little")]
                for tid, each in one.threads.items()
            ],
            sorted(one.descriptors),
            one.code_at.to_bytes(8, "little"),
            one.code,
        ]
        for pid, one in held
    ]
    unfinished = file.with_suffix(".partial")
    unfinished.write_bytes(msgpack.packb(content) or b"")
    unfinished.rename(file)


def give_back(file: Path) -> list[Leftover]:
    """Put the threads of the processes, which stand still and have no tracer, back to where they were."""
    noted = _read(file)
    found = ptrace.in_own_thread(lambda: list(_all(noted, lambda pid: _give_process(pid, noted[pid]))))
    return [left for _, left in found if left.descriptors or left.areas]


def put_away(leftovers: Iterable[Leftover]) -> None:
    """Close and unmap what CRIU left, by the processes themselves, which must run."""
    for left in leftovers:
        with contextlib.suppress(NotTraceable, OSError):
            for number, leads_to in left.descriptors.items():
                if os.readlink(f"/proc/{left.pid}/fd/{number}") == leads_to:
                    call_in(left.pid, SYS_CLOSE, number)
            for start, end in left.areas:
                call_in(left.pid, SYS_MUNMAP, start, end - start)


def _all(pids: Iterable[int], work: Callable[[int], ptrace.Value]) -> Iterator[tuple[int, ptrace.Value]]:
    for pid in pids:
        with contextlib.suppress(NotTraceable, OSError):
            yield pid, work(pid)


def _process(pid: int) -> Process:
    threads = {tid: _look(tid) for tid in ptrace.threads(pid)}
    at = _first_code(pid)
    return Process(threads, frozenset(_descriptors(pid)), at, read_memory(pid, at, INJECTED_BYTES) if at else b"")


def _look(tid: int) -> Thread:
    with Seized(tid, patience_s=PATIENCE_S) as thread:
        return Thread(thread.registers(), thread.extended(), thread.signal_mask())


def _give_process(pid: int, noted: Process) -> Leftover:
    areas = tuple(span for span, name in _areas(pid) if name.startswith(CODE_OF_CRIU))
    foreign = [*areas, (noted.code_at, noted.code_at + len(noted.code))] if _injected(pid, noted) else areas
    ran_on = [_give_thread(tid, each, foreign) for tid, each in noted.threads.items()]
    if noted.code and _injected(pid, noted):
        _write_memory(pid, noted.code_at, noted.code)
    new = {number: leads_to for number, leads_to in _descriptors(pid).items() if number not in noted.descriptors}
    # One that ran on may have opened something itself.
    mine = {number: to for number, to in new.items() if not any(ran_on) or to.endswith("dump.log") or "CRIUMFD" in to}
    return Leftover(pid, mine, areas)


def _injected(pid: int, noted: Process) -> bool:
    return bool(noted.code) and read_memory(pid, noted.code_at, len(noted.code)) != noted.code


def _give_thread(tid: int, noted: Thread, foreign: Iterable[tuple[int, int]]) -> bool:
    """Whether the thread has run on."""
    with Seized(tid, patience_s=PATIENCE_S) as thread:
        registers = thread.registers()
        at = ptrace.REGISTERS.unpack(registers)[ptrace.RIP]
        abroad = any(start <= at < end for start, end in foreign)
        if abroad or registers == noted.registers:
            thread.set_extended(noted.extended)
            thread.set_registers(noted.registers)
        thread.set_signal_mask(noted.signal_mask)
        return not abroad and registers != noted.registers


def _areas(pid: int) -> Iterator[tuple[tuple[int, int], str]]:
    for span, _, name in _mapped(pid):
        yield span, name


def _first_code(pid: int) -> int:
    return next((start for (start, _), rights, _ in _mapped(pid) if "x" in rights), 0)


def _mapped(pid: int) -> Iterator[tuple[tuple[int, int], str, str]]:
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            span, rights, _, _, _, *name = line.rstrip("\n").split(None, 5)
            start, end = (int(part, 16) for part in span.split("-"))
            yield (start, end), rights, name[0] if name else ""


def _descriptors(pid: int) -> dict[int, str]:
    found: dict[int, str] = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    return found


def _write_memory(pid: int, address: int, content: bytes) -> None:
    with open(f"/proc/{pid}/mem", "wb", buffering=0) as memory:
        os.pwrite(memory.fileno(), content, address)


def _read(file: Path) -> dict[int, Process]:
    try:
        content = msgpack.unpackb(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return {
        pid: Process(
            {
                tid: Thread(registers, extended, int.from_bytes(mask, "little"))
                for tid, registers, extended, mask in threads
            },
            frozenset(descriptors),
            int.from_bytes(at, "little"),
            code,
        )
        for pid, threads, descriptors, at, code in content
    }
