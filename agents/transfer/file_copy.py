"""All files of one VE from source to target: rounds while it runs, one last pass when it does not.

Rule: the first round looks at everything, each later pass only at what the watchers list; where a watcher cannot tell,
the pass looks at everything again. The last pass is started before it is needed, so that in the blackout only its
list goes over the line.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

from agents.engines.port import Tree
from agents.transfer.changes.watcher import Watcher
from agents.transfer.channel import Channel
from agents.transfer.files import Moved, Pass, WaitingPass, copy_all

COMPRESSED_NOTE = "files were compressed on their way, because that was quicker on this line"


def _unheard(_bytes: int, _rate: float) -> None:
    """Nobody wants to know."""


@dataclass(slots=True)
class _TreeCopy:
    """One tree of it."""

    tree: Tree
    place: Path
    watcher: Watcher | None = None
    waiting: WaitingPass | None = None


@dataclass(slots=True)
class FileCopy:
    """The files of one VE for one migration, at the source."""

    channel: Channel
    trees: Sequence[Tree]
    places: Mapping[str, str]
    compressed: bool = False
    """From the next pass on."""
    notes: list[str] = field(default_factory=list)
    """What an operator should know: why a pass looked at everything although it need not."""
    _copies: list[_TreeCopy] = field(default_factory=list)

    async def round(self, *, bandwidth_bytes_per_s: int = 0, moved: Moved = _unheard) -> int:
        """One round while the VE runs; bytes sent. Raises FaultError."""
        if not self._copies:
            # A tree that the target has no place for stays behind: the target said so when it accepted the VE.
            wanted = [tree for tree in self.trees if tree.name in self.places]
            self._copies = [_TreeCopy(tree, Path(self.places[tree.name])) for tree in wanted]
            await self._all(self._watch)
        sent = 0
        for copy in self._copies:
            one = Pass(self.channel, copy.tree, copy.place, bandwidth_bytes_per_s, self.compressed)
            sent += await self._pass(copy, one, running=True, moved=moved)
        await self._all(self._warm)
        return sent

    async def last(self, pids: Sequence[int]) -> int:
        """The pass in the blackout; bytes sent. `pids` are the processes of the frozen VE. Raises FaultError."""
        sent = []

        async def one(copy: _TreeCopy) -> None:
            whole = Pass(self.channel, copy.tree, copy.place, compressed=self.compressed)
            sent.append(await self._pass(copy, whole, running=False, pids=pids))

        await self._all(one)
        return sum(sent)

    async def close(self) -> None:
        """End watchers and waiting passes. May be called again."""
        for copy in self._copies:
            if copy.waiting is not None:
                await copy.waiting.close()
            if copy.watcher is not None:
                await copy.watcher.close()
        self._copies = []

    async def _pass(
        self, copy: _TreeCopy, one: Pass, *, running: bool, moved: Moved = _unheard, pids: Sequence[int] = ()
    ) -> int:
        if copy.watcher is None:
            return await copy_all(one, running=running, moved=moved)
        first, changed = copy.waiting is None, await copy.watcher.take(pids)
        if first or changed.scan:
            if not first:
                self._note(f"all of {copy.tree.path} was looked at again: {changed.scan}")
            return await copy_all(one, running=running, moved=moved)
        if not changed.count:
            return 0
        waiting = await WaitingPass.start(one) if running else copy.waiting
        assert waiting is not None
        return await waiting.run(changed.paths, running=running)

    async def _watch(self, copy: _TreeCopy) -> None:
        copy.watcher = await Watcher.start(copy.tree.path)

    async def _warm(self, copy: _TreeCopy) -> None:
        if copy.waiting is None:
            waits = Pass(self.channel, copy.tree, copy.place, compressed=self.compressed)
            copy.waiting = await WaitingPass.start(waits)

    async def _all(self, work: Callable[[_TreeCopy], object]) -> None:
        async with trio.open_nursery() as nursery:
            for copy in self._copies:
                nursery.start_soon(work, copy)  # type: ignore[arg-type]  # our own coroutine functions

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)
