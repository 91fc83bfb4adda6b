"""vzctl's lock of a VE, and what an agent leaves of it that was killed."""

import os
import subprocess
from pathlib import Path

from agents.engines.openvz import lock


def gone() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_what_a_killed_agent_left_is_tidied_away(tmp_path: Path) -> None:
    """The lock itself, and the file that was to become it; nobody holds either."""
    path = tmp_path / "101.lck"
    path.write_text(f"{gone()}\n{lock.STATUS}\n")
    (tmp_path / ".101.lck.abc").write_text(f"{gone()}\n")
    (tmp_path / ".101.lck.def").touch()
    (tmp_path / "102.lck").write_text(f"{gone()}\n")

    lock.tidy(path)

    assert [each.name for each in tmp_path.iterdir()] == ["102.lck"]


def test_a_lock_that_is_held_stays(tmp_path: Path) -> None:
    """Whoever holds it: another program, or this agent for another migration."""
    path = tmp_path / "101.lck"
    path.write_text(f"{os.getppid()}\nmounting\n")
    lock.tidy(path)
    assert path.exists()

    path.unlink()
    lock.take(path)
    lock.tidy(path)
    assert lock.owner(path) == os.getpid()
