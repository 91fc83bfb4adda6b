"""A configuration directory between disk and value, and small notes of our own that must survive a crash.

Rule: what is written is on disk (file and directory) before the call returns; a file is replaced whole; what is read is
read without following a link.
"""

import contextlib
import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

from agents.engines.vserver.tree import Directory, File, Link, Node, Tree

SIZE_MAX = 1 << 20
"""A file of a configuration is a line or a list; what is larger is none of it, and not carried in messages."""


def read(directory: Path) -> Tree:
    """Everything in the directory; sockets, fifos, devices and huge files are left out. Raises OSError."""
    nodes: dict[str, Node] = {}
    for parent, directories, files in os.walk(directory):
        for name in (*directories, *files):
            path = Path(parent) / name
            if (node := _node(path)) is not None:
                nodes[str(path.relative_to(directory))] = node
    return Tree(nodes)


def _node(path: Path) -> Node | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(found.st_mode):
        return Link(os.readlink(path), found.st_uid, found.st_gid)
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_ISDIR(found.st_mode):
        return Directory(mode, found.st_uid, found.st_gid)
    if stat.S_ISREG(found.st_mode) and found.st_size <= SIZE_MAX:
        return File(path.read_bytes(), mode, found.st_uid, found.st_gid)
    return None


def write(directory: Path, tree: Tree) -> None:
    """Make the directory hold this tree and nothing else: beside it first, then renamed into its place."""
    fresh = directory.with_name(f".{directory.name}.migrator")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True, mode=0o755)
    for path in sorted(tree.nodes):
        _make(fresh / path, tree.nodes[path])
    if directory.exists():
        shutil.rmtree(directory)
    fresh.rename(directory)
    sync(directory.parent)


def _make(path: Path, node: Node) -> None:
    match node:
        case Directory(mode=mode):
            path.mkdir(exist_ok=True)
            path.chmod(mode)
        case File(content=content, mode=mode):
            with path.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            path.chmod(mode)
        case Link(target=target):
            path.symlink_to(target)
    os.chown(path, node.uid, node.gid, follow_symlinks=False)


def put(path: Path, content: bytes) -> None:
    """Replace one file, durably; directories above it are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.migrator")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    sync(path.parent)


def remove(path: Path) -> None:
    """Remove one file, durably; not there: nothing."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        sync(path.parent)


def sync(directory: Path) -> None:
    """The directory's entries on disk."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def put_note(path: Path, value: Any) -> None:
    """A JSON value, durably. Names that are no UTF-8 survive as escapes."""
    put(path, json.dumps(value, indent=1).encode("ascii") + b"\n")


def note(path: Path) -> Any:
    """The value; None when there is none."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
