"""All files of one VE from source to target: rounds while it runs, one last pass when it does not.

Rule: the first round looks at everything, each later pass only at what the watchers list; where a watcher cannot tell,
the pass looks at everything again. What was listed is owed until a pass over the list has ended well. The last passes are
started before they are needed, so that in the blackout only their lists go over the line. Files are written in place only at a
target that had nothing of them before this copy. A pass in the blackout goes over the one connection that is there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio

from agents.engines.port import Tree
from agents.transfer.changes.watcher import Changed, Watcher
from agents.transfer.channel import Channel
from agents.transfer.files import Kind, Moved, Pass, Sent, WaitingPass, copy_all
from agents.transfer.lines import use

SEVERAL_NOTE = "files went over {} connections, because one did not fill the line"
COMPRESSED_NOTE = "files were compressed on their way, because that was quicker on this line"
LISTS = (Kind.CHANGED, Kind.IN_PLACE, Kind.KEPT)
ROOT = b"."


def _unheard(_bytes: int, _rate: float) -> None:
    """Nobody wants to know."""


@dataclass(slots=True)
class _TreeCopy:
    """One tree of it."""

    tree: Tree
    place: Path
    watcher: Watcher | None = None
    waiting: dict[Kind, WaitingPass] = field(default_factory=dict)
    """For the last pass."""
    whole: bool = False
    """The target has had all of it; since then lists are enough."""
    owed: Changed = field(default_factory=Changed)
    """What was listed and has not been copied."""


@dataclass(slots=True)
class FileCopy:
    """The files of one VE for one migration, at the source."""

    channel: Channel
    trees: Sequence[Tree]
    places: Mapping[str, str]
    fresh: bool
    """The target had nothing of these files before."""
    compressed: bool = False
    """From the next pass on."""
    notes: list[str] = field(default_factory=list)
    """What an operator should know: why a pass looked at everything, or twice, although it need not."""
    _copies: list[_TreeCopy] = field(default_factory=list)

    async def round(self, *, bandwidth_bytes_per_s: int = 0, moved: Moved = _unheard) -> int:
        """One round while the VE runs; bytes sent. Raises FaultError."""
        if not self._copies:
            # A tree that the target has no place for stays behind: the target said so when it accepted the VE.
            wanted = [tree for tree in self.trees if tree.name in self.places]
            self._copies = [_TreeCopy(tree, Path(self.places[tree.name])) for tree in wanted]
        await self._all(self._watch)
        sent_bytes = 0
        for copy in self._copies:
            one = Pass(self.channel, copy.tree, copy.place, bandwidth_bytes_per_s, self.compressed)
            sent_bytes += await self._round(copy, one, moved)
        await self._all(self._warm)
        return sent_bytes

    async def last(self, pids: Sequence[int]) -> int:
        """The pass in the blackout; bytes sent. `pids` are the processes of the frozen VE. Then `confirm`. Raises FaultError."""
        sent = []

        async def one(copy: _TreeCopy) -> None:
            whole = Pass(self.channel, copy.tree, copy.place, compressed=self.compressed)
            sent.append(await self._last(copy, whole, pids))

        await self._all(one)
        return sum(sent)

    async def confirm(self) -> None:
        """After `last`, and before the VE may run there: the target has all of it. Raises FaultError."""

        async def one(copy: _TreeCopy) -> None:
            for waiting in copy.waiting.values():
                if waiting.has_run:
                    await waiting.confirm(running=False)

        await self._all(one)

    async def go_on(self, channel: Channel) -> None:
        """The line broke: everything is looked at again over this channel, and what was owed is still."""
        self.channel, self.fresh = channel, False
        for copy in self._copies:
            copy.whole = False
            await _end_waiting(copy)

    async def close(self) -> None:
        """End watchers and waiting passes. May be called again."""
        for copy in self._copies:
            await _end_waiting(copy)
            if copy.watcher is not None:
                await copy.watcher.close()
        self._copies = []

    async def _round(self, copy: _TreeCopy, one: Pass, moved: Moved) -> int:
        assert copy.watcher is not None
        copy.owed = copy.owed.and_then(await copy.watcher.take())
        if self._is_scan(copy):
            found = await copy_all(replace(one, wide=True), running=True, moved=moved)
            if (count := self._connections) > 1:
                self._note(SEVERAL_NOTE.format(count))
            copy.whole = not found.left_behind
            copy.owed = replace(copy.owed, scan="")
            return self._told(copy, [found])
        lists = self._lists(copy)
        one = replace(one, wide=self._connections > 1)
        passes = {kind: await WaitingPass.start(one, kind) for kind in lists}
        try:
            # One after the other: together they would take the bandwidth of several.
            sent = []
            for kind, paths in lists.items():
                await passes[kind].run(paths, running=True)
                sent.append(await passes[kind].confirm(running=True))
        finally:
            for each in passes.values():
                await each.close()
        if not any(each.left_behind for each in sent):
            copy.owed = Changed()
        return self._told(copy, sent)

    async def _last(self, copy: _TreeCopy, one: Pass, pids: Sequence[int]) -> int:
        assert copy.watcher is not None
        copy.owed = copy.owed.and_then(await copy.watcher.take(pids, last=True))
        sent = [await copy_all(one, running=False)] if self._is_scan(copy) else []

        async def run(kind: Kind, paths: bytes) -> None:
            sent.append(await copy.waiting[kind].run(paths, running=False))

        lists = self._lists(copy)
        root = lists.pop(Kind.ROOT, b"")
        if root:
            copy.waiting[Kind.ROOT] = await WaitingPass.start(
                one, Kind.ROOT
            )  # seldom needed; it starts beside the others
        async with trio.open_nursery() as nursery:
            for kind, paths in lists.items():
                nursery.start_soon(run, kind, paths)
        if root:
            await run(Kind.ROOT, root)
        return self._told(copy, sent)

    @property
    def _connections(self) -> int:
        """Over so many the last pass went that could choose."""
        return use.connections(self.channel.use, use.Stream.FILES)

    def _is_scan(self, copy: _TreeCopy) -> bool:
        if copy.whole and copy.owed.scan:
            self._note(f"all of {copy.tree.path} was looked at again: {copy.owed.scan}")
        return not copy.whole or bool(copy.owed.scan)

    def _lists(self, copy: _TreeCopy) -> dict[Kind, bytes]:
        """What is owed, as the passes want it; the root comes last, for a file that is put in it changes its time."""
        owed = copy.owed if self.fresh else copy.owed.and_then(Changed())
        renewed = owed.changed | owed.kept
        root = {ROOT} if any(b"/" not in path for path in renewed) else set()
        lists = zip((*LISTS, Kind.ROOT), (owed.changed - {ROOT}, owed.in_place, owed.kept - {ROOT}, root), strict=True)
        return {kind: b"".join(path + b"\0" for path in sorted(paths)) for kind, paths in lists if paths}

    async def _watch(self, copy: _TreeCopy) -> None:
        if copy.watcher is None:
            copy.watcher = await Watcher.start(copy.tree.path)
            if copy.watcher.walks:
                self._note(f"changes below {copy.tree.path} were found by walking through it: {copy.watcher.walks}")

    async def _warm(self, copy: _TreeCopy) -> None:
        one = Pass(self.channel, copy.tree, copy.place, compressed=self.compressed)
        for kind in LISTS if not copy.waiting else ():
            copy.waiting[kind] = await WaitingPass.start(one, kind)

    async def _all(self, work: Callable[[_TreeCopy], object]) -> None:
        async with trio.open_nursery() as nursery:
            for copy in self._copies:
                nursery.start_soon(work, copy)  # type: ignore[arg-type]  # our own coroutine functions

    def _told(self, copy: _TreeCopy, sent: Sequence[Sent]) -> int:
        """Bytes sent; what was left behind is told."""
        for each in sent:
            if each.left_behind:
                self._note(f"a file of {copy.tree.path} was copied again, because of this: {each.left_behind}")
        return sum(each.bytes for each in sent)

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


async def _end_waiting(copy: _TreeCopy) -> None:
    for waiting in copy.waiting.values():
        await waiting.close()
    copy.waiting.clear()
