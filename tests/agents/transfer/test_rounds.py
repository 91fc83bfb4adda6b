"""A round of files and memory side by side, on a clock of its own, with copies that take the time they are told."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from agents.engines.port import Tree
from agents.transfer.files import Moved
from agents.transfer.memory.port import RoundStats
from agents.transfer.rounds import BROKE, CATCH_UP_S, Round
from migrator.wire.facts import MemoryMethod
from migrator.wire.messages import Copied, PreCopy

ORDER = PreCopy("m", 1, "ve", "192.0.2.1", 22, (), round=2)
DIRTY_BYTES_PER_S = 4096 * 1000


@dataclass
class TimedFiles:
    """A round takes so long."""

    took_s: float
    trees: Sequence[Tree] = ()
    compressed: bool = False
    notes: list[str] = field(default_factory=list)

    async def round(self, *, bandwidth_bytes_per_s: int, moved: Moved) -> int:
        await trio.sleep(self.took_s)
        return 5


@dataclass
class TimedMemory:
    """A first round takes so long, and each later one a tenth of the time since the one before began."""

    took_s: float
    begun_again: str = ""
    why_not: str = ""
    method: MemoryMethod = MemoryMethod.TRACKED
    began_s: list[float] = field(default_factory=list)

    async def round(self, bandwidth_bytes_per_s: int, moving: Callable[[int, int], None]) -> RoundStats | None:
        now_s, before_s = trio.current_time(), self.began_s[-1] if self.began_s else None
        self.began_s.append(now_s)
        took_s = self.took_s if before_s is None else (now_s - before_s) / 10
        await trio.sleep(took_s)
        pages = round((now_s - before_s) * 1000) if before_s is not None else 10**6
        return RoundStats(
            len(self.began_s), pages, pages * 4096, took_s, None if before_s is None else now_s - before_s, 0, 1, 0, ()
        )

    async def limit(self, bandwidth_bytes_per_s: int) -> None:
        return


async def run(files_s: float, memory: TimedMemory | None, *, anew: bool = False) -> Copied:
    """A round after the first."""
    return await Round(ORDER, TimedFiles(files_s), memory, lambda _: None).run(0.0, anew=anew)


async def test_memory_that_waited_for_the_files_is_caught_up(autojump_clock: trio.testing.MockClock) -> None:
    """What the VE wrote while only files were moving is sent before the round ends, and what is left is counted from there."""
    copied = await run(30.0, TimedMemory(1.0))

    assert copied.file_s == pytest.approx(30)
    assert copied.duration_s == pytest.approx(33)
    assert copied.since_memory_s == pytest.approx(3)
    assert copied.dirty_bytes_per_s == pytest.approx(DIRTY_BYTES_PER_S)
    assert copied.memory_bytes == 4096 * (10**6 + 30_000)
    assert copied.memory_s == pytest.approx(4)


@pytest.mark.parametrize("files_s", [1.0, 5.0, 5.0 + CATCH_UP_S / 2])
async def test_memory_that_hardly_waited_is_not(autojump_clock: trio.testing.MockClock, files_s: float) -> None:
    """Where another round of memory would gain nothing there is one, and what is left is counted from its beginning."""
    memory = TimedMemory(5.0)
    copied = await run(files_s, memory)

    assert len(memory.began_s) == 1
    assert copied.since_memory_s == pytest.approx(max(5.0, files_s))


async def test_files_alone(autojump_clock: trio.testing.MockClock) -> None:
    """A VE whose memory does not move ahead has a round of files, and says nothing of memory."""
    copied = await run(3.0, None, anew=True)

    assert (copied.file_bytes, copied.memory_bytes, copied.memory_method) == (5, 0, MemoryMethod.DUMP)
    assert copied.notes == (BROKE,)
