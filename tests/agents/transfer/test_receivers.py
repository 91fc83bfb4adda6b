"""Who receives for a migration can be ended, and nobody else is."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agents import places
from agents.transfer import receivers

RECEIVE = """
import os, pathlib, sys
sys.path.insert(0, sys.argv[1])
from agents import places
places.RUN = pathlib.Path(sys.argv[2])
from agents.transfer import receivers
receivers.note("m1")
child = os.fork()
if child:
    print(child, flush=True)
os.execvp("sleep", ["sleep", "1000"])
"""


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where it is noted who receives."""
    monkeypatch.setattr(places, "RUN", tmp_path)
    return tmp_path


def test_receivers_end_with_what_they_started(run: Path) -> None:
    """rsync's receiving end is two processes: after the end of the noted one, neither is left, no note, and no door to it."""
    root = str(Path(receivers.__file__).parents[2])
    with subprocess.Popen([sys.executable, "-c", RECEIVE, root, str(run)], stdout=subprocess.PIPE, text=True) as noted:
        assert noted.stdout is not None
        child = os.pidfd_open(int(noted.stdout.readline()))

        receivers.door("m1", "9e38cb4f").touch()
        receivers.end("m1")

        assert noted.wait(5) == -signal.SIGKILL
    assert select.select([child], [], [], 5)[0]
    assert list(run.iterdir()) == []


def test_another_process_of_the_same_number_is_left_alone(run: Path) -> None:
    """A note whose process has ended means nobody: who has its number now began at another time."""
    (run / "receivers" / "m1").mkdir(parents=True)
    (run / "receivers" / "m1" / str(os.getpid())).write_text("1")

    receivers.end("m1")

    assert list(run.iterdir()) == []


def test_nobody_receives() -> None:
    """Nothing to end is no error."""
    receivers.end("m1")
