"""Processes of the memory's move that are given up while they start: nobody has their handle yet, and they end all the same."""

import sys
from pathlib import Path

import pytest
import trio

from agents.transfer.memory import handles
from agents.transfer.memory.handles import MemorySender, Veiled
from agents.transfer.memory.sender import Task
from migrator.wire.facts import MemoryMethod

SILENT = """
import os, sys
with open(sys.argv[1] + ".new", "w") as file:
    file.write(str(os.getpid()))
os.rename(sys.argv[1] + ".new", sys.argv[1])
sys.stdin.read()
"""


async def test_sender(tmp_path: Path) -> None:
    """A round of the files that fails gives the memory's round up: the sender that was being started for it ends."""
    task = Task(1, "/group", ("true",), str(tmp_path / "use"), MemoryMethod.TRACKED)

    await _given_up_when_it_runs(tmp_path / "pid", lambda: MemorySender.start(task, _silent(tmp_path / "pid")))


async def test_veil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So does the process that waits to become the dump."""
    monkeypatch.setattr(handles, "program", lambda *_: _silent(tmp_path / "pid"))

    await _given_up_when_it_runs(tmp_path / "pid", lambda: Veiled.start(tmp_path))


def _silent(told: Path) -> tuple[str, ...]:
    return (sys.executable, "-c", SILENT, str(told))


async def _given_up_when_it_runs(told: Path, start: object) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(start)  # type: ignore[arg-type]  # a function without arguments
        with trio.fail_after(10):
            while not told.exists():
                await trio.sleep(0.005)
        nursery.cancel_scope.cancel()
    assert not Path("/proc", told.read_text()).exists()
