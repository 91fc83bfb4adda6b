"""PURE. A guest's configuration directory as a value: every file, link and directory, byte for byte.

Rule: what no one asked to change comes out exactly as it went in; names and contents are bytes, not text, at heart
(a name that is no UTF-8 is kept by surrogateescape).
"""

import io
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath


@dataclass(frozen=True, slots=True)
class File:
    """A regular file."""

    content: bytes
    mode: int = 0o644
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link; its target may dangle and is never followed."""

    target: str
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory."""

    mode: int = 0o755
    uid: int = 0
    gid: int = 0


Node = File | Link | Directory


@dataclass(frozen=True, slots=True)
class Tree:
    """Path relative to the configuration directory -> what is there. The directory itself is not in it."""

    nodes: Mapping[str, Node]

    def has(self, path: str) -> bool:
        """Whether anything is at `path`."""
        return path in self.nodes

    def value(self, path: str) -> str | None:
        """First line of a one-value file without blanks around it; None when there is no such file."""
        node = self.nodes.get(path)
        if not isinstance(node, File):
            return None
        return (_text(node.content).splitlines() or [""])[0].strip()

    def lines(self, path: str) -> tuple[str, ...]:
        """Lines of a list file without blanks, empty ones and comments; empty when there is no such file."""
        node = self.nodes.get(path)
        if not isinstance(node, File):
            return ()
        stripped = (line.strip() for line in _text(node.content).splitlines())
        return tuple(line for line in stripped if line and not line.startswith("#"))

    def link(self, path: str) -> str | None:
        """Target of a symbolic link; None when there is none."""
        node = self.nodes.get(path)
        return node.target if isinstance(node, Link) else None

    def under(self, directory: str) -> Iterator[str]:
        """Names directly below `directory`; numbers in numerical order first, as the tools walk them."""
        depth = len(PurePosixPath(directory).parts)
        names = {PurePosixPath(path).parts[depth] for path in self.nodes if path.startswith(f"{directory}/")}
        return iter(sorted(names, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name)))

    # --- changed copies ----------------------------------------------------------------------------

    def with_value(self, path: str, value: str) -> "Tree":
        """First line replaced, the rest kept; a new file gets a final newline and its parent directories."""
        node = self.nodes.get(path)
        if isinstance(node, File):
            _, newline, rest = node.content.partition(b"\n")
            return self.with_node(path, replace(node, content=_bytes(value) + (newline or b"") + rest))
        return self.with_node(path, File(_bytes(value) + b"\n"))

    def with_content(self, path: str, content: bytes) -> "Tree":
        """Whole content replaced; attributes kept."""
        node = self.nodes.get(path)
        return self.with_node(path, replace(node, content=content) if isinstance(node, File) else File(content))

    def with_link(self, path: str, target: str) -> "Tree":
        """A link there, whatever was there before: a `run` that was copied as a file becomes a link again."""
        return self.with_node(path, Link(target))

    def with_node(self, path: str, node: Node) -> "Tree":
        """Any node there, with directories above it."""
        parents = [str(parent) for parent in PurePosixPath(path).parents if str(parent) != "."]
        made = {parent: Directory() for parent in parents if parent not in self.nodes}
        return Tree({**self.nodes, **made, path: node})

    def without(self, path: str) -> "Tree":
        """Nothing at or below `path`."""
        kept = {at: node for at, node in self.nodes.items() if at != path and not at.startswith(f"{path}/")}
        return Tree(kept)

    def moved(self, source: str, target: str) -> "Tree":
        """What is at or below `source` at `target` instead."""
        return Tree({_moved(path, source, target): node for path, node in self.nodes.items()})

    # --- bytes -------------------------------------------------------------------------------------

    def pack(self) -> bytes:
        """As a tar archive: the same tree gives the same bytes, and an operator can look into it."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for path in sorted(self.nodes):
                info, content = _member(path, self.nodes[path])
                archive.addfile(info, io.BytesIO(content))
        return out.getvalue()


def unpack(data: bytes) -> Tree:
    """The inverse of `Tree.pack`. Raises ValueError for bytes that are not such an archive."""
    nodes: dict[str, Node] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for info in archive:
                nodes[_safe(info.name)] = _node(archive, info)
    except tarfile.TarError as error:
        raise ValueError(f"not a packed configuration directory: {error}") from error
    return Tree(nodes)


def _safe(name: str) -> str:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        raise ValueError(f"a packed configuration directory may not contain {name!r}")
    return name


def _member(path: str, node: Node) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(path)
    info.uid, info.gid = node.uid, node.gid
    match node:
        case File(content=content, mode=mode):
            info.size, info.mode = len(content), mode
            return info, content
        case Link(target=target):
            info.type, info.linkname, info.mode = tarfile.SYMTYPE, target, 0o777
        case Directory(mode=mode):
            info.type, info.mode = tarfile.DIRTYPE, mode
    return info, b""


def _node(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Node:
    if info.isdir():
        return Directory(info.mode, info.uid, info.gid)
    if info.issym():
        return Link(info.linkname, info.uid, info.gid)
    file = archive.extractfile(info) if info.isreg() else None
    if file is None:
        raise ValueError(f"{info.name} is neither file, link nor directory")
    return File(file.read(), info.mode, info.uid, info.gid)


def _moved(path: str, source: str, target: str) -> str:
    if path == source:
        return target
    return f"{target}/{path[len(source) + 1 :]}" if path.startswith(f"{source}/") else path


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
