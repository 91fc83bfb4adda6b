"""What CRIU is told, beyond what the runtimes tell it, and what it reports.

A runtime starts CRIU itself; we reach it by CRIU_CONFIG_FILE, by the PATH on which it finds `criu`, and by its action
script. Rule: a restored VE is frozen by the action script before CRIU lets go of it, so that it never runs unasked:
 - `criu` on our PATH is a wrapper that enters the VE's cgroup first, so every restored process is in it;
 - at `pre-resume` (all restored, none let go) the script takes CRIU out of the cgroup again and freezes the cgroup.
Proved with crun 1.21 and CRIU 4.2.1.
"""

import re
import shutil
from pathlib import Path

from agents.engines.oci.cgroup import Group

LEAF = "/sys/fs/cgroup/init"
"""A cgroup without inner groups for what must not be in the VE's."""

COMMON = """network-lock skip
tcp-established
file-locks
link-remap
ghost-limit 268435456
"""


def prepare_dump(work: Path) -> dict[str, str]:
    """Environment for the runtime's checkpoint call."""
    work.mkdir(parents=True, exist_ok=True)
    config = work / "dump.conf"
    config.write_text(COMMON)
    return {"CRIU_CONFIG_FILE": str(config)}


def prepare_hold(work: Path, group: Group) -> dict[str, str]:
    """Environment for the runtime's restore call, such that it ends with the VE frozen."""
    binaries = work / "bin"
    binaries.mkdir(parents=True, exist_ok=True)
    criu = shutil.which("criu") or "/usr/sbin/criu"
    _script(binaries / "criu", f'echo 0 > {group.path}/cgroup.procs\nexec {criu} "$@"\n')
    Path(LEAF).mkdir(exist_ok=True)
    hold = (
        '[ "$CRTOOLS_SCRIPT_ACTION" = pre-resume ] || exit 0\n'
        f"echo $PPID > {LEAF}/cgroup.procs\n"
        f"echo 0 > {LEAF}/cgroup.procs\n"
        f"echo 1 > {group.path}/cgroup.freeze\n"
    )
    _script(work / "hold", hold)
    config = work / "hold.conf"
    config.write_text(f"{COMMON}action-script {work}/hold\n")
    return {
        "CRIU_CONFIG_FILE": str(config),
        "PATH": f"{binaries}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    }


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
