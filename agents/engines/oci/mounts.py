"""Mounts that a checkpoint or a restore leaves on the host when its tool is killed in the middle.

Rule: only what lies below a directory of one VE is taken away, deepest first, and lazily: whoever still uses it keeps it.
"""

import contextlib
import ctypes
import os
import re
from pathlib import Path

MNT_DETACH = 2
CRIU_ROOTS = Path("/tmp")
"""Where CRIU makes `.criu.mntns.XXXXXX` for the time of a restore (criu/mount.c); one that is killed leaves it."""
_libc = ctypes.CDLL(None, use_errno=True)


def below(directory: Path) -> list[str]:
    """Mount points in and below a directory, deepest first."""
    start = os.path.realpath(directory)
    points = [_plain(line.split()[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted((point for point in points if point == start or point.startswith(f"{start}/")), key=len, reverse=True)


def detach(directory: Path) -> None:
    """Take away every mount in and below a directory. Raises OSError."""
    for point in below(directory):
        if _libc.umount2(os.fsencode(point), MNT_DETACH) != 0:
            error = ctypes.get_errno()
            raise OSError(error, f"{point} cannot be unmounted: {os.strerror(error)}")


def forget_criu_roots() -> None:
    """Remove the empty directories of restores that were killed. One that is under way, of whatever VE, keeps its own: in
    its mount namespace something is mounted there, and the kernel would take that away with the directory."""
    lefts = list(CRIU_ROOTS.glob(".criu.mntns.*"))
    if not lefts or _criu_works():
        return
    for left in lefts:
        detach(left)
        with contextlib.suppress(OSError):  # not empty, or gone
            left.rmdir()


def _criu_works() -> bool:
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "comm").read_text() == "criu\n" and (entry / "cmdline").read_bytes():
                return True
    return False


def _plain(point: str) -> str:
    """As the kernel means it: blanks and the like are written as octal numbers there."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), point)
