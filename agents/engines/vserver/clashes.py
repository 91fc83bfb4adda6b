"""PURE. What on the target is already taken, and what a guest needs that the target does not have.

Rule: every clash is found before anything stops. The loud one (context id: `start` ends with 254) and the silent ones
(network context id: the guest joins another's addresses; tag; shared lock name; label) count the same.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from agents.engines.vserver.guest import LABEL_MAX, Guest


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A guest of the target, running or not."""

    name: str
    context: int | None
    nid: int | None
    tag: int | None
    addresses: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Here:
    """The target as seen now."""

    neighbours: tuple[Neighbour, ...] = ()
    contexts: frozenset[int] = frozenset()
    """Of the kernel, whoever made them."""
    networks: frozenset[int] = frozenset()
    devices: frozenset[str] = frozenset()
    addresses: frozenset[str] = frozenset()
    missing_paths: frozenset[str] = frozenset()
    """Of the paths the guest's mounts need."""
    missing_kinds: frozenset[str] = frozenset()
    """Of the file system types the guest's mounts need."""
    known_words: tuple[tuple[str, frozenset[str]], ...] = ()
    """File of capabilities or flags -> names this util-vserver knows; no entry: not known, not checked."""
    tagging: bool = False
    network_v2: bool = True
    dynamic_contexts: bool = False


@dataclass(frozen=True, slots=True)
class Clash:
    """One reason why the guest cannot come: a stable name, evidence and remedy."""

    name: str
    what: str
    remedy: str
    waivable: bool = False
    """Whether a person may go on regardless: the worst that follows is a start that fails and is undone."""

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"


def clashes(guest: Guest, here: Here) -> tuple[Clash, ...]:
    """All reasons at once; empty when there is none."""
    found = (_problems(guest), _ids(guest, here), _names(guest, here), _network(guest, here), _needs(guest, here))
    return tuple(clash for group in found for clash in group)


def lock_name(directory: str) -> str:
    """What the tools make of a configuration directory's path for the name of its start-up lock."""
    return re.sub(r"[^A-Za-z0-9]", "", directory)


def _problems(guest: Guest) -> Iterator[Clash]:
    if guest.legacy:
        yield Clash("legacy", f"{guest.name} is a legacy guest, which other tools drive", "convert it first")
    for problem in guest.problems:
        yield Clash("configuration", problem, "correct the configuration on the source")


def _ids(guest: Guest, here: Here) -> Iterator[Clash]:
    another = f"ask for another: guests.{guest.name}.context in /etc/migrator/vserver.toml of the target"
    others = [neighbour for neighbour in here.neighbours if neighbour.name != guest.name]
    if guest.context is None and not here.dynamic_contexts:
        yield Clash("no-context-id", f"{guest.name} has no static context id and this kernel gives none", another)
    for name, kind, wanted, taken in (
        ("context-id", "context id", guest.context, {other.context: other.name for other in others}),
        ("network-context-id", "network context id", guest.nid, {other.nid: other.name for other in others}),
        ("file-tag", "file tag", guest.file_tag, {other.tag: other.name for other in others}),
    ):
        if wanted is not None and wanted in taken:
            yield Clash(name, f"{kind} {wanted} belongs to guest {taken[wanted]} here", another)
        elif wanted is not None and wanted in {"context id": here.contexts, "network context id": here.networks}.get(
            kind, frozenset()
        ):
            yield Clash(name, f"{kind} {wanted} is in use in this kernel", another)


def _names(guest: Guest, here: Here) -> Iterator[Clash]:
    own = lock_name(guest.directory)
    for other in here.neighbours:
        if other.name == guest.name:
            yield Clash("ve-exists", f"a guest named {guest.name} is already configured here", "rename or remove it")
        elif lock_name(f"{guest.directory.rpartition('/')[0]}/{other.name}") == own:
            yield Clash("lock-name", f"{guest.name} and {other.name} share one start-up lock", "rename one of them")


def _network(guest: Guest, here: Here) -> Iterator[Clash]:
    labels = {label: other.name for other in here.neighbours for label in other.labels if other.name != guest.name}
    owners = {ip: other.name for other in here.neighbours for ip in other.addresses if other.name != guest.name}
    for address in guest.addresses:
        if address.device and address.device not in here.devices and not address.indirect:
            yield Clash(
                "device",
                f"{address.ip} is on device {address.device}, which is not here",
                f"map it (interface:{address.device}) or create it",
            )
        if address.ip in owners:
            yield Clash("address-taken", f"{address.ip} is configured for guest {owners[address.ip]} here", "free it")
        elif address.ip in here.addresses:
            yield Clash("address-taken", f"{address.ip} is already on this host", "remove it there first")
        if len(address.full_label) > LABEL_MAX:
            yield Clash(
                "label",
                f"label {address.full_label} has more than {LABEL_MAX} characters",
                f"map it (label:{address.label})",
            )
        elif address.full_label in labels:
            yield Clash(
                "label",
                f"label {address.full_label} is guest {labels[address.full_label]}'s",
                f"map it (label:{address.label})",
            )
        if address.version == 6 and not here.network_v2:
            what = f"{address.ip}: this kernel has no IPv6 for guests"
            yield Clash("ipv6", what, "remove the address or take a newer kernel")


def _needs(guest: Guest, here: Here) -> Iterator[Clash]:
    for mount in guest.mounts:
        if mount.host_path in here.missing_paths:
            yield Clash(
                "mount-source",
                f"{mount.host_path}, mounted at {mount.target}, is not on this host",
                f"create it, map it (directory:{mount.host_path}) or let it move along (carry:{mount.host_path})",
            )
        if not mount.bind and mount.kind in here.missing_kinds:
            what = f"{mount.target} is of type {mount.kind}, which this kernel has not"
            yield Clash("file-system-type", what, f"modprobe {mount.kind}")
    known = dict(here.known_words)
    for file, words in guest.words:
        unknown = [word for word in words if file in known and word.lstrip("~!").lower() not in known[file]]
        if unknown:
            what = f"{file}: {', '.join(unknown)} is unknown to the tools here"
            yield Clash("capability", what, "remove it or update util-vserver", waivable=True)
    for limit in guest.disk_limits:
        if not here.tagging:
            yield Clash(
                "tagging",
                f"a disk limit on {limit.directory} needs a file system that tags files, and the one here does not",
                "mount it with `tag`, or waive it and move without the limit",
                waivable=True,
            )
            break
    for limit in guest.disk_limits:
        if limit.directory in here.missing_paths:
            what = f"disk limit on {limit.directory}, which is not here"
            yield Clash("limit-directory", what, f"map it (directory:{limit.directory})")
