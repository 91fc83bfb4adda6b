"""What memory a process has, and which of it may be carried by us instead of by CRIU.

CRIU restores a mapping lazily when it is anonymous, private, not locked, not hugetlb and not one of the kernel's own
(``vma_entry_can_be_lazy``, CRIU 4.1.1). Of those, the ones under the names below that hold no code are *ours*; everything
else (file mappings, shared memory, the vDSO, locked memory) is left to CRIU's ordinary dump. Code is left to it because
it writes a few instructions into the lowest executable mapping while it dumps, when we read. Too little here costs
time; too much would cost data, so an unknown name is not ours.
"""

import contextlib
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from agents.transfer.memory.extents import PAGE_BYTES, Extents, normalised

_LINE = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ (\d+) *(.*)$")


@dataclass(frozen=True, slots=True)
class Area:
    """One mapping: ``[start, end)``, and whether its private anonymous pages are ours to carry."""

    start: int
    end: int
    ours: bool


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """What decides how a process is handled; read in one go from ``/proc/PID``."""

    pid: int
    pid_in_ve: int
    start_ticks: int
    locked: bool
    shadow_stack: bool


class Gone(Exception):
    """The process ended, or has no memory any more (a zombie)."""


def facts(pid: int, depth: int) -> ProcessFacts:
    """Facts on ``pid``; ``depth`` is the number of PID namespaces between ours and the VE's (0: the same)."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as lines:
            status = dict(line.rstrip("\n").split(":", 1) for line in lines if ":" in line)
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as text:
            after_name = text.read().rpartition(")")[2].split()
    except (OSError, ValueError) as error:
        raise Gone(f"process {pid} is gone") from error
    if "VmSize" not in status:
        raise Gone(f"process {pid} has no memory")
    ids = status["NSpid"].split()
    if len(ids) <= depth:
        raise Gone(f"process {pid} is not in the VE")
    return ProcessFacts(
        pid=pid,
        pid_in_ve=int(ids[depth]),
        start_ticks=int(after_name[19]),
        locked=int(status.get("VmLck", "0 kB").split()[0]) > 0,
        shadow_stack="shstk" in status.get("x86_Thread_features", ""),
    )


def members(group: Path) -> list[int]:
    """Every process in a cgroup and below."""
    found: list[int] = []
    for directory, _, _ in os.walk(group):
        with contextlib.suppress(FileNotFoundError):
            found += [int(word) for word in Path(directory, "cgroup.procs").read_text().split()]
    return found


def init_of(pids: Iterable[int]) -> int:
    """Which of the processes of a VE is its first: number 1 in the outermost of their PID namespaces. Raises Gone."""
    found: list[tuple[int, int]] = []
    for pid in pids:
        try:
            depth = namespace_depth(pid)
            if facts(pid, depth).pid_in_ve == 1:
                found.append((depth, pid))
        except (Gone, OSError):
            continue
    if not found:
        raise Gone("the VE has no process number 1 of its own")
    return min(found)[1]


def namespace_depth(init_pid: int) -> int:
    """How many PID namespaces lie between ours and that of ``init_pid``: the place of its own id in ``NSpid``."""
    with open(f"/proc/{init_pid}/status", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("NSpid:"):
                return len(line.split()) - 2
    raise Gone(f"process {init_pid} has no NSpid")


def areas(process: ProcessFacts) -> list[Area]:
    """All mappings of the process, in order of address."""
    if process.shadow_stack:
        return [Area(start, end, False) for start, end, _, _ in _mappings(process.pid)]
    locked = _locked(process.pid) if process.locked else frozenset()
    return [
        Area(start, end, permissions[2:] == "-p" and _anonymous(name) and start not in locked)
        for start, end, permissions, name in _mappings(process.pid)
    ]


def ours(process: ProcessFacts) -> Extents:
    """The mappings of the process that are ours, neighbours joined."""
    return normalised((area.start, area.end) for area in areas(process) if area.ours)


def stack_pages(pid: int, patience_s: float = 1.0) -> Extents:
    """The page each stopped thread's stack pointer is in: CRIU restores these at once, never lazily.

    A running thread has none to tell; ask when the VE is frozen. One that only seems to run (a tracer has just stopped it, or let
    it go) is asked again; raises ``Gone`` when it does so for `patience_s`, since a page left out here would be lost.
    """
    pages: Extents = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    deadline = time.monotonic() + patience_s
    for tid in threads:
        fields = _standing(pid, tid)
        while fields == ["running"]:
            if time.monotonic() > deadline:
                raise Gone(f"thread {tid} of {pid} does not stand still")
            time.sleep(0.0005)
            fields = _standing(pid, tid)
        if len(fields) >= 3:
            page = int(fields[-2], 16) & ~(PAGE_BYTES - 1)
            pages.append((page, page + PAGE_BYTES))
    return normalised(pages)


def _standing(pid: int, tid: str) -> list[str]:
    """What /proc says of where a thread stands (proc_pid_syscall(5)); empty: it has ended."""
    try:
        with open(f"/proc/{pid}/task/{tid}/syscall", encoding="ascii") as text:
            return text.read().split()
    except OSError:
        return []


def _mappings(pid: int) -> list[tuple[int, int, str, str]]:
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as lines:
            found = [match.groups() for line in lines if (match := _LINE.match(line.rstrip("\n")))]
    except OSError as error:
        raise Gone(f"process {pid} is gone") from error
    if not found:
        raise Gone(f"process {pid} has no memory")
    return [
        (int(start, 16), int(end, 16), permissions, "file" if inode != "0" else name)
        for start, end, permissions, inode, name in found
    ]


def _anonymous(name: str) -> bool:
    return name in {"", "[heap]", "[stack]"} or name.startswith("[anon:")


def _locked(pid: int) -> frozenset[int]:
    """Starts of the mappings that are locked in memory; only ``smaps`` says so, and it is slow to read."""
    found: set[int] = set()
    start = 0
    try:
        with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                if match := _LINE.match(line.rstrip("\n")):
                    start = int(match[1], 16)
                elif line.startswith("VmFlags:") and " lo" in line:
                    found.add(start)
    except OSError as error:
        raise Gone(f"process {pid} is gone") from error
    return frozenset(found)
