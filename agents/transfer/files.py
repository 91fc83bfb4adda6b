"""Files from host to host by rsync over the migration's SSH channel.

Rule: everything a VE can see of a file moves with it: hard links, ACLs, xattrs, numeric ids, holes, device nodes, times. A file of
which only a part came is never in its place; the part is kept aside, and used by the next pass. A pass over a list looks at the
paths of the list and nothing else; a directory listed with a slash at its end is compared name by name, so that what is gone from
it is removed at the target.
"""

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from agents import places, shell
from agents.engines.port import Tree
from agents.shell import failed
from agents.transfer.channel import Channel
from migrator.wire.faults import FaultCode, FaultError

VANISHED = frozenset({23, 24})
"""rsync's status when files went away while it read: normal as long as the VE runs (23: one that was listed)."""
BROKEN = frozenset({10, 12, 30, 35, 255})
"""rsync's status when the line, or the other end, has gone: socket, protocol stream, time-outs, ssh itself."""
EXACTLY = ["-lptgoDHAXS", "--numeric-ids", "--modify-window=-1", "--force", "--one-file-system", "--stats"]
"""`--modify-window=-1` compares times to the nanosecond; by default rsync takes a file of the same size that was changed
again within the second of its last copy for unchanged."""
WHOLE = [*EXACTLY, "--recursive", "--delete"]
LISTED = [*EXACTLY, "--dirs", "--delete", "--files-from=-", "--from0"]
COMPRESSED = ["--compress", "--compress-level=1"]
"""By the best that both ends know (zstd since rsync 3.2); the quickest level of each."""
PASS_LIMIT_S = 24 * 3600.0

Moved = Callable[[int, float], None]
"""Told of (bytes moved, bytes per second) now and then while a pass runs."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass of rsync from a tree to its place on the target."""

    channel: Channel
    tree: Tree
    place: Path
    bandwidth_bytes_per_s: int = 0
    """0: no limit."""
    compressed: bool = False

    def argv(self, *, listed: bool) -> list[str]:
        """Argument list; a listed pass reads its paths, each ended by a zero byte, from standard input."""
        limit = [f"--bwlimit={max(1, self.bandwidth_bytes_per_s // 1024)}"] if self.bandwidth_bytes_per_s else []
        return [
            "rsync",
            *(LISTED if listed else [*WHOLE, "--info=progress2"]),
            *limit,
            f"--partial-dir={places.partial(self.place, self.channel.migration)}",
            *(COMPRESSED if self.compressed else ()),
            *(f"--exclude={path}" for path in self.tree.excluded),
            "-e",
            shlex.join(self.channel.ssh()[:-1]),
            f"{self.tree.path}/",
            f"root@{self.channel.address}:{self.place}/",
        ]


async def copy_all(one: Pass, *, running: bool, moved: Moved = lambda _bytes, _rate: None) -> int:
    """A pass over the whole tree; bytes sent. Raises FaultError(TOOL_FAILED, NO_SPACE; PEER_LOST: the line broke)."""
    ran = await shell.run(one.argv(listed=False), limit_s=PASS_LIMIT_S, env={"LC_ALL": "C"}, hear=_hearing(moved))
    return _sent(ran, running=running)


def _hearing(moved: Moved) -> Callable[[str], None]:
    """Reads rsync's progress2 lines: `  1,234,567  45%  118.06MB/s  0:00:01`."""

    def hear(text: str) -> None:
        if found := re.findall(r"([\d,]+)\s+\d+%\s+([\d.]+)([kMG]?)B/s", text):
            count, rate, unit = found[-1]
            moved(int(count.replace(",", "")), float(rate) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[unit])

    return hear


class WaitingPass:
    """A listed pass that is started before it is needed: both ends are up and wait for the list."""

    def __init__(self, process: trio.Process, one: Pass) -> None:
        self._process, self._one = process, one

    @classmethod
    async def start(cls, one: Pass) -> "WaitingPass":
        """Start both ends; nothing is looked at yet."""
        argv = one.argv(listed=True)
        return cls(await shell.start(argv, env={"LC_ALL": "C"}), one)

    async def run(self, paths: bytes, *, running: bool) -> int:
        """The pass over `paths`; bytes sent. Raises FaultError as `copy_all` does."""
        ran = await shell.finish(self._process, paths, limit_s=PASS_LIMIT_S)
        return _sent(ran, running=running)

    async def close(self) -> None:
        """End it unused."""
        with trio.CancelScope(shield=True):
            self._process.kill()
            await self._process.wait()


def _sent(ran: shell.Ran, *, running: bool) -> int:
    if not ran.ok and not (running and ran.status in VANISHED):
        fault = failed(ran, "copy files").fault
        lost = ran.status in BROKEN and fault.code is not FaultCode.NO_SPACE
        raise FaultError(replace(fault, code=FaultCode.PEER_LOST) if lost else fault)
    sent = re.search(r"Total bytes sent: ([\d,]+)", ran.stdout)
    return int(sent.group(1).replace(",", "")) if sent else 0
