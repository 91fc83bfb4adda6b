"""PURE. Mounts of a running guest that its configuration does not make: made by hand, they are lost when it stops.

Rule: found in the guest's own mount namespace (mountinfo, proc(5)); what the host had when the guest started, and what
its fstab names, is not among them. A bind mount is told by the host's directory, not by the device behind it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agents.engines.vserver.fstab import Mount
from agents.engines.vserver.output import unescape_mount


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of mountinfo."""

    device: str
    root: str
    """Directory of the file system that is mounted."""
    target: str
    kind: str
    source: str
    options: str


def entries(mountinfo: str) -> tuple[Entry, ...]:
    """All lines of a mountinfo text."""
    found = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        words, more = left.split(), right.split()
        if len(words) >= 6 and len(more) >= 2:
            root, target, source = (unescape_mount(word) for word in (words[3], words[4], more[1]))
            found.append(Entry(words[2], root, target, more[0], source, words[5]))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class LiveMount:
    """A mount made by hand."""

    target: str
    """Path inside the guest."""
    source: str
    """The host's directory behind a bind mount, else what was mounted."""
    kind: str
    bind: bool
    options: str

    def argv(self, root: str) -> list[str]:
        """The command that makes it again, in the guest's mount namespace with the host's root."""
        how = ["--bind"] if self.bind else ["-t", self.kind]
        words = [word for word in self.options.split(",") if word in ("ro", "nosuid", "nodev", "noexec")]
        options = ["-o", ",".join(words)] if words else []
        return ["mount", "-n", *how, *options, self.source, f"{root}{self.target}"]


def by_hand(guest: str, host: str, root: str, configured: Iterable[Mount]) -> tuple[LiveMount, ...]:
    """Mounts below `root` in the guest's mountinfo that neither the host's mountinfo nor the configuration has."""
    there = entries(host)
    known = {entry.target for entry in there}
    known |= {f"{root}{mount.target}".rstrip("/") or "/" for mount in configured}
    return tuple(
        _live(entry, there, root)
        for entry in entries(guest)
        if entry.target.startswith(f"{root}/") and entry.target not in known
    )


def missing(guest: str, root: str, configured: Iterable[Mount]) -> tuple[Mount, ...]:
    """Configured mounts that the guest's mountinfo does not have."""
    there = {entry.target for entry in entries(guest)}
    return tuple(
        mount
        for mount in configured
        if "noauto" not in mount.options and mount.target.startswith("/") and not mount.is_root
        if f"{root}{mount.target}".rstrip("/") not in there
    )


def _live(entry: Entry, host: Sequence[Entry], root: str) -> LiveMount:
    target = entry.target.removeprefix(root)
    if directory := _directory(entry, host):
        return LiveMount(target, directory, entry.kind, True, entry.options)
    return LiveMount(target, entry.source, entry.kind, False, entry.options)


def _directory(entry: Entry, host: Sequence[Entry]) -> str:
    """The host's path of what is bound there; empty when the host has that file system mounted nowhere."""
    best = ""
    for each in host:
        if each.device != entry.device:
            continue
        inner = entry.root.removeprefix(each.root.rstrip("/"))
        if inner == entry.root and each.root != "/":
            continue
        path = f"{each.target.rstrip('/')}{inner}".rstrip("/") or "/"
        best = path if not best or len(path) < len(best) else best
    return best


def nested(host: str, root: str) -> tuple[str, ...]:
    """Directories below `root` at which the host has a real file system of its own mounted, shortest first."""
    virtual = {"proc", "sysfs", "tmpfs", "devpts", "ramfs", "cgroup", "cgroup2", "mqueue", "devtmpfs"}
    found = {
        entry.target.removeprefix(root)
        for entry in entries(host)
        if entry.target.startswith(f"{root}/") and entry.kind not in virtual
    }
    return tuple(sorted(found, key=lambda path: (len(path), path)))
