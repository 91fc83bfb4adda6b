"""Programs on the target that write for a migration at the end of its SSH line, and how they are ended.

A line that broke may leave its receiver behind, with what had reached this host still to be written. Rule: nobody writes for a
migration whose files are dropped, or are sent anew; each is noted by itself before it begins, and ended by process id and time of
start. Nothing but the standard library, since sessions that must start in milliseconds import it.
"""

import contextlib
import os
import signal
import time
from pathlib import Path

from agents import places

END_LIMIT_S = 5.0
LOOK_S = 0.002


def note(migration: str) -> None:
    """This process, and what it becomes, receives for a migration from now on."""
    with contextlib.suppress(PermissionError):  # it leads a session already
        os.setsid()
    directory = _directory(migration)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    (directory / str(os.getpid())).write_text(_started(os.getpid()))


def door(migration: str, name: str) -> Path:
    """Where further connections reach the receiver of a stream of this name."""
    return _directory(migration) / f"door-{name}"


def withdraw(migration: str) -> None:
    """This process receives nothing after all."""
    (_directory(migration) / str(os.getpid())).unlink(missing_ok=True)
    _tidy(migration)


def end(migration: str) -> None:
    """End all that receive for a migration, with what they started, and wait until they have ended. Blocking.

    Raises TimeoutError when one does not end within END_LIMIT_S.
    """
    deadline = time.monotonic() + END_LIMIT_S
    for noted in list(_directory(migration).glob("[0-9]*")):
        pid, since = int(noted.name), noted.read_text()
        while since and _started(pid) == since:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL) if os.getpgid(pid) == pid else os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise TimeoutError(f"process {pid}, which receives for migration {migration}, does not end")
            time.sleep(LOOK_S)
        noted.unlink(missing_ok=True)
    for left in _directory(migration).glob("door-*"):
        left.unlink(missing_ok=True)
    _tidy(migration)


def _tidy(migration: str) -> None:
    for left in (_directory(migration), _directory(migration).parent):
        with contextlib.suppress(OSError):  # not there, or another's are in it
            left.rmdir()


def _directory(migration: str) -> Path:
    return places.RUN / "receivers" / migration


def _started(pid: int) -> str:
    """When a process began, in the kernel's ticks; empty: it has ended."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else rest[18]
