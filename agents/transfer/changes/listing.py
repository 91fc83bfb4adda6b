"""From events to the list of paths that one pass of rsync must look at.

A changed file is listed with every other name it has (hard links move together or not at all), a directory that came or
was renamed with all it holds, and the directory of every name that came or went, for its own times. Of a name that is
gone the directory is listed with a slash at its end: it is to be compared name by name.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from agents.transfer.changes.fanotify import CREATE, MOVED_TO, NAME_CHANGED, Seen, Watch

FILES_INDEXED_MAX = 2_000_000
"""Beyond that the index of names would take more than some 400 MB; hard links then ask for a scan."""


@dataclass(slots=True)
class Listing:
    """What a pass must look at. `scan` says why the whole tree must be looked at instead; empty: the list is complete."""

    paths: set[bytes] = field(default_factory=set)
    scan: str = ""
    linked: list[os.stat_result] = field(default_factory=list)
    """Files with several names, of which one at least is listed."""


class Names:
    """Inode -> the names it has below a root, as they were when last seen."""

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._names: dict[int, list[bytes]] = {}
        self.complete = True

    def walk(self, below: bytes = b"") -> Iterator[bytes]:
        """Every path below a directory of the root, relative; noted on the way. Mount points are not entered."""
        device = os.lstat(self._root).st_dev
        pending = [below]
        while pending:
            directory = pending.pop()
            try:
                entries = list(os.scandir(os.path.join(self._root, directory)))
            except (FileNotFoundError, NotADirectoryError):
                continue
            for entry in entries:
                path = os.path.join(directory, entry.name)
                self.note(entry.inode(), path)
                yield path
                if entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_dev == device:
                    pending.append(path)

    def note(self, inode: int, path: bytes) -> None:
        """Seen: this name has this inode."""
        if len(self._names) >= FILES_INDEXED_MAX:
            self.complete = False
            return
        known = self._names.setdefault(inode, [])
        if path not in known:
            known.append(path)

    def by_inode(self, found: os.stat_result) -> list[bytes]:
        """All names known of a file that are true now."""
        true = [each for each in self._names.get(found.st_ino, ()) if self._is(each, found)]
        self._names[found.st_ino] = true
        return true

    def _is(self, path: bytes, found: os.stat_result) -> bool:
        try:
            now = os.lstat(os.path.join(self._root, path))
        except OSError:
            return False
        return (now.st_dev, now.st_ino) == (found.st_dev, found.st_ino)


def listing(watch: Watch, root: bytes, names: Names, seen: Seen) -> Listing:
    """The paths below root, relative to it, that `seen` speaks of."""
    result = Listing(scan="the kernel lost events" if seen.overflowed else "")
    directories: dict[bytes, bytes | None] = {}
    for (handle, name), mask in seen.changes.items():
        if handle not in directories:
            directories[handle] = _below(root, watch.path(handle))
        directory = directories[handle]
        if directory is None:
            continue
        if mask & NAME_CHANGED:
            result.paths.add(directory or b".")
        path = directory if name in (b".", b"") else os.path.join(directory, name)
        _add(result, root, names, path or b".", mask)
    result.linked += [found for file in seen.files if (found := watch.status(file)) is not None]
    _add_links(result, names)
    return result


def _below(root: bytes, path: bytes | None) -> bytes | None:
    """Relative to root; None when it is elsewhere, or nowhere."""
    if path == root:
        return b""
    if path is None or not path.startswith(root + b"/"):
        return None
    return path[len(root) + 1 :]


def _add(result: Listing, root: bytes, names: Names, path: bytes, mask: int) -> None:
    result.paths.add(path)
    found = _status(root, path)
    if found is None:
        result.paths.discard(path)
        result.paths.add(_nearest(root, path) + b"/")
        return
    names.note(found.st_ino, path)
    if stat.S_ISDIR(found.st_mode) and mask & (CREATE | MOVED_TO):
        came = set(names.walk(path))
        result.paths |= came
        result.linked += [one for each in came if (one := _status(root, each)) is not None and one.st_nlink > 1]


def _status(root: bytes, path: bytes) -> os.stat_result | None:
    try:
        return os.lstat(os.path.join(root, path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _nearest(root: bytes, path: bytes) -> bytes:
    """The directory, still there, from which a path has gone; `.` for the root."""
    while path := os.path.dirname(path):
        if os.path.isdir(os.path.join(root, path)) and not os.path.islink(os.path.join(root, path)):
            return path
    return b"."


def _add_links(result: Listing, names: Names) -> None:
    """Every name of a file that has several; a name by which it was changed may be gone already."""
    for found in result.linked:
        if not stat.S_ISREG(found.st_mode) or not found.st_nlink:
            continue
        known = names.by_inode(found)
        result.paths.update(known)  # none known: it is elsewhere on the file system
        if known and len(known) != found.st_nlink:
            result.scan = result.scan or f"not all names of {os.fsdecode(known[0])} are known"


def held_open(root: bytes, names: Names, pids: Iterable[int]) -> set[bytes]:
    """Files that processes hold open for writing, or have mapped shared and writable: always listed.

    A write through a mapping is no event, and a file that is written to at this moment has told of it perhaps
    before its last page.
    """
    device = os.lstat(root).st_dev
    found: set[bytes] = set()
    for pid in pids:
        for link in _written_by(pid):
            try:
                status = os.stat(link)
            except OSError:
                continue
            if status.st_dev == device:
                found.update(names.by_inode(status))
    return found


def _written_by(pid: int) -> Iterator[str]:
    try:
        for number in os.listdir(f"/proc/{pid}/fd"):
            with open(f"/proc/{pid}/fdinfo/{number}", encoding="ascii", errors="replace") as info:
                flags = next((int(line.split()[1], 8) for line in info if line.startswith("flags:")), 0)
            if flags & os.O_ACCMODE:
                yield f"/proc/{pid}/fd/{number}"
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as maps:
            for line in maps:
                extent, rights, *_ = line.split(maxsplit=2)
                if rights.startswith("rw") and rights.endswith("s"):
                    yield f"/proc/{pid}/map_files/{extent}"
    except OSError:
        return  # it ended
