"""fanotify(7) on a whole file system: every change of a name, of content or of attributes, as (directory, name).

The directory is an opaque handle that stays the same when it is renamed; it is made a path only when one is asked for, so
that an event costs next to nothing and a path is true at that moment. Beside the name comes the handle of the file
itself, for a name may be gone again while the file lives on under another. Linux 5.17 and later, CAP_SYS_ADMIN.

A file system tells of everybody on it. What happened elsewhere is forgotten while nobody is waiting (`sift`), so that what is taken
is no more than what changed here.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

_INIT_FLAGS = 0x1 | 0x2 | 0x10 | 0xC00 | 0x200 | 0x1000
"""FAN_CLOEXEC, FAN_NONBLOCK, FAN_UNLIMITED_QUEUE, FAN_REPORT_DIR_FID with FAN_REPORT_NAME, FAN_REPORT_FID,
FAN_REPORT_TARGET_FID (linux/fanotify.h)."""
_INFO_FID, _INFO_DIR_AND_NAME = 1, 2
_INFO = struct.Struct("=BBH")
_MARK_ADD_FILESYSTEM = 0x1 | 0x100
_AT_FDCWD = -100
MODIFY, ATTRIB, CLOSE_WRITE = 0x2, 0x4, 0x8
MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x40, 0x80, 0x100, 0x200
ONDIR, OVERFLOW = 0x40000000, 0x4000
NAME_CHANGED = MOVED_FROM | MOVED_TO | CREATE | DELETE
WRITTEN = MODIFY | CLOSE_WRITE | NAME_CHANGED
"""After any of these the content behind a name may be another, whatever size and time say."""
_WATCHED = MODIFY | ATTRIB | CLOSE_WRITE | NAME_CHANGED | ONDIR
_EVENT = struct.Struct("=IBBHQii")
_HANDLE = struct.Struct("=Ii")
_INFO_BYTES = 12
"""Header of the information record and the file system's id, before the handle."""
_READ_BYTES = 1 << 18
_PATH_MAX_HANDLE = 128
_OPEN_TRIES = 100
"""The kernel says ENOMEM of a directory that is renamed while it looks for the path to it (seen on Linux 6.18, ext4)."""
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fanotify_mark.argtypes = (ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p)


class CannotWatch(Exception):
    """This kernel or file system does not tell; says why."""


@dataclass(slots=True)
class Seen:
    """Everything that has changed since it was last taken."""

    changes: dict[tuple[bytes, bytes], int]
    """(directory, name) -> what happened to it."""
    files: dict[bytes, int]
    """The files themselves -> what happened to them, whatever their names."""
    overflowed: bool = False
    fresh: set[tuple[bytes, bytes]] = field(default_factory=set)
    """Keys of `changes` that have not been sifted."""
    places: dict[bytes, set[bytes]] = field(default_factory=dict)
    """Of those of `files` that have not been sifted: the directories in which something happened to them."""


class Watch:
    """All changes on the file system of a directory, from the moment this is made."""

    def __init__(self, root: Path) -> None:
        """Raises CannotWatch."""
        self.fd = _libc.fanotify_init(_INIT_FLAGS, os.O_RDONLY | os.O_CLOEXEC)
        if self.fd < 0:
            raise CannotWatch(f"fanotify: {os.strerror(ctypes.get_errno())}")
        if _libc.fanotify_mark(self.fd, _MARK_ADD_FILESYSTEM, _WATCHED, _AT_FDCWD, os.fsencode(root)) < 0:
            error = ctypes.get_errno()
            os.close(self.fd)
            raise CannotWatch(f"fanotify on the file system of {root}: {os.strerror(error)}")
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._seen = Seen({}, {})

    def close(self) -> None:
        """Stop."""
        os.close(self.fd)
        os.close(self._root)

    def read(self) -> bool:
        """Take in what the kernel has ready; False: nothing more now."""
        try:
            data = os.read(self.fd, _READ_BYTES)
        except BlockingIOError:
            return False
        at = 0
        while at < len(data):
            length, _, _, header, mask, _, _ = _EVENT.unpack_from(data, at)
            if mask & OVERFLOW:
                self._seen.overflowed = True
            elif length > header:
                self._note(data[at + header : at + length], mask)
            at += length
        return True

    def _note(self, records: bytes, mask: int) -> None:
        seen, directory = self._seen, b""
        while records:
            kind, _, length = _INFO.unpack_from(records)
            handle_bytes, _ = _HANDLE.unpack_from(records, _INFO_BYTES)
            end = _INFO_BYTES + _HANDLE.size + handle_bytes
            handle = records[_INFO_BYTES:end]
            if kind == _INFO_DIR_AND_NAME:
                directory = handle
                key = (handle, records[end:length].split(b"\0", 1)[0])
                seen.changes[key] = seen.changes.get(key, 0) | mask
                seen.fresh.add(key)
            elif kind == _INFO_FID and not mask & ONDIR:
                if handle not in seen.files:
                    seen.places[handle] = set()
                if handle in seen.places:
                    seen.places[handle].add(directory)  # told of before the file
                seen.files[handle] = seen.files.get(handle, 0) | mask
            records = records[length:]

    @property
    def fresh(self) -> int:
        """How many changes have been seen and not sifted."""
        return len(self._seen.fresh)

    def sift(self, is_here: Callable[[bytes], bool], is_known: Callable[[os.stat_result], bool]) -> None:
        """Forget what happened in directories that are elsewhere, or no more; but not to files with several names, or known ones.

        A directory that comes here later tells of that itself.
        """
        seen = self._seen
        here = {
            directory: (path := self.path(directory)) is not None and is_here(path)
            for directory in {directory for directory, _ in seen.fresh}
        }
        for key in seen.fresh:
            if not here[key[0]]:
                del seen.changes[key]
        for file, directories in seen.places.items():
            if not any(here.get(each, True) for each in directories):
                found = self.status(file)
                if found is None or (found.st_nlink == 1 and not is_known(found)):
                    del seen.files[file]
        seen.fresh.clear()
        seen.places.clear()

    def take(self) -> Seen:
        """What has been seen until now, and begin anew."""
        while self.read():
            pass
        seen, self._seen = self._seen, Seen({}, {})
        return seen

    def path(self, directory: bytes) -> bytes | None:
        """Where the directory is now; None when it is no more."""
        fd = self._open(directory)
        if fd is None:
            return None
        try:
            found = os.readlink(f"/proc/self/fd/{fd}".encode())
            return None if found.endswith(b" (deleted)") and not os.path.lexists(found) else found
        finally:
            os.close(fd)

    def status(self, file: bytes) -> os.stat_result | None:
        """The file as it is now; None when it is no more."""
        fd = self._open(file)
        if fd is None:
            return None
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def _open(self, handle: bytes) -> int | None:
        buffer = ctypes.create_string_buffer(handle, max(len(handle), _PATH_MAX_HANDLE))
        error = errno.ENOMEM
        for _ in range(_OPEN_TRIES):
            fd: int = _libc.open_by_handle_at(self._root, buffer, os.O_PATH | os.O_CLOEXEC)
            if fd >= 0:
                return fd
            error = ctypes.get_errno()
            if error == errno.ESTALE:
                return None
            if error != errno.ENOMEM:
                break
        raise CannotWatch(f"open_by_handle_at: {os.strerror(error)}")
