"""From events to the list of paths that one pass of rsync must look at.

A changed file is listed with every other name it has (hard links move together or not at all), a directory that came or
was renamed with all it holds and with a slash at its end, for the target may have had another of that name, and the directory of
every name that came or went, for its own times. A name that is gone is listed as well: what has it at the target is removed there.

Three kinds of paths are listed. Those that were written to, or came by their name: their content is sent whatever their size and
time say, for a program may set a time back, or write through a mapping that tells of its first write only. Among them those that
may be written in place at the target, which takes a third of the time: files that have had one name, and the same, ever since
the watch began (`Names.is_settled`); any other may share its file at the target with a name that must not change with it. And
large files that are open for writing, or have other attributes, and were not written to: size and time tell of them.
"""

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from agents.transfer.changes.fanotify import CREATE, MOVED_TO, NAME_CHANGED, WRITTEN, Seen, Watch

BLOCK_BYTES = 512
"""Of st_blocks, whatever the file system's own are."""
SMALL_BYTES = 1 << 18
MAPPINGS = "/map_files/"
FILES_INDEXED_MAX = 2_000_000
"""Beyond that the index of names would take more than some 400 MB; hard links then ask for a scan."""


@dataclass(slots=True)
class Listing:
    """What a pass must look at. `scan` says why the whole tree must be looked at instead; empty: the list is complete."""

    paths: set[bytes] = field(default_factory=set)
    scan: str = ""
    linked: list[os.stat_result] = field(default_factory=list)
    """Files with several names, of which one at least is listed."""
    written: set[int] = field(default_factory=set)
    """Inodes of files whose content may be another."""


class Names:
    """Inode -> the names it has below a root, as they were when last seen."""

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._names: dict[int, list[bytes]] = {}
        self._shared: set[int] = set()
        """Inodes that have had more names than one, or not always the same."""
        self._moved: set[bytes] = set()
        """Names that have not always had the same inode."""
        self.complete = True
        self.missed = False
        """Something happened that nobody told of."""

    def walk(self, below: bytes = b"") -> Iterator[bytes]:
        """Every path below a directory of the root, relative; noted on the way. Mount points are not entered."""
        for path, entry in entries(self._root, below):
            self.note(entry.inode(), path)
            yield path

    def note(self, inode: int, path: bytes) -> None:
        """Seen: this name has this inode."""
        if len(self._names) >= FILES_INDEXED_MAX:
            self.complete = False
            return
        known = self._names.setdefault(inode, [])
        if path not in known:
            known.append(path)
        if len(known) > 1:
            self._shared.add(inode)

    def note_moved(self, path: bytes) -> None:
        """This name came, went, or was another file's."""
        self._moved.add(path)

    def note_shared(self, inode: int) -> None:
        """This file got a name, or lost one."""
        self._shared.add(inode)

    def is_settled(self, path: bytes, found: os.stat_result) -> bool:
        """Whether this file has had this name and no other ever since the first walk, and has no holes."""
        return (
            not self.missed
            and found.st_nlink == 1
            and found.st_blocks * BLOCK_BYTES >= found.st_size
            and self._names.get(found.st_ino) == [path]
            and found.st_ino not in self._shared
            and path not in self._moved
        )

    def is_known(self, found: os.stat_result) -> bool:
        """Whether this file has, or had, a name here."""
        return found.st_ino in self._names

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


def entries(root: bytes, below: bytes = b"") -> Iterator[tuple[bytes, os.DirEntry[bytes]]]:
    """Everything below a directory of the root, by its path relative to the root. What goes meanwhile is left out; mount points are
    not entered."""
    device = os.lstat(root).st_dev
    pending = [below]
    while pending:
        directory = pending.pop()
        prefix = directory + b"/" if directory else b""
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            os.scandir(os.path.join(root, directory)) as found,
        ):
            for entry in found:
                yield prefix + entry.name, entry
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_dev == device:
                        pending.append(prefix + entry.name)


def listing(watch: Watch, root: bytes, names: Names, seen: Seen) -> Listing:
    """The paths below root, relative to it, that `seen` speaks of."""
    result = Listing(scan="the kernel lost events" if seen.overflowed else "")
    names.missed |= seen.overflowed
    directories: dict[bytes, bytes | None] = {}
    for (handle, name), mask in seen.changes.items():
        if handle not in directories:
            directories[handle] = below(root, watch.path(handle))
        directory = directories[handle]
        if directory is None:
            continue
        if mask & NAME_CHANGED:
            result.paths.add(directory or b".")
        path = directory if name in (b".", b"") else os.path.join(directory, name)
        _add(result, root, names, path or b".", mask)
    for file, mask in seen.files.items():
        if (found := watch.status(file)) is not None:
            result.linked.append(found)
            if mask & NAME_CHANGED:
                names.note_shared(found.st_ino)
            if mask & WRITTEN:
                result.written.add(found.st_ino)
    add_links(result, names)
    return result


def below(root: bytes, path: bytes | None) -> bytes | None:
    """Relative to root; None when it is elsewhere, or nowhere."""
    if path == root:
        return b""
    if path is None or not path.startswith(root + b"/"):
        return None
    return path[len(root) + 1 :]


def _add(result: Listing, root: bytes, names: Names, path: bytes, mask: int) -> None:
    if mask & NAME_CHANGED:
        names.note_moved(path)
    found = _status(root, path)
    if found is None:
        result.paths.add(first_gone(root, path))
        return
    result.paths.add(path)
    names.note(found.st_ino, path)
    if stat.S_ISDIR(found.st_mode) and mask & (CREATE | MOVED_TO):
        result.paths.add(path + b"/")
        for each in names.walk(path):
            _add_came(result, root, names, each)


def _add_came(result: Listing, root: bytes, names: Names, path: bytes) -> None:
    """It came with a directory."""
    names.note_moved(path)
    found = _status(root, path)
    if found is None:
        return
    if stat.S_ISDIR(found.st_mode):
        result.paths.add(path + b"/")
        return
    result.paths.add(path)
    result.written.add(found.st_ino)
    if found.st_nlink > 1:
        result.linked.append(found)


def _status(root: bytes, path: bytes) -> os.stat_result | None:
    try:
        return os.lstat(os.path.join(root, path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def first_gone(root: bytes, path: bytes) -> bytes:
    """The path that is gone, or the directory above it with which it went."""
    while (above := os.path.dirname(path)) and not _is_directory(os.path.join(root, above)):
        path = above
    return path


def _is_directory(path: bytes) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def add_links(result: Listing, names: Names) -> None:
    """Every name of a file that has several; a name by which it was changed may be gone already."""
    for found in result.linked:
        if not stat.S_ISREG(found.st_mode) or not found.st_nlink:
            continue
        known = names.by_inode(found)
        result.paths.update(known)  # none known: it is elsewhere on the file system
        if known and len(known) != found.st_nlink:
            result.scan = result.scan or f"not all names of {os.fsdecode(known[0])} are known"


def add_held_open(result: Listing, root: bytes, names: Names, pids: Iterable[int]) -> None:
    """Files that processes hold open for writing, or have mapped shared and writable: always listed.

    A write through a mapping is no event, and to a page that is dirty already it does not even change the file's time.
    """
    device = os.lstat(root).st_dev
    for pid in pids:
        for link in _written_by(pid):
            try:
                status = os.stat(link)
            except OSError:
                continue
            if status.st_dev == device:
                result.paths.update(names.by_inode(status))
                if MAPPINGS in link:
                    result.written.add(status.st_ino)


@dataclass(frozen=True, slots=True)
class Lists:
    """The paths of a listing by what is to be done with them."""

    changed: set[bytes]
    in_place: set[bytes]
    kept: set[bytes]


def sorted_out(result: Listing, root: bytes, names: Names) -> Lists:
    """The three kinds. A small file costs less to send than to think about."""
    lists = Lists(set(), set(), set())
    for path in result.paths:
        found = _status(root, path)
        if found is None or not stat.S_ISREG(found.st_mode):
            lists.changed.add(path)
        elif found.st_ino not in result.written and found.st_size > SMALL_BYTES:
            lists.kept.add(path)
        else:
            (lists.in_place if names.is_settled(path, found) else lists.changed).add(path)
    return lists


def _written_by(pid: int) -> Iterator[str]:
    try:
        for number in os.listdir(f"/proc/{pid}/fd"):
            with (
                contextlib.suppress(FileNotFoundError),  # closed meanwhile, by a process that runs
                open(f"/proc/{pid}/fdinfo/{number}", encoding="ascii", errors="replace") as info,
            ):
                flags = next((int(line.split()[1], 8) for line in info if line.startswith("flags:")), 0)
                if flags & os.O_ACCMODE:
                    yield f"/proc/{pid}/fd/{number}"
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as maps:
            for line in maps:
                extent, rights, *_ = line.split(maxsplit=2)
                if rights.startswith("rw") and rights.endswith("s"):
                    yield f"/proc/{pid}{MAPPINGS}{extent}"
    except OSError:
        return  # it ended
