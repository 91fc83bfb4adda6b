"""Files from host to host by rsync over the migration's SSH channel.

Rule: everything a VE can see of a file moves with it: hard links, ACLs, xattrs, numeric ids, holes, device nodes, times. A pass
over a list looks at the paths of the list and nothing else. A file of which only a part came is not in its place, the part is kept
aside and used by the next pass; one that was written in place in part has not the time of the source's, and is known by that.
"""

import re
import secrets
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import trio

from agents import places, shell
from agents.engines.port import Tree
from agents.shell import failed
from agents.transfer.channel import Channel
from agents.transfer.lines.rsync_shell import Task
from migrator.wire.faults import FaultCode, FaultError

PARTIAL = 23
"""rsync's status when something was not copied."""
VANISHED = frozenset({PARTIAL, 24})
"""Its status when files went away, or changed, while it read: normal as long as the VE runs."""
WHILE_IT_RUNS = re.compile(
    r"rsync warning: |(file|directory) has vanished: "
    r"|rsync: (\[sender\] )?[^\[].*(No such file or directory \(2\)|No data available \(61\))"
    r"|WARNING: .* failed verification -- update (retained|discarded|put into partial-dir)"
)
"""What it says of files that the VE removes, shortens or writes to while they are read: each is listed for the next pass."""
BROKEN = frozenset({10, 12, 30, 35, 255})
"""rsync's status when the line, or the other end, has gone: socket, protocol stream, time-outs, ssh itself."""
EXACTLY = ["-lptgoDHAX", "--numeric-ids", "--modify-window=-1", "--one-file-system", "--stats"]
"""`--modify-window=-1` compares times to the nanosecond; by default rsync takes a file of the same size that was changed
again within the second of its last copy for unchanged."""
LIST = ["--dirs", "--files-from=-", "--from0"]


class Kind(StrEnum):
    """What a pass looks at, and how it writes."""

    WHOLE = "whole"
    """Everything; what changed is written beside the old file, and takes its place when it is complete."""
    CHANGED = "changed"
    """The same for the paths of a list, whatever their sizes and times are. What is gone is removed, and all that is too much in a
    directory that is listed with a slash at its end."""
    IN_PLACE = "in-place"
    """The same, but written over as they lie there: no new file, no rename, which a file system may write to its disk at once. Only
    for files without holes that have no other name on either side."""
    KEPT = "kept"
    """Files of a list; what has the same size and time is the same."""
    ROOT = "root"
    """The directory itself, and nothing in it: the path that rsync takes for it stands for all that is in it."""


OPTIONS = {
    Kind.WHOLE: [*EXACTLY, "--sparse", "--force", "--recursive", "--delete"],
    Kind.CHANGED: [*EXACTLY, "--sparse", "--force", *LIST, "--ignore-times", "--delete", "--delete-missing-args"],
    Kind.IN_PLACE: [*EXACTLY, "--inplace", *LIST, "--ignore-times"],
    Kind.KEPT: [*EXACTLY, "--sparse", *LIST],
    Kind.ROOT: [*EXACTLY, *LIST, "--exclude=/*"],
}
AT_ONCE = ("sh", "-c", 'exec 3<&0; { "$@" <&3 3<&-; echo "remote rsync ended with $?" >&2; } &', "sh")
"""Before the words of an ssh: what rsync started has ended, and the ssh runs on and tells of its end. For when all its work is done
rsync looks only every 20 ms whether what it started has ended, and its other end waits for a process of its own in the same way."""
ENDED = re.compile(r"^remote rsync ended with (\d+)$", re.MULTILINE)
CONFIRM_LIMIT_S = 10.0
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
    wide: bool = False
    """It may go over several connections, where one does not fill the line; costs some 0.2 s at its start."""

    def argv(self, kind: Kind) -> list[str]:
        """Argument list; all but a whole pass read paths, each ended by a zero byte, from standard input."""
        aside = (
            [f"--partial-dir={places.partial(self.place, self.channel.migration)}"] if kind is not Kind.IN_PLACE else []
        )
        limit = [f"--bwlimit={max(1, self.bandwidth_bytes_per_s // 1024)}"] if self.bandwidth_bytes_per_s else []
        return [
            "rsync",
            *OPTIONS[kind],
            *(["--info=progress2"] if kind is Kind.WHOLE else ()),
            *limit,
            *aside,
            *(COMPRESSED if self.compressed else ()),
            *(f"--exclude={path}" for path in self.tree.excluded),
            "-e",
            shlex.join(self._shell(kind)),
            f"{self.tree.path}/",
            f"root@{self.channel.address}:{self.place}/",
        ]

    def _shell(self, kind: Kind) -> tuple[str, ...]:
        """What carries the words of rsync to the target."""
        if not self.wide:
            ssh = self.channel.ssh()[:-1]
            return ssh if kind is Kind.WHOLE else (*AT_ONCE, *ssh)
        name = secrets.token_hex(4)
        stream, strand = (
            self.channel.ssh("rsync-stream", name),
            self.channel.ssh("rsync-strand", name, shared=False),
        )
        return shell.program("rsync-shell", Task(stream, strand, str(self.channel.use)).argument())


@dataclass(frozen=True, slots=True)
class Sent:
    """A pass that ended."""

    bytes: int
    left_behind: str = ""
    """What rsync said of something that it could not copy, and that no later list will speak of; empty: there was nothing."""


async def copy_all(one: Pass, *, running: bool, moved: Moved = lambda _bytes, _rate: None) -> Sent:
    """A pass over the whole tree. Raises FaultError(TOOL_FAILED, NO_SPACE; PEER_LOST: the line broke)."""
    ran = await shell.run(one.argv(Kind.WHOLE), limit_s=PASS_LIMIT_S, env={"LC_ALL": "C"}, hear=_hearing(moved))
    return _sent(ran, running=running)


def _hearing(moved: Moved) -> Callable[[str], None]:
    """Reads rsync's progress2 lines: `  1,234,567  45%  118.06MB/s  0:00:01`."""

    def hear(text: str) -> None:
        if found := re.findall(r"([\d,]+)\s+\d+%\s+([\d.]+)([kMG]?)B/s", text):
            count, rate, unit = found[-1]
            moved(int(count.replace(",", "")), float(rate) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[unit])

    return hear


class WaitingPass:
    """A listed pass that is started before it is needed: both ends are up and wait for the list.

    `start`, `run`, `confirm`, `close`.
    """

    def __init__(self, process: trio.Process, one: Pass) -> None:
        self._process, self._one = process, one
        self._ran: shell.Ran | None = None

    @classmethod
    async def start(cls, one: Pass, kind: Kind) -> "WaitingPass":
        """Start both ends; nothing is looked at yet."""
        argv = one.argv(kind)
        return cls(await shell.start(argv, env={"LC_ALL": "C"}), one)

    async def run(self, paths: bytes, *, running: bool) -> Sent:
        """The pass over `paths`. Raises FaultError as `copy_all` does.

        When it returns the target's end has done its work, well or not: `confirm` tells, some 30 ms later.
        """
        self._ran = await shell.finish(self._process, paths, limit_s=PASS_LIMIT_S, linger_s=0.0)
        return _sent(self._ran, running=running)

    async def confirm(self, *, running: bool) -> Sent:
        """After `run`: what both ends say; an end of which nobody tells was not well. Raises FaultError as `copy_all` does."""
        assert self._ran is not None
        said = self._ran.stderr + await shell.rest(self._process, CONFIRM_LIMIT_S)
        self._ran = replace(self._ran, stderr=said)
        if self._ran.ok and not self._one.wide:
            ended = ENDED.search(said)
            self._ran = replace(self._ran, status=int(ended.group(1)) if ended else None)
        return _sent(self._ran, running=running)

    @property
    def has_run(self) -> bool:
        """Whether there is something to confirm."""
        return self._ran is not None

    async def close(self) -> None:
        """End it unused."""
        with trio.CancelScope(shield=True):
            self._process.kill()
            await self._process.wait()


def _reasons(said: str) -> list[str]:
    """What rsync said before its summary."""
    return [
        line
        for line in said.splitlines()
        if line.strip() and not line.startswith("rsync error: ") and not ENDED.match(line)
    ]


def _sent(ran: shell.Ran, *, running: bool) -> Sent:
    if not ran.ok and not (running and ran.status in VANISHED):
        fault = failed(ran, "copy files", "\n".join(_reasons(ran.stderr))).fault
        lost = ran.status in BROKEN and fault.code is not FaultCode.NO_SPACE
        raise FaultError(replace(fault, code=FaultCode.PEER_LOST) if lost else fault)
    found = re.search(r"Total bytes sent: ([\d,]+)", ran.stdout)
    sent_bytes = int(found.group(1).replace(",", "")) if found else 0
    unexplained = [line for line in _reasons(ran.stderr) if not WHILE_IT_RUNS.match(line)]
    return Sent(sent_bytes, unexplained[0] if ran.status == PARTIAL and unexplained else "")
