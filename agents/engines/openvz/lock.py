"""vzctl's own lock of a VE, held by the agent as long as a migration lasts.

Rule: the same file, made the same way, so that every other tool respects it: `PID\\nSTATUS\\n`, by link(2) of a finished
file. A lock whose process is gone is nobody's, as it is for vzctl.
"""

import contextlib
import os
import tempfile
from pathlib import Path

from migrator.wire.faults import FaultCode, fault_error

STATUS = "migrating"


def owner(path: Path) -> int:
    """The living process that holds the lock; 0: nobody does."""
    try:
        words = path.read_text().split()
        pid = int(words[0]) if words else 0
    except (OSError, ValueError):
        return 0
    return pid if pid > 0 and Path(f"/proc/{pid}").exists() else 0


def take(path: Path) -> None:
    """Hold it; may be called again. Raises FaultError(CONFLICT) when somebody else does."""
    if owner(path) == os.getpid():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.") as fresh:
        fresh.write(f"{os.getpid()}\n{STATUS}\n")
        fresh.flush()
        for _ in range(3):
            try:
                os.link(fresh.name, path)
                return
            except FileExistsError:
                pass
            if pid := owner(path):
                raise fault_error(FaultCode.CONFLICT, f"{path} is held by {_command(pid)}", step="lock", tool="vzctl")
            path.unlink(missing_ok=True)
    raise fault_error(
        FaultCode.CONFLICT, f"{path} could not be taken: somebody else takes it all the time", step="lock"
    )


def release(path: Path) -> None:
    """Give it back, if it is ours or nobody's."""
    if owner(path) in (0, os.getpid()):
        path.unlink(missing_ok=True)


def tidy(path: Path) -> None:
    """Nothing is left of an agent that was killed just after it took the lock, or while it did."""
    for left in (path, *path.parent.glob(f".{path.name}.*")):
        if not owner(left):
            left.unlink(missing_ok=True)


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        return f"process {pid} ({words[:120]})"
    return f"process {pid}"
