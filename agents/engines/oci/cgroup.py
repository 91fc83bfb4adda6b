"""The cgroup (v2) of a VE: who is in it, freezing, ending.

Rule: frozen is what the kernel says (`frozen 1` in cgroup.events), not that we asked for it.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import trio

from migrator.wire.faults import FaultCode, fault_error

MOUNT = Path("/sys/fs/cgroup")
POLL_S = 0.0005
FREEZE_LIMIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Group:
    """One VE's cgroup."""

    ve: str

    @property
    def path(self) -> Path:
        """Its directory."""
        return MOUNT / "migrator" / self.ve

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
        """Returns when all stand still. Raises FaultError(TOOL_FAILED) when they do not within FREEZE_LIMIT_S."""
        (self.path / "cgroup.freeze").write_text("1")
        with trio.move_on_after(FREEZE_LIMIT_S):
            while not self.frozen:
                await trio.sleep(POLL_S)
            return
        self.thaw()
        raise fault_error(
            FaultCode.TOOL_FAILED, f"a process of {self.ve} did not freeze within {FREEZE_LIMIT_S} s", step="freeze"
        )

    def thaw(self) -> None:
        """Let them run."""
        (self.path / "cgroup.freeze").write_text("0")

    async def end(self) -> None:
        """End every process, frozen or not, none of which runs another instruction of its own."""
        if not self.path.is_dir():
            return
        (self.path / "cgroup.kill").write_text("1")
        with trio.fail_after(FREEZE_LIMIT_S):
            while self.populated:
                await trio.sleep(POLL_S)

    def remove(self) -> None:
        """Remove the empty group."""
        if self.path.is_dir():
            for directory, _, _ in os.walk(self.path, topdown=False):
                os.rmdir(directory)
