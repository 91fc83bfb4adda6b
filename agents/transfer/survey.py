"""What the trees of a VE hold, before the first byte goes: how much, and whether it would be quicker to compress it.

One walk; of some files, chosen at random in proportion to their size, a piece is compressed to see how long that takes and what is
left. rsync then uses zstd where both ends have it, which is quicker than what is measured here: the estimate is on the safe side.
"""

import contextlib
import heapq
import os
import random
import stat
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from agents.engines.port import Tree
from agents.transfer.memory.compression import LEVEL, quicker

PIECES = 32
PIECE_BYTES = 256 << 10
SMALL_BYTES = 64 << 10
"""Less than that in all is not worth a decision."""


@dataclass(frozen=True, slots=True)
class Survey:
    """`total_bytes` of all files, one with several names counted once; what compressing a byte costs, and what it leaves of it."""

    total_bytes: int
    cpu_s_per_byte: float = 0.0
    share: float = 1.0

    def compression_pays(self, line_bytes_per_s: float) -> bool:
        """Whether files reach the target sooner when they are compressed, on a line as quick as this."""
        return self.cpu_s_per_byte > 0 and quicker(self.cpu_s_per_byte, self.share, 1 / line_bytes_per_s)


def survey(trees: Sequence[Tree], clock: Callable[[], float] = time.perf_counter) -> Survey:
    """Blocking: it reads every directory, and some MiB of files."""
    chance, total = random.Random(), 0
    chosen: list[tuple[float, str]] = []
    for path, size in _files(trees):
        total += size
        if size:
            # Efraimidis and Spirakis' sampling: the largest u ** (1 / weight) are a sample in proportion to the weights.
            heapq.heappush(chosen, (chance.random() ** (1 / size), path))
            if len(chosen) > PIECES:
                heapq.heappop(chosen)
    pieces = [piece for _, path in chosen if (piece := _piece(path, chance))]
    before = sum(map(len, pieces))
    if before < SMALL_BYTES:
        return Survey(total)
    began_s = clock()
    after = sum(len(zlib.compress(piece, LEVEL)) for piece in pieces)
    return Survey(total, (clock() - began_s) / before, after / before)


def _files(trees: Sequence[Tree]) -> Iterator[tuple[str, int]]:
    """Path and bytes of every regular file; one with several names once."""
    seen: set[tuple[int, int]] = set()
    for tree in trees:
        for directory, _, names in os.walk(tree.path):
            for name in names:
                path = os.path.join(directory, name)
                with contextlib.suppress(OSError):
                    status = os.lstat(path)
                    if not stat.S_ISREG(status.st_mode) or (status.st_dev, status.st_ino) in seen:
                        continue
                    if status.st_nlink > 1:
                        seen.add((status.st_dev, status.st_ino))
                    yield path, status.st_size


def _piece(path: str, chance: random.Random) -> bytes:
    """Of some place in a file; nothing, where it has gone meanwhile."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(chance.randrange(max(1, size - PIECE_BYTES)))
        return file.read(PIECE_BYTES)
    return b""
