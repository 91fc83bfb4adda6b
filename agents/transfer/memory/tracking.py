"""Know which pages the target holds unchanged, without stopping the process: userfaultfd write-protect, Linux 6.7+.

The rule of exactness: a page counts as unchanged only if all of this is so. We registered its mapping and the mapping is
registered still (any unmapping, moving or replacing ends the registration); the page was handed out by ``changed``
or known before; and the kernel has seen no write since we protected it. Protecting comes before reading, so a
page written while it is read is reported again. Whatever is not proven is changed.

Not seen by the kernel's bit: a device that writes to memory it pinned before we protected (O_DIRECT reads in
flight, asynchronous I/O rings). A process that holds such descriptors is refused here and compared by content instead.
"""

import errno
import os
from typing import Protocol

from agents.tracing.ptrace import NotTraceable
from agents.transfer.memory import injection, kernel
from agents.transfer.memory.areas import Area, ProcessFacts, areas, ours
from agents.transfer.memory.extents import Extent, Extents, intersect, normalised, subtract, union
from agents.transfer.memory.pagemap import Pagemap
from agents.transfer.memory.reader import Pages

_GONE = {errno.ESRCH, errno.ENOENT, errno.ENOMEM}
_NOT_REGISTRABLE = {errno.EBUSY, errno.EINVAL, errno.EPERM}


class NotTrackable(Exception):
    """Writes of this process cannot be tracked; the text says why."""


class Tracker(Protocol):
    """What changed in one process's memory since it was last asked."""

    def changed(self) -> tuple[Extents, Extents]:
        """Of the running process: ``(pages to read and send, all pages with content)``; starts the next interval."""
        ...

    def changed_at_last(self) -> tuple[Extents, Extents]:
        """The same of the frozen process, exact; nothing is started."""
        ...

    def sift(self, pages: Pages) -> Pages:
        """Of pages that ``changed`` handed out and that were read: those worth sending. Remembers them as sent."""
        ...

    def lost(self, pages: Extents) -> None:
        """These were handed out and could not be read: they are not unchanged after all."""
        ...

    def release(self) -> None:
        """Leave the process as it was found."""
        ...

    space_gone: bool
    """The process has exec'ed: its address space is another, and needs another tracker."""


class WriteTracker:
    """Tracks one process through its own userfaultfd; holds a descriptor here and nothing in the process."""

    def __init__(self, process: ProcessFacts) -> None:
        """Raises ``NotTrackable``; the process is unharmed then."""
        self._process = process
        if reason := why_untrackable(process.pid):
            raise NotTrackable(reason)
        try:
            self._uffd = injection.open_userfaultfd(process.pid)
        except NotTraceable as error:
            raise NotTrackable(str(error)) from error
        try:
            kernel.uffd_api(self._uffd, kernel.UFFD_FEATURE_WP_ASYNC | kernel.UFFD_FEATURE_PAGEFAULT_FLAG_WP)
        except OSError as error:
            os.close(self._uffd)
            raise NotTrackable(f"this kernel has no asynchronous write protection: {error}") from error
        self._registered: Extents = []
        self._unchanged: Extents = []
        self.space_gone = False

    def sift(self, pages: Pages) -> Pages:
        return pages

    def changed(self) -> tuple[Extents, Extents]:
        everything = areas(self._process)
        mine = normalised((area.start, area.end) for area in everything if area.ours)
        with Pagemap(self._process.pid) as pagemap:
            fresh = self._register(everything, subtract(pagemap.content(mine), pagemap.tracked(mine)))
            written = pagemap.take_written(mine)
            tracked = pagemap.tracked(mine)
            content = pagemap.content(mine)
        if why_untrackable(self._process.pid):
            tracked = []
        known = intersect(subtract(subtract(self._unchanged, fresh), written), tracked)
        changed = intersect(subtract(tracked, known), content)
        self._unchanged = union(known, changed)
        return changed, content

    def changed_at_last(self) -> tuple[Extents, Extents]:
        everything = areas(self._process)
        mine = normalised((area.start, area.end) for area in everything if area.ours)
        with Pagemap(self._process.pid) as pagemap:
            unwritten = pagemap.unwritten(mine)
            content = pagemap.content(mine)
        if why_untrackable(self._process.pid):
            unwritten = []
        return subtract(content, intersect(self._unchanged, unwritten)), content

    def lost(self, pages: Extents) -> None:
        self._unchanged = subtract(self._unchanged, pages)

    def release(self) -> None:
        for extent in self._registered:
            try:
                kernel.uffd_unregister(self._uffd, extent)
            except OSError:
                continue  # unmapped meanwhile, or the process is gone; closing does the rest
        os.close(self._uffd)

    def _register(self, everything: list[Area], untracked: Extents) -> Extents:
        """Put mappings with untracked content under tracking; the ranges that are new, to be sent whole."""
        wanted = [area for area in everything if area.ours and intersect(untracked, [(area.start, area.end)])]
        if not wanted:
            return []
        try:
            maps = os.open(f"/proc/{self._process.pid}/maps", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise ProcessLookupError(errno.ESRCH, f"process {self._process.pid} is gone") from error
        try:
            fresh = [(area.start, area.end) for area in wanted if self._register_one(maps, area)]
        finally:
            os.close(maps)
        self._registered = union(self._registered, fresh)
        return normalised(fresh)

    def _register_one(self, maps: int, area: Area) -> bool:
        extent = (area.start, area.end)
        if not _is_mapping_still(maps, extent):
            return False  # a later round will see what became of it
        try:
            kernel.uffd_register(self._uffd, extent, kernel.UFFDIO_REGISTER_MODE_WP)
        except OSError as error:
            if error.errno in _GONE:
                self.space_gone = True
            elif error.errno not in _NOT_REGISTRABLE:
                raise
            return False
        return True


def _is_mapping_still(maps: int, extent: Extent) -> bool:
    """Whether this is one mapping, now: registering a part of one cuts it in two, and a later mremap over both fails."""
    try:
        return kernel.mapping_at(maps, extent[0]) == extent
    except OSError as error:
        if error.errno in {errno.ENOTTY, errno.EINVAL}:
            return True  # an older kernel cannot be asked so quickly
        if error.errno == errno.ESRCH:
            return False
        raise


class Whole:
    """Tracks nothing: all of the process's memory counts as changed. For one first met when it is frozen."""

    space_gone = False

    def __init__(self, process: ProcessFacts) -> None:
        self._process = process

    def changed(self) -> tuple[Extents, Extents]:
        mine = ours(self._process)
        with Pagemap(self._process.pid) as pagemap:
            content = pagemap.content(mine)
        return content, content

    changed_at_last = changed

    def sift(self, pages: Pages) -> Pages:
        return pages

    def lost(self, pages: Extents) -> None:
        return

    def release(self) -> None:
        return


def why_untrackable(pid: int) -> str:
    """What the process holds that writes memory past the kernel's bit; empty when there is nothing."""
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as lines:
            if any("/[aio]" in line for line in lines):
                return f"process {pid} uses asynchronous I/O"
        for name in os.listdir(f"/proc/{pid}/fd"):
            if reason := _why_descriptor(pid, name):
                return reason
    except OSError:
        return f"process {pid} is gone"
    return ""


def _why_descriptor(pid: int, name: str) -> str:
    try:
        link = os.readlink(f"/proc/{pid}/fd/{name}")
        if link == "anon_inode:[userfaultfd]":
            return f"process {pid} uses userfaultfd itself"
        if link == "anon_inode:[io_uring]":
            return f"process {pid} uses io_uring"
        if not link.startswith("/"):
            return ""
        with open(f"/proc/{pid}/fdinfo/{name}", encoding="ascii", errors="replace") as text:
            for line in text:
                if line.startswith("flags:") and int(line.split()[1], 8) & os.O_DIRECT:
                    return f"process {pid} reads with O_DIRECT: {link}"
    except OSError:
        return ""
    return ""
