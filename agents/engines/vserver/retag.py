"""PURE. What has to be done to a copied root that rsync could not carry: tags, barrier, attributes, unification.

Rule: a file made by the host's root has tag 0, so disk limits do not count it, and one with another guest's tag is
refused inside: on a file system that tags, every file gets the guest's tag; on one that does not, nothing is tried.
Facts: setattr, showattr, chxid of util-vserver; documentation of the VServer kernel's file attributes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agents.engines.vserver.output import Marked

ARGUMENTS_MAX_BYTES = 100_000


@dataclass(frozen=True, slots=True)
class Target:
    """What of this the target can do."""

    tagging: bool
    cow: bool
    """The kernel breaks links of immutable files when they are written."""
    pool: bool
    """There is a pool for unified files."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Commands in order, and what is given up."""

    commands: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def plan(name: str, root: str, tag: int | None, marked: Iterable[Marked], *, unified: bool, can: Target) -> Plan:
    """What to run on the target once its copy of the root is complete."""
    marks, notes = list(marked), []
    parent = root.rstrip("/").rpartition("/")[0] or "/"
    commands: list[tuple[str, ...]] = []
    if can.tagging and tag is not None:
        commands.append(("chxid", "-c", str(tag), "-R", "-U", root))
    commands += [("setattr", "--barrier", parent), ("setattr", "--~barrier", root)]
    for options, paths in _groups(marks, can, root):
        commands += [("setattr", *options, *part) for part in batches(paths)]
    if any(mark.immutable and mark.iunlink for mark in marks) and not can.cow:
        notes.append(
            "unified files stay plain files: this kernel breaks no links on write, so the guest could not change them"
        )
    elif unified and can.pool and can.cow:
        commands.append(("vserver", name, "hashify"))
    elif unified:
        notes.append("unified files became copies of their own: there is no pool for them here")
    return Plan(tuple(commands), tuple(notes))


def _groups(marks: Sequence[Marked], can: Target, root: str) -> Iterable[tuple[tuple[str, ...], list[str]]]:
    """Paths by the options they need. Immutable goes with iunlink only where writing breaks the link."""
    kinds: dict[tuple[str, ...], list[str]] = {}
    for mark in marks:
        options = _options(mark, can)
        if options and mark.path != root:
            kinds.setdefault(options, []).append(mark.path)
    return kinds.items()


def _options(mark: Marked, can: Target) -> tuple[str, ...]:
    words = ["--barrier"] if mark.barrier else []
    if mark.iunlink and mark.immutable:
        words += ["--iunlink", "--immutable"] if can.cow else []
    else:
        words += ["--iunlink"] if mark.iunlink else []
        words += ["--immutable"] if mark.immutable else []
    return tuple(words)


def batches(paths: Iterable[str]) -> Iterable[tuple[str, ...]]:
    """Paths in parts that fit an argument list."""
    part: list[str] = []
    size = 0
    for path in paths:
        if part and size + len(path) + 1 > ARGUMENTS_MAX_BYTES:
            yield tuple(part)
            part, size = [], 0
        part.append(path)
        size += len(path) + 1
    if part:
        yield tuple(part)
