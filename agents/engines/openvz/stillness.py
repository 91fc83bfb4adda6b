"""Whether a VE that vzctl calls running stands still, asked of the kernel: 4.x has no word for it.

Rule: evidence or None, never a guess. An OpenVZ kernel's frozen tasks wait in the refrigerator; elsewhere the freezer of the
VE's cgroup tells. vzctl names that group `vz-CTID` on ordinary kernels and CTID, or machine.slice/CTID, on its own.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

PROC = Path("/proc")


def stands_still(ve: str) -> bool | None:
    """True or False on evidence; None when this kernel shows none, or the VE has no process."""
    if (PROC / "vz").is_dir() and (tasks := _tasks_by_environment(ve)):
        return all("refrigerator" in _read(PROC / str(pid) / "wchan") for pid in tasks)
    for group in _groups(ve):
        if state := _read(group / "freezer.state").strip():
            if _read(group / "cgroup.procs").split():
                return state == "FROZEN"
        elif "populated 1" in (events := _read(group / "cgroup.events")).splitlines():
            return "frozen 1" in events.splitlines()
    return None


def processes(ve: str) -> Sequence[int]:
    """The VE's processes as the host numbers them; none where the kernel does not tell."""
    if (PROC / "vz").is_dir() and (tasks := _tasks_by_environment(ve)):
        return tasks
    for group in _groups(ve):
        if words := _read(group / "cgroup.procs").split():
            return [int(word) for word in words]
    return []


def init(ve: str) -> int:
    """The process that is number 1 inside; 0: not known."""
    for pid in processes(ve):
        for line in _read(PROC / str(pid) / "status").splitlines():
            if line.startswith(("NSpid:", "VPid:")) and line.split()[-1] == "1" and len(line.split()) > 1:
                return pid
    return 0


def _groups(ve: str) -> Iterator[Path]:
    """Candidates for the VE's cgroup in every hierarchy that can freeze."""
    for line in _read(PROC / "self/mounts").splitlines():
        _, place, kind, options, *_ = line.split(" ")
        if kind == "cgroup2" or (kind == "cgroup" and "freezer" in options.split(",")):
            for name in (f"vz-{ve}", ve, f"machine.slice/{ve}"):
                if (group := Path(place) / name).is_dir():
                    yield group


def _tasks_by_environment(ve: str) -> list[int]:
    """OpenVZ's own kernels name the VE in each process's status."""
    found = []
    for status in PROC.glob("[0-9]*/status"):
        if any(line.split() == ["envID:", ve] for line in _read(status).splitlines()):
            found.append(int(status.parent.name))
    return found


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace")
    return ""
