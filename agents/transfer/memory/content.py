"""Know which pages the target holds unchanged by comparing content: for kernels without write tracking.

It costs a read of all memory in each round, also in the last one, and what ``remembered`` takes on the source.
"""

from agents.transfer.memory.areas import ProcessFacts, ours
from agents.transfer.memory.extents import Extents, size_bytes
from agents.transfer.memory.pagemap import Pagemap
from agents.transfer.memory.reader import Pages, select
from agents.transfer.memory.remembered import Budget, Remembered


class ContentTracker:
    """The Tracker that hands out everything and sifts it by content."""

    def __init__(self, process: ProcessFacts, budget: Budget) -> None:
        self._process = process
        self._sent = Remembered(budget)
        self._is_last = False
        self.space_gone = False

    def changed(self) -> tuple[Extents, Extents]:
        mine = ours(self._process)
        with Pagemap(self._process.pid) as pagemap:
            content = pagemap.content(mine)
        self._sent.only(content)
        self._sent.expect(size_bytes(content))
        return content, content

    def changed_at_last(self) -> tuple[Extents, Extents]:
        self._is_last = True
        return self.changed()

    def sift(self, pages: Pages) -> Pages:
        """Only what differs from what was sent; that is remembered as sent, unless no round will follow."""
        self._sent.forget(pages.zero)
        self._sent.forget(pages.lost)
        wanted: Extents = []
        at = 0
        for start, end in pages.extents:
            data = pages.data[at : at + end - start]
            for piece in self._sent.differing((start, end), data):
                wanted.append(piece)
                if not self._is_last:
                    self._sent.keep(piece, data[piece[0] - start : piece[1] - start])
            at += end - start
        return select(pages, wanted)

    def lost(self, pages: Extents) -> None:
        self._sent.forget(pages)

    def release(self) -> None:
        self._sent.close()
