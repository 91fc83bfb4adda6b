"""The process that watches one tree of a VE's files: `migrator-agent watch ROOT`; and the agent's end of it.

A process of its own, since a busy file system tells more than the agent's loop should have to read. Conversation on its
standard input and output: a line of JSON {"pids": [...], "last"} asks for what changed since the last time; the answer is a line
of JSON {"bytes": [...], "scan"} and for each of the three kinds so many bytes of paths, relative to the root, each ended by a zero
byte (`Changed`).
"""

import json
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from agents import shell
from agents.transfer.changes.fanotify import CannotWatch, Watch
from agents.transfer.changes.listing import Listing, Names, add_held_open, below, listing, sorted_out
from agents.transfer.changes.scanning import Scan

ANSWER_LIMIT_S = 60.0
START_LIMIT_S = 600.0
SIFTED_AT = 512
"""So many changes that may have nothing to do with the tree are not worth a look yet: they cost some milliseconds when asked."""


def main(root_path: str) -> None:
    """The process. Says {"ready": why it has to walk the tree each time, or ""} first."""
    root = os.fsencode(os.path.realpath(root_path))
    names = Names(root)
    try:
        watch = Watch(Path(root_path))
    except CannotWatch as error:
        _scan(root, names, str(error))
        return
    for _ in names.walk():
        pass  # the kernel keeps what happens meanwhile
    print(json.dumps({"ready": ""}), flush=True)
    while _turn(watch, root, names):
        pass


def _scan(root: bytes, names: Names, why: str) -> None:
    """The kernel tells nothing."""
    scan = Scan(root, names)
    print(json.dumps({"ready": why}), flush=True)
    while line := sys.stdin.buffer.readline():
        _answer(scan.take(last=json.loads(line)["last"]), json.loads(line)["pids"], root, names)


def _turn(watch: Watch, root: bytes, names: Names) -> bool:
    ready, _, _ = select.select([watch.fd, 0], [], [])
    if watch.fd in ready:
        watch.read()
    if 0 not in ready:
        if watch.fresh > SIFTED_AT:
            watch.sift(lambda path: below(root, path) is not None, names.is_known)
        return True
    line = sys.stdin.buffer.readline()
    if not line:
        return False
    _answer(listing(watch, root, names, watch.take()), json.loads(line)["pids"], root, names)
    return True


def _answer(found: Listing, pids: Sequence[int], root: bytes, names: Names) -> None:
    add_held_open(found, root, names, pids)
    lists = sorted_out(found, root, names)
    data = [b"".join(path + b"\0" for path in each) for each in (lists.changed, lists.in_place, lists.kept)]
    scan = found.scan or ("" if names.complete else "there are more files than are kept track of")
    head = json.dumps({"bytes": [len(each) for each in data], "scan": scan})
    sys.stdout.buffer.write(head.encode() + b"\n" + b"".join(data))
    sys.stdout.buffer.flush()


Paths = frozenset[bytes]
NO_PATHS: Paths = frozenset()


@dataclass(frozen=True, slots=True)
class Changed:
    """What changed since the last time, as relative paths; none is in two sets."""

    changed: Paths = NO_PATHS
    """Gone, or to be sent whatever size and time say."""
    in_place: Paths = NO_PATHS
    """The same, and may be written over as they lie at the target."""
    kept: Paths = NO_PATHS
    """Were not written to: to be sent if size or time differ, and else given their attributes."""
    scan: str = ""
    """Why a whole pass is needed instead; empty: these are all."""

    def and_then(self, later: "Changed") -> "Changed":
        """Both; of what was to be done in place before nobody knows whether it still may be."""
        changed = self.changed | self.in_place | self.kept | later.changed
        return Changed(changed, later.in_place - changed, later.kept - changed, self.scan or later.scan)


class Watcher:
    """The agent's end. Whatever goes wrong with the process asks for a scan, never for trust."""

    def __init__(self, process: trio.Process) -> None:
        self._process, self._refused = process, ""
        self.walks = ""
        """Why it walks the tree each time; empty: it does not have to."""
        self._buffer = bytearray()

    @classmethod
    async def start(cls, root: Path, program: Sequence[str] = ()) -> "Watcher":
        """Watching when it returns, or ready to walk the tree when it is asked; or not there, which `take` will say. `program` is
        the agent's, by default this one."""
        argv = [*(program or shell.program()), "watch", str(root)]
        process = await trio.lowlevel.open_process(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        made = cls(process)
        try:
            with trio.fail_after(START_LIMIT_S):
                made.walks = json.loads(await made._line())["ready"]
        except (trio.TooSlowError, EOFError, ValueError) as error:
            made._refused = f"the watcher did not start: {error!r}"
        except BaseException:
            await made.close()  # nobody has it yet who would end it
            raise
        return made

    async def take(self, pids: Sequence[int] = (), *, last: bool = False) -> Changed:
        """What changed; files that `pids` have open for writing are always among it. `last`: nobody writes any more."""
        if self._refused:
            return Changed(scan=self._refused)
        assert self._process.stdin is not None
        try:
            with trio.fail_after(ANSWER_LIMIT_S):
                await self._process.stdin.send_all(json.dumps({"pids": list(pids), "last": last}).encode() + b"\n")
                head = json.loads(await self._line())
                changed, in_place, kept = [await self._paths(each) for each in head["bytes"]]
                return Changed(changed, in_place, kept, head["scan"])
        except (trio.TooSlowError, trio.BrokenResourceError, EOFError, ValueError) as error:
            self._refused = f"the watcher ended: {error!r}"
            return Changed(scan=self._refused)

    async def close(self) -> None:
        """Stop watching."""
        with trio.CancelScope(shield=True):
            self._process.kill()
            await self._process.wait()

    async def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            await self._more()
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        return line

    async def _paths(self, count: int) -> Paths:
        while len(self._buffer) < count:
            await self._more()
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return frozenset(data.split(b"\0")[:-1])

    async def _more(self) -> None:
        assert self._process.stdout is not None
        data = await self._process.stdout.receive_some(1 << 16)
        if not data:
            raise EOFError("no answer")
        self._buffer += data
