"""The cgroup (v2) of a VE: who is in it, freezing, ending.

Rule: frozen is what the kernel says (`frozen 1` in cgroup.events), not that we asked for it. A group in which everything was
ended is removed, never used again: Linux (6.18 at least) kills what is cloned into a group that was ever told to kill.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import trio

from migrator.wire.faults import FaultCode, fault_error

MOUNT = Path("/sys/fs/cgroup")
LEAF = MOUNT / "init"
"""A cgroup without inner groups for what must not be in a VE's."""
POLL_S = 0.0005
FREEZE_LIMIT_S = 10.0
DUMPER = "criu"


@dataclass(frozen=True, slots=True)
class Group:
    """One VE's cgroup."""

    ve: str

    @property
    def path(self) -> Path:
        """Its directory."""
        return MOUNT / "migrator" / self.ve

    def make(self) -> None:
        """Make it, if it is not there."""
        self.path.mkdir(parents=True, exist_ok=True)

    def processes(self) -> list[int]:
        """Process ids as the host numbers them, those in inner groups included."""
        return [
            int(word)
            for directory, _, _ in os.walk(self.path)
            for word in Path(directory, "cgroup.procs").read_text().split()
        ]

    @property
    def frozen(self) -> bool:
        """Whether every process in it stands still."""
        return self._events().get("frozen") == "1"

    @property
    def populated(self) -> bool:
        """Whether there is any process in it."""
        return self._events().get("populated") == "1"

    def _events(self) -> dict[str, str]:
        try:
            lines = (self.path / "cgroup.events").read_text().splitlines()
        except OSError:
            return {}
        return dict(line.split() for line in lines)

    async def freeze(self) -> None:
        """Returns when all stand still. Raises FaultError(TOOL_FAILED) when they do not within FREEZE_LIMIT_S, and lets
        them go again."""
        (self.path / "cgroup.freeze").write_text("1")
        done = False
        try:
            with trio.move_on_after(FREEZE_LIMIT_S):
                while not self.frozen:
                    await trio.sleep(POLL_S)
                done = True
                return
        finally:
            if not done:
                self.thaw()
        raise fault_error(
            FaultCode.TOOL_FAILED,
            f"a process of {self.ve} did not stand still within {FREEZE_LIMIT_S:g} s ({self._restless()})",
            step="freeze",
        )

    def _restless(self) -> str:
        """The processes that wait in the kernel where nothing can interrupt them, in words."""
        found = [pid for pid in self.processes() if status(pid).get("State", "").startswith("D")]
        words = [f"process {pid} ({status(pid).get('Name', '?')}) waits uninterruptibly" for pid in found]
        return "; ".join(words) or "none of them waits uninterruptibly"

    def thaw(self) -> None:
        """Let them run."""
        (self.path / "cgroup.freeze").write_text("0")

    async def free(self) -> None:
        """End a checkpoint that was left behind (its agent ended or gave up): the processes lose their tracer, and stay
        where they are, since CRIU has thawed them for its work."""
        with trio.fail_after(FREEZE_LIMIT_S):
            while tracers := set(self.tracers()):
                (self.path / "cgroup.freeze").write_text("1")
                for pid in tracers:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                await trio.sleep(POLL_S)

    def tracers(self) -> Iterator[int]:
        """The CRIU that traces them, once for each process."""
        for pid in self.processes():
            tracer = int(status(pid).get("TracerPid", "0"))
            if tracer and status(tracer).get("Name") == DUMPER:
                yield tracer

    async def end(self) -> None:
        """End every process, frozen or not, none of which runs another instruction of its own; then remove the group."""
        if not self.path.is_dir():
            return
        (self.path / "cgroup.kill").write_text("1")
        with trio.fail_after(FREEZE_LIMIT_S):
            while self.populated:
                await trio.sleep(POLL_S)
        self.remove()

    def remove(self) -> None:
        """Remove the empty group."""
        if self.path.is_dir():
            for directory, _, _ in os.walk(self.path, topdown=False):
                os.rmdir(directory)


def status(pid: int) -> dict[str, str]:
    """/proc/PID/status; empty when the process has gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)
