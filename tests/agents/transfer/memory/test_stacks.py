"""The page of each thread's stack pointer is known, or it is said that it is not."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from agents.transfer.memory.areas import Gone, stack_pages


@pytest.fixture
def busy() -> Iterator[int]:
    """A process that never stands still."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        yield process.pid
        process.kill()


def test_a_thread_that_stands_still_tells(busy: int) -> None:
    """Stopped, it has one page."""
    os.kill(busy, signal.SIGSTOP)
    os.waitid(os.P_PID, busy, os.WSTOPPED)

    [(start, end)] = stack_pages(busy)

    assert end - start == 4096


def test_a_thread_that_does_not_is_no_thread_without_a_stack(busy: int) -> None:
    """Its page must not be left out."""
    with pytest.raises(Gone):
        stack_pages(busy, patience_s=0.05)
