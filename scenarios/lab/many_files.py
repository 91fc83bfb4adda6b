"""Makes a tree of files that are easily lost or changed on the way, and lists such a tree exactly.

Run on a host: `python3 - make DIRECTORY COUNT` and `python3 - list DIRECTORY`, this file as standard input. Rule: nothing but
the standard library; the tree is the same for the same COUNT, times to the nanosecond included; a list says everything that a
program can see of a file, so that two equal lists are two equal trees.
"""

import hashlib
import os
import socket
import stat
import struct
import sys
from collections.abc import Callable, Iterator

PER_DIRECTORY = 200
SPARSE_BYTES = 1 << 20
NOBODY = 65534
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)
"""A version 2 security.capability: cap_net_bind_service, effective."""
ACCESS_LIST = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, rights, who)
    for tag, rights, who in (
        (1, 6, 0xFFFFFFFF),
        (2, 4, NOBODY),
        (4, 4, 0xFFFFFFFF),
        (16, 4, 0xFFFFFFFF),
        (32, 0, 0xFFFFFFFF),
    )
)
"""A POSIX ACL as the kernel takes it: rw for the owner, r for one more user, r for the group, nothing for others."""


def write(path: bytes, content: bytes) -> None:
    """A file."""
    with open(path, "wb") as file:
        file.write(content)


def sparse(path: bytes, content: bytes) -> None:
    """A hole, some data, a hole."""
    with open(path, "wb") as file:
        file.seek(SPARSE_BYTES // 2)
        file.write(content)
        file.truncate(SPARSE_BYTES)


def listening(path: bytes, _: bytes) -> None:
    """A socket's name, which nobody listens at any more."""
    here = os.open(os.path.dirname(path), os.O_RDONLY)
    try:  # by its directory: a socket's path may have 107 bytes
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(b"/proc/self/fd/%d/%s" % (here, os.path.basename(path)))
    finally:
        os.close(here)


def with_attribute(name: str, value: bytes) -> Callable[[bytes, bytes], None]:
    """A file with an extended attribute."""

    def make(path: bytes, content: bytes) -> None:
        write(path, content)
        os.setxattr(path, name, value)

    return make


def with_mode(mode: int, uid: int = 0, gid: int = 0) -> Callable[[bytes, bytes], None]:
    """A file with a mode and an owner."""

    def make(path: bytes, content: bytes) -> None:
        write(path, content)
        os.chown(path, uid, gid)
        os.chmod(path, mode)

    return make


ODD: dict[int, tuple[bytes, Callable[[bytes, bytes], None]]] = {
    1: (b"link-%d", lambda path, content: os.symlink(b"../" + content[:40].hex().encode(), path)),
    3: (b"fifo-%d", lambda path, _: os.mkfifo(path)),
    4: (b"device-%d", lambda path, _: os.mknod(path, stat.S_IFCHR | 0o620, os.makedev(1, 3))),
    5: (b"block-%d", lambda path, _: os.mknod(path, stat.S_IFBLK | 0o660, os.makedev(7, 200))),
    6: (b"sparse-%d", sparse),
    7: (b"new\nline-%d", write),
    8: (b"-rf --delete %d", write),
    9: (b"not-utf-8-\xff\xfe\x80-%d", write),
    10: (b" spaces %d ", write),
    11: (b"glob*?[a-z]{b}\\%d", write),
    12: (b"quote'\"$(id)`id`%d", write),
    13: (b"empty-%d", lambda path, _: write(path, b"")),
    14: (b"attribute-%d", with_attribute("user.origin", bytes(range(256)))),
    15: (b"acl-%d", with_attribute("system.posix_acl_access", ACCESS_LIST)),
    16: (b"capability-%d", with_attribute("security.capability", CAPABILITY)),
    17: (b"setuid-%d", with_mode(0o6755)),
    18: (b"owner-%d", with_mode(0o400, 100033, 4_000_000_000)),
    19: (b"socket-%d", listening),
    20: (b"unreadable-%d", with_mode(0)),
    21: (b"\x01control\x7f%d", write),
    22: (b"long-" + b"n" * 240 + b"-%d", write),
}
"""By the last two digits of a file's number: its name and how it is made. Those ending in 02 are hard links."""


def make(top: bytes, count: int) -> None:
    """The tree; `count` names of files, directories not counted."""
    for number in range(count):
        directory = os.path.join(top, b"d%04d" % (number // PER_DIRECTORY))
        if number % PER_DIRECTORY == 0:
            os.makedirs(directory)
        _one(directory, number)
    for directory, _, names in os.walk(top, topdown=False):
        for name in [*names, b"."]:
            path = os.path.join(directory, name)
            when = 1_000_000_000_000_000_000 + int.from_bytes(hashlib.sha256(path).digest()[:7], "big")
            os.utime(path, ns=(when, when), follow_symlinks=False)


def _one(directory: bytes, number: int) -> None:
    content = hashlib.sha512(b"%d" % number).digest() * (1 + number % 30)
    kind = number % 100
    if kind == 2:
        os.link(os.path.join(directory, b"plain-%d" % (number - 2)), os.path.join(directory, b"again-%d" % number))
        return
    name, way = ODD.get(kind, (b"plain-%d", write))
    way(os.path.join(directory, name.replace(b"%d", b"%d" % number)), content)


def listed(top: bytes) -> Iterator[str]:
    """A line for everything below, in the order of their names: mode, owner, device, time, hard links, name, its first name,
    content, attributes."""
    first: dict[tuple[int, int], bytes] = {}
    for directory, inner, names in os.walk(top):
        inner.sort()
        for name in [
            b".",
            *sorted([*names, *(each for each in inner if os.path.islink(os.path.join(directory, each)))]),
        ]:
            path = os.path.join(directory, name)
            seen = os.lstat(path)
            same = first.setdefault((seen.st_dev, seen.st_ino), path)
            yield " ".join(
                (
                    f"{seen.st_mode:o} {seen.st_uid}:{seen.st_gid} {seen.st_rdev} {seen.st_mtime_ns} {seen.st_nlink}",
                    f"{os.path.relpath(path, top)!r} as {os.path.relpath(same, top)!r}",
                    _content(path, seen),
                    _attributes(path),
                )
            )


def _content(path: bytes, seen: os.stat_result) -> str:
    if stat.S_ISLNK(seen.st_mode):
        return repr(os.readlink(path))
    if not stat.S_ISREG(seen.st_mode):
        return "-"
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    holes = "with holes" if seen.st_blocks * 512 < seen.st_size // 2 else "whole"
    return f"{seen.st_size} bytes {holes} {digest}"


def _attributes(path: bytes) -> str:
    return " ".join(
        f"{name}={os.getxattr(path, name, follow_symlinks=False).hex()}"
        for name in sorted(os.listxattr(path, follow_symlinks=False))
        if not name.startswith("trusted.overlay.")
    )


def main() -> None:
    """See the head of this file."""
    if sys.argv[1] == "make":
        make(os.fsencode(sys.argv[2]), int(sys.argv[3]))
    else:
        for line in listed(os.fsencode(sys.argv[2])):
            print(line)


if __name__ == "__main__":
    main()
