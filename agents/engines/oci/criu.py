"""What CRIU is told, beyond what the runtimes tell it, and what it reports.

A runtime starts CRIU itself; we reach it by CRIU_CONFIG_FILE, by the PATH on which it finds `criu`, and by its action
script. Rule: a restored VE is frozen by the action script before CRIU lets go of it, so that it never runs unasked:
 - `criu` on our PATH is a wrapper that enters the VE's cgroup first, so every restored process is in it, and whatever ends the
   cgroup ends a restore that is under way;
 - at `pre-resume` (all restored, none let go) the script takes CRIU out of the cgroup again and freezes the cgroup.
Proved with crun 1.21 and runc 1.1.15 and CRIU 4.2.1. Nothing is written outside the work directory.
"""

import importlib.resources
import os
import re
import shutil
import sys
from pathlib import Path

from agents.engines.oci import limits
from agents.engines.oci.cgroup import LEAF, Group

GHOST_LIMIT_BYTES = 256 << 20
"""How large a deleted file that is still open may be, to be carried in the images."""
# A connection that nobody has accepted yet is not carried (its client is reset and dials again); CRIU would refuse the VE.
COMMON = f"""network-lock skip
tcp-established
file-locks
skip-in-flight
ghost-limit {GHOST_LIMIT_BYTES}
"""
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def prepare_dump(work: Path, group: Group) -> dict[str, str]:
    """Environment for the runtime's checkpoint call."""
    work.mkdir(parents=True, exist_ok=True)
    config = work / "dump.conf"
    config.write_text(COMMON)
    command = _criu()
    if limits.needed(group.processes()):
        program = work / "limits.py"
        program.write_text(importlib.resources.files(limits.__package__ or "").joinpath("limits.py").read_text())
        command = f"{sys.executable} -I -S {program} {command}"
    # A CRIU that is killed lets go of processes that it has thawed for its work: they must not get far.
    body = f'{command} "$@"\nstatus=$?\n[ $status = 0 ] || echo 1 > {group.path}/cgroup.freeze\nexit $status\n'
    return {"CRIU_CONFIG_FILE": str(config), "PATH": _first_on_path(work / "dump-bin", body)}


def prepare_hold(work: Path, group: Group, *, lazily: bool = False) -> dict[str, str]:
    """Environment for the runtime's restore call, such that it ends with the VE frozen."""
    work.mkdir(parents=True, exist_ok=True)
    LEAF.mkdir(exist_ok=True)
    if os.getgroups():
        # CRIU 4.2.1 leaves a process that had no supplementary groups with those of its own, and so of ours.
        os.setgroups([])
    hold = (
        '[ "$CRTOOLS_SCRIPT_ACTION" = pre-resume ] || exit 0\n'
        f"echo $PPID > {LEAF}/cgroup.procs\n"
        f"echo 0 > {LEAF}/cgroup.procs\n"
        f"echo 1 > {group.path}/cgroup.freeze\n"
    )
    _script(work / "hold", hold)
    config = work / "hold.conf"
    config.write_text(f"{COMMON}action-script {work}/hold\n{'lazy-pages' if lazily else ''}\n")
    enter = f'echo 0 > {group.path}/cgroup.procs\nexec {_criu()} "$@"\n'
    return {"CRIU_CONFIG_FILE": str(config), "PATH": _first_on_path(work / "bin", enter)}


def _criu() -> str:
    return shutil.which("criu") or "/usr/sbin/criu"


def _first_on_path(directory: Path, criu: str) -> str:
    """A PATH on which `criu` is a script of this body."""
    directory.mkdir(exist_ok=True)
    _script(directory / "criu", criu)
    return f"{directory}:{SYSTEM_PATH}"


def _script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}")
    path.chmod(0o755)


def duration_s(log: Path) -> float:
    """CRIU's own time from its log: the stamp of the last line."""
    stamps = re.findall(r"^\((\d+\.\d+)\)", read(log), re.MULTILINE)
    return float(stamps[-1]) if stamps else 0.0


def read(log: Path) -> str:
    """A log's text; empty when there is none."""
    try:
        return log.read_text(errors="replace")
    except FileNotFoundError:
        return ""
