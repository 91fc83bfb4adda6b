"""The cgroups of a lab: one per place below /migrator-lab/NAME, by which all of its processes can be found and ended.

Rule: processes are ended by membership or recorded identity, never by name.
"""

import contextlib
import os
import select
import signal
import time
from pathlib import Path

TOP = "migrator-lab"
CGROUPS = Path("/sys/fs/cgroup")


class GroupError(RuntimeError):
    """The kernel's cgroups cannot give what the lab needs."""


def unified() -> Path:
    """Where the cgroup v2 hierarchy is mounted. Raises GroupError when it is not."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    raise GroupError("no cgroup v2 hierarchy is mounted on this machine; try: mount -t cgroup2 cgroup2 /sys/fs/cgroup")


def of(lab: str, place: str = "") -> Path:
    """The v2 group of a lab, or of one place in it."""
    return unified() / TOP / lab / place


def limited(lab: str, place: str) -> Path:
    """The v1 group that carries a place's memory limit, where memory is still a v1 controller."""
    return CGROUPS / "memory" / TOP / lab / place


def make(lab: str, place: str, memory_mb: int = 0) -> tuple[Path, ...]:
    """Make the groups of a place; all of them are to be joined by its first process. Raises GroupError."""
    group = of(lab, place)
    group.mkdir(parents=True, exist_ok=True)
    if not memory_mb:
        return (group,)
    if "memory" in (unified() / "cgroup.controllers").read_text().split():
        for above in (unified(), unified() / TOP, unified() / TOP / lab):
            (above / "cgroup.subtree_control").write_text("+memory")
        (group / "memory.max").write_text(str(memory_mb << 20))
        return (group,)
    if not (CGROUPS / "memory/memory.limit_in_bytes").exists():
        raise GroupError(f"{place}: memory_mb is asked for, but this machine has no memory controller")
    v1 = limited(lab, place)
    v1.mkdir(parents=True, exist_ok=True)
    (v1 / "memory.limit_in_bytes").write_text(str(memory_mb << 20))
    return group, v1


def clear(lab: str, place: str = "", limit_s: float = 20) -> None:
    """End every process of a lab or a place at once and remove its groups. Raises GroupError after `limit_s`."""
    deadline = time.monotonic() + limit_s
    for group in (of(lab, place), limited(lab, place)):
        while group.is_dir():
            with contextlib.suppress(OSError):  # a process that was just joining makes it busy again
                _end(group, deadline)
                for directory, _, _ in os.walk(group, topdown=False):
                    os.rmdir(directory)
        if not place:
            with contextlib.suppress(OSError):  # another lab is below it
                group.parent.rmdir()


def _end(group: Path, deadline: float) -> None:
    if not (group / "cgroup.kill").exists():
        if time.monotonic() > deadline:
            raise GroupError(f"{group} does not empty: {sorted(processes(group))}")
        return
    (group / "cgroup.kill").write_text("1")
    with (group / "cgroup.events").open() as events:
        waiting = select.poll()
        waiting.register(events, select.POLLPRI)
        while "populated 1" in (events.seek(0), events.read())[1]:
            if time.monotonic() > deadline:
                raise GroupError(f"processes of {group} do not end: {sorted(processes(group))}")
            waiting.poll(100)


def processes(group: Path) -> set[int]:
    """Every process of a group and below."""
    found: set[int] = set()
    for directory, _, _ in os.walk(group):
        with contextlib.suppress(OSError):
            found.update(int(line) for line in (Path(directory) / "cgroup.procs").read_text().split())
    return found


def started(pid: int) -> str:
    """When a process began, in the kernel's ticks: with the pid it names one process for ever. Empty: it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def kill(pid: int, since: str) -> None:
    """End one process if it still is the one that was recorded."""
    if not pid or not since:
        return
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            if started(pid) == since:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)
