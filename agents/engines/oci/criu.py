"""What CRIU is told, beyond what the runtimes tell it, and what it reports.

A runtime starts CRIU itself; we reach it by CRIU_CONFIG_FILE, by the PATH on which it finds `criu` (`waiting`, `door`), and
by its action script. Rule: a restored VE is frozen by the action script before CRIU lets go of it, so that it never runs unasked:
 - CRIU is put into the VE's cgroup before it gets its order, so every restored process is in it, and whatever ends the
   cgroup ends a restore that is under way;
 - at `pre-resume` (all restored, none let go) the script takes CRIU out of the cgroup again and freezes the cgroup.
Proved with crun 1.21 and runc 1.1.15 and CRIU 4.2.1. Nothing is written outside the work directory.
"""

import importlib.resources
import os
import re
import sys
from pathlib import Path

from agents.engines.oci import limits, waiting
from agents.engines.oci.bundle import Bundle
from agents.engines.oci.cgroup import LEAF, Group
from agents.engines.oci.runtime import Runtime
from agents.engines.oci.waiting import Call

GHOST_LIMIT_BYTES = 256 << 20
"""How large a deleted file that is still open may be, to be carried in the images."""
TAIL_BYTES = 1 << 14
"""Of a log: where its last stamp is looked for."""
# A connection that nobody has accepted yet is not carried (its client is reset and dials again); CRIU would refuse the VE.
COMMON = f"""network-lock skip
tcp-established
file-locks
skip-in-flight
ghost-limit {GHOST_LIMIT_BYTES}
"""


def dump_call(runtime: Runtime, ve: str, work: Path, images: Path) -> Call:
    """The runtime's checkpoint call."""
    config, group = _config(work / "dump.conf", ""), Group(ve)
    criu: tuple[str, ...] = ()
    if limits.needed(group.processes()):
        program = work / "limits.py"
        program.write_text(importlib.resources.files(limits.__package__ or "").joinpath("limits.py").read_text())
        criu = (sys.executable, "-I", "-S", str(program), waiting.criu())
    # A CRIU that is killed lets go of processes that it has thawed for its work: they must not get far.
    return Call(runtime.checkpoint(ve, work, images), config, criu, on_failure=f"{group.path}/cgroup.freeze")


def hold_call(bundle: Bundle, work: Path, images: Path, *, lazily: bool = False) -> Call:
    """The runtime's restore call, such that it ends with the VE frozen."""
    work.mkdir(parents=True, exist_ok=True)
    group, runtime = Group(bundle.ve), bundle.runtime
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
    name, lazy = ("hold-lazily.conf", "lazy-pages\n") if lazily else ("hold.conf", "")
    config = _config(work / name, f"action-script {work}/hold\n{lazy}")
    return Call(
        runtime.restore(bundle.ve, work, images, lazily=lazily),
        config,
        cwd=bundle.path,
        outside=str(LEAF),
        group=str(group.path),
        described=read(bundle.path / "config.json"),
    )


def _config(path: Path, more: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(COMMON + more)
    return path


def _script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}")
    path.chmod(0o755)


def duration_s(log: Path) -> float:
    """CRIU's own time from its log: the stamp of the last line."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            tail = file.read().decode(errors="replace")
    except FileNotFoundError:
        return 0.0
    stamps = re.findall(r"^\((\d+\.\d+)\)", tail, re.MULTILINE)
    return float(stamps[-1]) if stamps else 0.0


def read(path: Path) -> str:
    """A log's text, or another's; empty when there is none."""
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
