"""Runs vzctl for one VE: with the right lock, never given up half way, its outcome known or said to be unknown.

Rules: no shell. While the VE's lock is ours vzctl is told to skip it. A call that has begun is waited for even if whoever asked
for it was cancelled: a checkpoint tool that is killed in its work can leave the VE's processes broken. And no call begins
while one of an earlier agent still runs.
"""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import trio

from agents import shell
from agents.engines.openvz import lock, marks, output
from agents.engines.openvz.host import TOOL_PATH, Host
from agents.engines.openvz.output import Status
from agents.shell import Ran
from migrator.wire.faults import FaultCode, FaultError, fault_error

LIMIT_S = 3600.0
"""A dump or an undump writes or reads the VE's memory; a hundred GB at disk speed is within an hour."""
STOP_MARGIN_S = 60.0
OTHERS_LIMIT_S = 600.0
_alone: set[str] = set()
"""VEs of which this process has seen that no earlier agent's vzctl is at work; ours are waited for."""
ENVIRONMENT = {"LC_ALL": "C", "PATH": TOOL_PATH}


@dataclass(frozen=True, slots=True)
class Vzctl:
    """The tool, for one VE."""

    ve: str

    async def __call__(self, verb: str, *words: str, limit_s: float = LIMIT_S, stdin: bytes = b"") -> Ran:
        """`vzctl [--skiplock] VERB VE ...` to its end. Raises FaultError(CONFLICT) when the lock is somebody else's."""
        await trio.lowlevel.checkpoint_if_cancelled()
        argv = ["vzctl", *self._skip_lock(), verb, self.ve, *words]
        ran = Ran(tuple(argv), None, "", "")
        with trio.CancelScope(shield=True):
            await _wait_for_others(self.ve)
            ran = await shell.run(argv, env=ENVIRONMENT, limit_s=limit_s, stdin=stdin)
        await trio.lowlevel.checkpoint_if_cancelled()
        return ran

    def _skip_lock(self) -> tuple[str, ...]:
        if not marks.read(self.ve).held:
            return ()
        lock.take(self.lock_file)
        return ("--skiplock",)

    @property
    def lock_file(self) -> Path:
        """vzctl's lock of this VE."""
        return Host.read().lock_directory / f"{self.ve}.lck"

    async def status(self) -> Status:
        """What vzctl says of the VE's state. Raises FaultError when it says nothing that can be read."""
        ran = await shell.run(["vzctl", "status", self.ve], env=ENVIRONMENT, limit_s=60)
        if (found := output.status(ran.stdout, self.ve)) is None:
            raise shell.failed(ran, "status")
        return found


def refused(ran: Ran, step: str, what: str) -> FaultError:
    """The fault of a vzctl call that failed: what it was to do, its code, and its own words."""
    fault = shell.failed(ran, step, ran.stderr + "\n" + ran.stdout).fault
    return fault_error(
        FaultCode.NO_SPACE if "No space left" in ran.stderr + ran.stdout else fault.code,
        f"{what}: {fault.message}",
        step=step,
        tool="vzctl",
        log_tail="\n".join(_words(ran)),
    )


def _words(ran: Ran) -> list[str]:
    lines = [line.strip() for line in (ran.stderr + "\n" + ran.stdout).splitlines() if line.strip()]
    return lines[: shell.TAIL_LINES]


async def _wait_for_others(ve: str) -> None:
    """An agent that was killed leaves its vzctl at work. Raises FaultError when that does not end."""
    if ve in _alone:
        return
    with trio.move_on_after(OTHERS_LIMIT_S):
        while _orphan(ve):
            await trio.sleep(0.05)
        _alone.add(ve)
        return
    raise fault_error(
        FaultCode.CONFLICT,
        f"another vzctl has been at work on {ve} for {OTHERS_LIMIT_S:.0f} s",
        step="wait",
        tool="vzctl",
    )


def _orphan(ve: str) -> bool:
    """Whether a vzctl that skips the lock of this VE runs: it is one that an agent began."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = Path(entry.path, "cmdline").read_bytes().split(b"\0")
                if b"--skiplock" in words and ve.encode() in words and any(_is_vzctl(word) for word in words[:4]):
                    return True
    return False


def _is_vzctl(word: bytes) -> bool:
    return word.rpartition(b"/")[2] == b"vzctl"
