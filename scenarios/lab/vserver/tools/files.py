"""File tags and attributes that only a VServer file system keeps.

Rule: kept beside the files, by inode and birth time, so that hard links share them and no copy carries them: rsync to
another host loses them, as it does in reality. A file that a guest made while it ran has that guest's tag; one made by
the host has tag 0 (told apart by time: what appears below a root while its guest runs is the guest's). Nothing is
enforced: an immutable file can be written here.
"""

import ctypes
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

DATABASE = Path("/var/lib/vserver-emulation/files.sqlite")
FLAGS = ("barrier", "iunlink", "immutable", "cow")
AT_FDCWD, AT_SYMLINK_NOFOLLOW = -100, 0x100
STATX_INO, STATX_BTIME = 0x100, 0x800


class _Timestamp(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_uint32), ("reserved", ctypes.c_int32))


class _Statx(ctypes.Structure):
    """struct statx, statx(2)."""

    _fields_ = (
        ("mask", ctypes.c_uint32),
        ("block_size", ctypes.c_uint32),
        ("attributes", ctypes.c_uint64),
        ("links", ctypes.c_uint32),
        ("uid", ctypes.c_uint32),
        ("gid", ctypes.c_uint32),
        ("mode", ctypes.c_uint16),
        ("spare", ctypes.c_uint16),
        ("inode", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("blocks", ctypes.c_uint64),
        ("attributes_mask", ctypes.c_uint64),
        ("accessed", _Timestamp),
        ("born", _Timestamp),
        ("rest", ctypes.c_uint8 * 160),
    )


_LIBC = ctypes.CDLL(None, use_errno=True)


def identity(path: bytes) -> tuple[int, int]:
    """(inode, birth in ns) of a file, not following a link. Raises OSError."""
    found = _Statx()
    if _LIBC.statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_INO | STATX_BTIME, ctypes.byref(found)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fsdecode(path))
    return found.inode, found.born.seconds * 10**9 + found.born.nanoseconds


class Files:
    """What is known of files on this host."""

    def __init__(self) -> None:
        DATABASE.parent.mkdir(parents=True, exist_ok=True)
        self._sql = sqlite3.connect(DATABASE, timeout=60)
        # A host here loses its processes and never what its kernel has taken: a sync per file would cost ms and prove nothing.
        self._sql.execute("pragma synchronous = off")
        self._sql.executescript(
            "create table if not exists tags (inode integer, born integer, tag integer, primary key (inode, born));"
            "create table if not exists flags (inode integer, born integer, flags integer, primary key (inode, born));"
            "create table if not exists runs (root text, tag integer, began integer, ended integer);"
        )

    def tag(self, path: bytes) -> int:
        """Tag of a file. Raises OSError."""
        inode, born = identity(path)
        row = self._sql.execute("select tag from tags where inode = ? and born = ?", (inode, born)).fetchone()
        if row is not None:
            return int(row[0])
        at = os.fsdecode(os.path.abspath(path)) + "/"
        for root, tag, began, ended in self._sql.execute("select root, tag, began, ended from runs"):
            if at.startswith(f"{root}/") and began <= born <= (ended or born):
                return int(tag)
        return 0

    def set_tags(self, paths: Iterator[bytes], tag: int) -> list[OSError]:
        """Tag files; what could not be."""
        failed = []
        with self._sql:
            for path in paths:
                try:
                    self._sql.execute("insert or replace into tags values (?, ?, ?)", (*identity(path), tag))
                except OSError as error:
                    failed.append(error)
        return failed

    def flags(self, path: bytes) -> set[str]:
        """Attributes of a file. Raises OSError."""
        row = self._sql.execute("select flags from flags where inode = ? and born = ?", identity(path)).fetchone()
        bits = int(row[0]) if row else 0
        return {name for number, name in enumerate(FLAGS) if bits & 1 << number}

    def set_flags(self, path: bytes, flags: set[str]) -> None:
        """Set exactly these. Raises OSError."""
        if flags == self.flags(path):
            return
        bits = sum(1 << FLAGS.index(flag) for flag in flags)
        with self._sql:
            self._sql.execute("insert or replace into flags values (?, ?, ?)", (*identity(path), bits))

    def began(self, root: str, tag: int) -> None:
        """From now on, files made below `root` are the guest's."""
        with self._sql:
            self._sql.execute("insert into runs values (?, ?, ?, 0)", (os.path.realpath(root), tag, time.time_ns()))

    def ended(self, root: str) -> None:
        """No longer."""
        with self._sql:
            self._sql.execute(
                "update runs set ended = ? where root = ? and ended = 0", (time.time_ns(), os.path.realpath(root))
            )


def walk(path: bytes, *, recursive: bool) -> Iterator[bytes]:
    """A file, and all below it on the same file system."""
    yield path
    if not recursive or os.path.islink(path) or not os.path.isdir(path):
        return
    device = os.lstat(path).st_dev
    for directory, directories, names in os.walk(path):
        yield from (os.path.join(directory, name) for name in [*directories, *names])
        directories[:] = [name for name in directories if os.lstat(os.path.join(directory, name)).st_dev == device]
