"""Where the kernel does not tell what changed: a walk of the tree on the source alone, by inode and time of change (ctime).

That time cannot be set by a program, and moves with content, names and attributes alike. Rules: a file whose time is not older than
the last walk's beginning is listed again, for it may have been written to once more in the same tick of the clock; and before
every walk but the last the file system is synced, so that from then on the first write through a mapping to any page moves the
time. Nothing is written in place: what names a file had between two walks nobody knows.
"""

import contextlib
import ctypes
import os
import stat
import time
from collections.abc import Iterator

from agents.transfer.changes.listing import Listing, Names, add_links, entries, first_gone

COARSE_NS = 2_000_000_000
"""A file system's clock may be so coarse (ext3: one second)."""
_libc = ctypes.CDLL(None, use_errno=True)


State = tuple[int, int, bool]
"""Of one path, at a walk: inode, time of change in nanoseconds, whether it is a directory. A plain tuple: there may be millions."""


class Scan:
    """What changed below a root between walks; the first is made here."""

    def __init__(self, root: bytes, names: Names) -> None:
        self._root, self._names = root, names
        names.missed = True
        self._known: dict[bytes, State] = {}
        self._doubtful_ns = 0
        self.take(last=False)

    def take(self, *, last: bool) -> Listing:
        """The paths, relative to the root, that may be others than at the walk before. `last`: nobody writes any more."""
        doubtful_ns, self._doubtful_ns = self._doubtful_ns, time.time_ns() - COARSE_NS
        if not last:
            self._sync()
        before, self._known = self._known, {}
        result = Listing()
        for path, found in self._walk():
            state = (found.st_ino, found.st_ctime_ns, stat.S_ISDIR(found.st_mode))
            self._known[path] = state
            if before.get(path) != state or found.st_ctime_ns >= doubtful_ns:
                self._names.note(found.st_ino, path)
                _add(result, path, found, before.get(path))
        for path in before.keys() - self._known.keys():
            result.paths.add(first_gone(self._root, path))
        add_links(result, self._names)
        return result

    def _walk(self) -> Iterator[tuple[bytes, os.stat_result]]:
        """The root, and everything below it."""
        yield b".", os.lstat(self._root)
        for path, entry in entries(self._root):
            with contextlib.suppress(FileNotFoundError):
                yield path, entry.stat(follow_symlinks=False)

    def _sync(self) -> None:
        fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _libc.syncfs(fd)
        finally:
            os.close(fd)


def _add(result: Listing, path: bytes, found: os.stat_result, before: State | None) -> None:
    """A directory that is another than before, or new, with a slash: whatever else had its name at the target goes."""
    directory = stat.S_ISDIR(found.st_mode)
    came = before is None or before[0] != found.st_ino or before[2] != directory
    result.paths.add(path + b"/" if came and directory and path != b"." else path)
    if stat.S_ISREG(found.st_mode):
        result.written.add(found.st_ino)
        if found.st_nlink > 1:
            result.linked.append(found)
