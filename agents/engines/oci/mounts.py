"""Mounts that a checkpoint or a restore leaves on the host when its tool is killed in the middle.

Rule: only what lies below a directory of one VE is taken away, deepest first, and lazily: whoever still uses it keeps it.
"""

import ctypes
import os
import re
from pathlib import Path

MNT_DETACH = 2
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


def _plain(point: str) -> str:
    """As the kernel means it: blanks and the like are written as octal numbers there."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), point)
