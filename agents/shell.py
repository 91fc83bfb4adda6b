"""Run one program: argument list in, typed result out. The only place that starts programs and waits for them.

Rule: never a shell; output never to a terminal; a program that was ended or that we gave up has status None,
which means unknown, not failed.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from migrator.wire.faults import FaultCode, FaultError, fault_error

TAIL_LINES = 12
_DISCARD = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@dataclass(frozen=True, slots=True)
class Ran:
    """A program that ended."""

    argv: tuple[str, ...]
    status: int | None
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        """Whether it certainly succeeded."""
        return self.status == 0


async def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    limit_s: float = 60.0,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    cwd: Path | None = None,
    capture: bool = True,
) -> Ran:
    """Run to the end. A program over its limit is killed and reported with status None.

    `capture=False` gives it /dev/null for output: for programs whose children live on and would keep a pipe open.
    """
    words = tuple(os.fspath(word) for word in argv)
    output: dict[str, Any] = {"capture_stdout": True, "capture_stderr": True} if capture else _DISCARD
    with trio.move_on_after(limit_s):
        try:
            done = await trio.run_process(
                words,
                stdin=stdin,
                **output,
                check=False,
                env=None if env is None else {**os.environ, **env},
                cwd=cwd,
            )
        except FileNotFoundError:
            return Ran(words, 127, "", f"{words[0]}: not found")
        status = done.returncode if done.returncode >= 0 else None
        return Ran(words, status, _text(done.stdout), _text(done.stderr))
    return Ran(words, None, "", f"gave up after {limit_s:g} s")


def _text(data: bytes | None) -> str:
    return (data or b"").decode(errors="replace")


def failed(ran: Ran, step: str, log: str = "") -> FaultError:
    """The fault of a program that did not succeed, with the lines of its log that matter."""
    tool = os.path.basename(ran.argv[0])
    status = "ended without a status" if ran.status is None else f"ended with {ran.status}"
    code = FaultCode.NO_SPACE if "No space left on device" in log + ran.stderr else FaultCode.TOOL_FAILED
    return fault_error(code, f"{tool} {status}", step=step, tool=tool, log_tail=tail(log or ran.stderr))


def tail(log: str) -> str:
    """The errors of a log first, else its last lines."""
    lines = [line for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if "rror" in line]
    return "\n".join((errors or lines)[-TAIL_LINES:])
