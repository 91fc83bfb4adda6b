"""One round of copying while the VE runs: files and memory side by side, on one budget of bandwidth.

Rule: what is left to be sent when a round ends is what the VE wrote since memory was looked at last. So memory that was done long
before the files is caught up, and the answer says since when the VE has been writing.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import trio

from agents.engines.port import Tree
from agents.transfer.file_copy import COMPRESSED_NOTE
from agents.transfer.files import Moved
from agents.transfer.memory.port import RoundStats
from agents.transfer.shares import Shares
from agents.transfer.survey import survey
from migrator.wire.facts import MemoryMethod
from migrator.wire.messages import Copied, PreCopy, Progress

CATCH_UP_S = 0.25
"""Memory that waited longer for the files is caught up: what is written in less than that costs less than another round."""
SHARE_AGAIN_S = 0.5
BROKE = "the line to the target broke while files and memory were copied; copying went on with what had come"


class Files(Protocol):
    """As `file_copy.FileCopy` copies them."""

    trees: Sequence[Tree]
    compressed: bool
    notes: list[str]

    async def round(self, *, bandwidth_bytes_per_s: int, moved: Moved) -> int:
        """One round; bytes sent."""
        ...


class Memory(Protocol):
    """As `memory.moving.LeavingMemory` sends it."""

    begun_again: str
    why_not: str

    @property
    def method(self) -> MemoryMethod:
        """How it moves."""
        ...

    async def round(self, bandwidth_bytes_per_s: int, moving: Callable[[int, int], None]) -> RoundStats | None:
        """One round; None: it cannot be sent ahead."""
        ...

    async def limit(self, bandwidth_bytes_per_s: int) -> None:
        """The cap from now on."""
        ...


class Round:
    """One round; `run` it once."""

    def __init__(
        self, order: PreCopy, files: Files, memory: Memory | None, listener: Callable[[Progress], None]
    ) -> None:
        """`memory` is None where it does not move ahead; `listener` hears how the round gets on."""
        self._order, self._files, self._memory, self._listener = order, files, memory, listener
        self._shares = Shares(order.bandwidth_bytes_per_s, memory is not None)
        self._memory_rounds: list[RoundStats] = []
        self._looked_s = self._sent_s = 0.0
        """When the last look at the memory began, and when all that it found was sent."""

    async def run(self, line_bytes_per_s: float, *, anew: bool) -> Copied:
        """Returns when both are done. The line was measured before; `anew`: it broke since. Raises FaultError."""
        began_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._memory_round)
            async with trio.open_nursery() as beside:
                beside.start_soon(self._share)
                expected_bytes = await self._survey(line_bytes_per_s) if self._order.round == 1 else 0
                sent_bytes = await self._file_round(expected_bytes)
                beside.cancel_scope.cancel()
            files_s = trio.current_time() - began_s
            self._shares.files_take(0)
            await self._limit_memory()
        if self._memory_rounds and trio.current_time() - self._sent_s > CATCH_UP_S:
            await self._memory_round()
        copied = Copied(
            self._order.round,
            trio.current_time() - began_s,
            sent_bytes,
            files_s,
            notes=self._notes(sent_bytes, anew=anew),
            anew=anew,
        )
        return self._with_memory(copied)

    async def _memory_round(self) -> None:
        if self._memory is None:
            return
        self._looked_s = trio.current_time()
        stats = await self._memory.round(self._shares.memory_bytes_per_s, self._tell_memory)
        self._sent_s = trio.current_time()
        if stats is not None:
            self._memory_rounds.append(stats)

    async def _survey(self, line_bytes_per_s: float) -> int:
        """How many bytes there are to be copied; and whether to compress them."""
        found = await trio.to_thread.run_sync(survey, self._files.trees)
        line = min(line_bytes_per_s, self._order.bandwidth_bytes_per_s or line_bytes_per_s)
        self._files.compressed = self._order.compress and found.compression_pays(line)
        return found.total_bytes

    async def _file_round(self, expected_bytes: int) -> int:
        def moved(done_bytes: int, bytes_per_s: float) -> None:
            self._shares.files_take(bytes_per_s)
            self._listener(Progress("files", done_bytes, max(expected_bytes, done_bytes), bytes_per_s))

        return await self._files.round(bandwidth_bytes_per_s=self._shares.files_bytes_per_s, moved=moved)

    async def _share(self) -> None:
        """While files move: the memory may take what they leave."""
        while True:
            await trio.sleep(SHARE_AGAIN_S)
            await self._limit_memory()

    async def _limit_memory(self) -> None:
        if self._memory is not None and self._shares.total_bytes_per_s:
            await self._memory.limit(self._shares.memory_bytes_per_s)

    def _tell_memory(self, done_bytes: int, total_bytes: int) -> None:
        self._listener(Progress("memory", done_bytes, max(done_bytes, total_bytes)))

    def _notes(self, sent_bytes: int, *, anew: bool) -> tuple[str, ...]:
        notes = [BROKE] if anew else []
        if self._files.compressed and sent_bytes:
            notes.append(COMPRESSED_NOTE)
        notes += self._files.notes
        for each in self._memory_rounds:
            notes += each.notes
        if self._memory is not None:
            notes += filter(None, (self._memory.begun_again, self._memory.why_not))
        return tuple(dict.fromkeys(notes))

    def _with_memory(self, copied: Copied) -> Copied:
        if not self._memory_rounds or self._memory is None:
            return copied
        rate = self._memory_rounds[-1].dirty_bytes_per_s
        return replace(
            copied,
            memory_bytes=sum(each.wire_bytes for each in self._memory_rounds),
            memory_s=sum(each.duration_s for each in self._memory_rounds),
            since_memory_s=trio.current_time() - self._looked_s,
            dirty_bytes_per_s=-1.0 if rate is None else rate,
            memory_method=self._memory.method,
        )
