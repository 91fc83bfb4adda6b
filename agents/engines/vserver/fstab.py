"""PURE. The mounts of a guest (`fstab`, `fstab.local`, `fstab.remote`): read, and sources rewritten in place.

Rule: only the changed field of a line changes; blanks, comments and unknown lines stay byte for byte.
Facts: sources are host paths, targets are below the guest's root (util-vserver configuration reference).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

FILES = ("fstab", "fstab.local", "fstab.remote")
VIRTUAL = frozenset({"proc", "tmpfs", "devpts", "sysfs", "ramfs", "none", "cgroup", "mqueue"})
REMOTE = frozenset({"nfs", "nfs4", "cifs", "smbfs", "ceph", "glusterfs"})
_LINE = re.compile(rb"^(?P<before>[ \t]*)(?P<source>[^ \t#][^ \t]*)(?P<after>[ \t]+.*)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of a guest's fstab."""

    source: str
    target: str
    """Path inside the guest."""
    kind: str
    options: tuple[str, ...]
    remote: bool = False
    """Mounted from within the guest's network context."""

    @property
    def bind(self) -> bool:
        """Whether it is a host directory bound into the guest."""
        return any(option in ("bind", "rbind") for option in self.options)

    @property
    def host_path(self) -> str | None:
        """The host's directory, file or device that must be there; None for what has no host source."""
        if self.kind in VIRTUAL and not self.bind:
            return None
        return self.source if self.source.startswith("/") else None

    @property
    def network(self) -> bool:
        """Whether its source is another machine."""
        return self.kind in REMOTE

    @property
    def is_root(self) -> bool:
        """Whether it is the guest's root itself."""
        return self.target == "/"


def mounts(content: bytes, *, remote: bool = False) -> tuple[Mount, ...]:
    """The entries of one fstab, in order."""
    found = []
    for line in content.decode("utf-8", "surrogateescape").splitlines():
        words = line.split()
        if len(words) < 2 or words[0].startswith("#"):
            continue
        kind = words[2] if len(words) > 2 else "auto"
        options = tuple(words[3].split(",")) if len(words) > 3 else ("defaults",)
        found.append(Mount(_unescape(words[0]), _unescape(words[1]), kind, options, remote))
    return tuple(found)


def rewritten(content: bytes, source: Callable[[str], str]) -> bytes:
    """The same file with each entry's source passed through `source`."""
    return b"".join(_line(line, source) for line in content.splitlines(keepends=True))


def _line(line: bytes, source: Callable[[str], str]) -> bytes:
    match = _LINE.match(line)
    if match is None:
        return line
    old = _unescape(match["source"].decode("utf-8", "surrogateescape"))
    new = source(old)
    if new == old:
        return line
    return match["before"] + _escape(new).encode("utf-8", "surrogateescape") + match["after"]


def _unescape(word: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), word)


def _escape(word: str) -> str:
    return re.sub(r"[ \t\n\\#]", lambda match: f"\\{ord(match[0]):03o}", word)
