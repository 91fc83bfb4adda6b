"""A program is started, heard and waited for; its end is its own, not that of whoever holds its output."""

import subprocess
import sys

import trio

from agents import shell

LEAVES_BEHIND = """
import os, signal, sys
print("said", flush=True)
if not (child := os.fork()):
    signal.pause()
print(child, file=sys.stderr, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
"""Ended by a signal while a child that it leaves behind holds its output open, as a CRIU that is killed while it restores."""


def test_ended_program_is_not_waited_for_by_its_output() -> None:
    """What it said and that it was ended are known at once, and not only when the limit of ten minutes is over."""
    ran = trio.run(lambda: shell.run([sys.executable, "-c", LEAVES_BEHIND], limit_s=600))
    subprocess.run(["kill", "-KILL", ran.stderr.strip()], check=True)

    assert ran.status is None
    assert ran.stdout == "said\n"
    assert "gave up" not in ran.stderr


def test_program_over_its_limit_is_given_up() -> None:
    """It is killed, and its status is unknown."""
    program = "import sys, signal; print('said', flush=True); sys.stdin.close(); signal.pause()"
    ran = trio.run(lambda: shell.run([sys.executable, "-c", program], limit_s=1))

    assert (ran.status, ran.stdout) == (None, "said\n")
    assert ran.stderr.endswith("gave up after 1 s")


def test_what_is_not_there_says_so() -> None:
    """As a shell does: status 127."""
    ran = trio.run(lambda: shell.run(["no-such-program"]))

    assert (ran.status, ran.stderr) == (127, "no-such-program: not found")
