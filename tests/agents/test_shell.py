"""A program is started, heard and waited for; its end is its own, not that of whoever holds its output."""

import os
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


SPEAKS_LATER = """
import os, sys
print("said", flush=True)
print("complained", file=sys.stderr, flush=True)
if not os.fork():
    os.close(1)
    sys.stdin.readline()
    print("later", file=sys.stderr, flush=True)
"""
"""Ends well while a child that it leaves behind has something to say yet."""


async def test_who_is_left_behind_is_heard_when_there_is_time() -> None:
    """With nothing to linger for, the program's own end is the end, with all that it said; the rest comes when it is asked for."""
    end, ours = os.pipe()
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", SPEAKS_LATER], stdin=end, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    os.close(end)
    with trio.fail_after(20):
        ran = await shell.finish(process, linger_s=0.0)
        assert (ran.status, ran.stdout, ran.stderr) == (0, "said\n", "complained\n")
        os.write(ours, b"\n")
        assert await shell.rest(process, 20) == "later\n"
    os.close(ours)
