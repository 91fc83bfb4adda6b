"""Know which pages the target holds unchanged by the kernel's soft-dirty bits: any Linux since 3.11 that was built with them.

The kernel sets a page's bit with every write, and everywhere in what is newly mapped or moved; it clears the bits of a whole
address space at once (Documentation/admin-guide/mm/soft-dirty.rst). CRIU's pre-dump asks the same bits; we ask them ourselves,
so that pages go the same way, and are proven the same way, as with any other method.

The rule of exactness: a write between asking and clearing would be lost, so every thread that can write stands still meanwhile
(some milliseconds, by ptrace: should we die, the kernel lets them go). Where that cannot be had nothing is cleared, and
what was sent in that round counts as changed. Nobody else may clear the bits of the VE while it is copied.
"""

import ctypes
import mmap
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from agents.tracing import ptrace
from agents.tracing.ptrace import NotTraceable, Seized
from agents.transfer.memory import kernel
from agents.transfer.memory.areas import ProcessFacts, ours
from agents.transfer.memory.extents import PAGE_BYTES, Extents, intersect, subtract
from agents.transfer.memory.pagemap import Pagemap
from agents.transfer.memory.reader import Pages
from agents.transfer.memory.tracking import NotTrackable, why_untrackable

PATIENCE_S = 0.1
_CLEAR_SOFT_DIRTY = b"4"


class SoftDirtyTracker:
    """Tracks one process; holds nothing in it and changes nothing but its soft-dirty bits."""

    space_gone = False
    """After an exec all is mapped anew, and so all is written."""

    def __init__(self, process: ProcessFacts, processes: Callable[[], Sequence[int]]) -> None:
        """`processes`: those of the VE, among which one may share this one's memory. Raises ``NotTrackable``."""
        if reason := why_untrackable(process.pid):
            raise NotTrackable(reason)
        self._process, self._processes = process, processes
        self._unchanged: Extents = []

    def changed(self) -> tuple[Extents, Extents]:
        try:
            return ptrace.in_own_thread(self._look_and_clear)
        except NotTraceable:
            known, content = self._look()
            self._unchanged = known
            return subtract(content, known), content

    def changed_at_last(self) -> tuple[Extents, Extents]:
        known, content = self._look()
        return subtract(content, known), content

    def sift(self, pages: Pages) -> Pages:
        return pages

    def lost(self, pages: Extents) -> None:
        self._unchanged = subtract(self._unchanged, pages)

    def release(self) -> None:
        return

    def _look_and_clear(self) -> tuple[Extents, Extents]:
        """In a thread of its own, to which the stopped threads are tied. Raises NotTraceable."""
        pid = self._process.pid
        with ExitStack() as stopped:
            _stop_all(pid, stopped)
            if sharing := [other for other in self._processes() if other != pid and kernel.same_memory(pid, other)]:
                raise NotTraceable(f"process {sharing[0]} shares the memory of {pid}")
            known, content = self._look()
            if why_untrackable(pid):
                self._unchanged = []
                return content, content
            _clear(pid)
        self._unchanged = content
        return subtract(content, known), content

    def _look(self) -> tuple[Extents, Extents]:
        """What the target holds as it is, and what there is."""
        mine = ours(self._process)
        with Pagemap(self._process.pid) as pagemap:
            content = pagemap.content(mine)
            written = pagemap.softly_dirty(content)
        known = [] if why_untrackable(self._process.pid) else subtract(self._unchanged, written)
        return intersect(known, content), content


def _stop_all(pid: int, stopped: ExitStack) -> None:
    """Every thread, also those that the others make meanwhile."""
    standing: set[int] = set()
    while new := set(ptrace.threads(pid)) - standing:
        for tid in new:
            stopped.enter_context(Seized(tid, patience_s=PATIENCE_S))
        standing |= new


def _clear(pid: int) -> None:
    try:
        clear = os.open(f"/proc/{pid}/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ProcessLookupError(f"process {pid} is gone") from error
    try:
        os.write(clear, _CLEAR_SOFT_DIRTY)
    finally:
        os.close(clear)


def soft_dirty_works() -> bool:
    """Whether this kernel was built with soft-dirty bits: a page just written has one."""
    page = mmap.mmap(-1, PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    page[:1] = b"w"
    anchor = ctypes.c_char.from_buffer(page)
    try:
        start = ctypes.addressof(anchor)
        with Pagemap(os.getpid()) as own:
            return bool(own.softly_dirty([(start, start + PAGE_BYTES)]))
    finally:
        del anchor
        page.close()
