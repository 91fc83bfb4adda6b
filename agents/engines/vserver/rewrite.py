"""PURE. A guest's configuration as it has to be on another host: host-specific values mapped, the rest byte for byte.

Rule: every change is listed, so that a plan can show the difference; the boot mark never travels (it is put back when
the guest belongs to the target); `run` is always a link, and `vdir`, `run`, `cache` are the target's own.
"""

from dataclasses import dataclass
from pathlib import PurePosixPath

from agents.engines.vserver import fstab
from agents.engines.vserver.maps import GuestMap, Maps
from agents.engines.vserver.tree import Directory, File, Tree

MARK = "apps/init/mark"
CPUSET_FILES = ("cpuset/cpus", "cpuset/mems", "cgroup/cpuset.cpus", "cgroup/cpuset.mems")
SAVED_SUFFIXES = ("context", "ncontext", "tag")


@dataclass(frozen=True, slots=True)
class HostPaths:
    """Where one host keeps guests, as `vserver-info - SYSINFO` and `.defaults` say."""

    configs: str = "/etc/vservers"
    roots: str = "/vservers"
    run: str = "/var/run/vservers"
    cache: str = "/var/cache/vservers"

    @property
    def packages(self) -> str:
        """External package data."""
        return f"{self.roots}/.pkg"


@dataclass(frozen=True, slots=True)
class Change:
    """One value that differs on the target; empty: not there."""

    path: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Rewritten:
    """The configuration for the target, and what was changed."""

    tree: Tree
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()


def rewrite(tree: Tree, name: str, here: HostPaths, maps: Maps, ve: str = "") -> Rewritten:
    """The tree of guest `name` for a host with these paths and maps, where it is called `ve` (empty: the same)."""
    asked = maps.guest(name)
    after = tree.without(MARK)
    after = _links(after, ve or name, here)
    after = _renamed(after, name, ve or name)
    after = _interfaces(after, maps, asked)
    after = _mounts(after, maps)
    after = _limits(after, maps)
    if asked.context is not None:
        after = _ids(after, asked.context)
    return Rewritten(after, changes(tree, after), _notes(tree))


def changes(before: Tree, after: Tree) -> tuple[Change, ...]:
    """Every path at which two trees differ."""
    paths = sorted({*before.nodes, *after.nodes})
    return tuple(
        Change(path, _show(before, path), _show(after, path))
        for path in paths
        if before.nodes.get(path) != after.nodes.get(path) and not isinstance(after.nodes.get(path), Directory)
    )


def _show(tree: Tree, path: str) -> str:
    node = tree.nodes.get(path)
    if isinstance(node, File):
        return node.content.decode("utf-8", "backslashreplace").rstrip("\n")
    return "" if node is None else tree.link(path) or "(directory)"


def _links(tree: Tree, name: str, here: HostPaths) -> Tree:
    links = {"vdir": f"{here.roots}/{name}", "run": f"{here.run}/{name}", "cache": f"{here.cache}/{name}"}
    for path, target in links.items():
        if path != "cache" or tree.has("cache"):
            tree = tree if tree.link(path) == target else tree.without(path).with_link(path, target)
    if tree.link("apps/pkgmgmt/base"):
        target = f"{here.packages}/{name}"
        tree = tree if tree.link("apps/pkgmgmt/base") == target else tree.with_link("apps/pkgmgmt/base", target)
    return tree


def _renamed(tree: Tree, name: str, ve: str) -> Tree:
    """Names that only repeated the old one follow."""
    for path in ("name", "uts/nodename"):
        if tree.value(path) == name and ve != name:
            tree = tree.with_value(path, ve)
    return tree


def _interfaces(tree: Tree, maps: Maps, asked: GuestMap) -> Tree:
    for base in ("interfaces", *(f"interfaces/{entry}" for entry in tree.under("interfaces"))):
        device = tree.value(f"{base}/dev")
        if device is not None and maps.device(device) != device:
            tree = tree.with_value(f"{base}/dev", maps.device(device))
        label = tree.value(f"{base}/name")
        if label is not None and label in maps.labels:
            tree = tree.with_value(f"{base}/name", maps.labels[label])
        address = (tree.value(f"{base}/ip") or "").partition("/")
        if address[0] in asked.prefix:
            tree = _prefix(tree, base, address[0], asked.prefix[address[0]])
    return tree


def _prefix(tree: Tree, base: str, address: str, prefix: int) -> Tree:
    if "/" in (tree.value(f"{base}/ip") or ""):
        return tree.with_value(f"{base}/ip", f"{address}/{prefix}")
    return tree.without(f"{base}/mask").with_value(f"{base}/prefix", str(prefix))


def _mounts(tree: Tree, maps: Maps) -> Tree:
    for path in fstab.FILES:
        node = tree.nodes.get(path)
        if isinstance(node, File):
            content = fstab.rewritten(node.content, maps.directory)
            tree = tree.with_content(path, content) if content != node.content else tree
    return tree


def _limits(tree: Tree, maps: Maps) -> Tree:
    for entry in tree.under("dlimits"):
        path = f"dlimits/{entry}/directory"
        directory = tree.value(path)
        if directory is not None and maps.directory(directory) != directory:
            tree = tree.with_value(path, maps.directory(directory))
    for path in CPUSET_FILES:
        value = tree.value(path)
        if value is not None and value in maps.cpuset:
            tree = tree.with_value(path, maps.cpuset[value])
    for name in tree.under("cgroup"):
        tree = _cgroup(tree, f"cgroup/{name}", maps)
    return tree


def _cgroup(tree: Tree, path: str, maps: Maps) -> Tree:
    """Device numbers stand as the first word of a line, or alone."""
    node = tree.nodes.get(path)
    if path in CPUSET_FILES or path == "cgroup/name" or not isinstance(node, File):
        return tree
    lines = node.content.decode("utf-8", "surrogateescape").splitlines(keepends=True)
    content = "".join(_first_word(line, maps) for line in lines).encode("utf-8", "surrogateescape")
    return tree.with_content(path, content) if content != node.content else tree


def _first_word(line: str, maps: Maps) -> str:
    word = line.split(maxsplit=1)[0] if line.split() else ""
    return line.replace(word, maps.cgroup[word], 1) if word in maps.cgroup else line


def _ids(tree: Tree, context: int) -> Tree:
    """A new context id; a network id or tag that only repeated the old one follows it."""
    old = tree.value("context")
    for path in SAVED_SUFFIXES:
        value = tree.value(path)
        if path == "context" or (value is not None and value == old):
            tree = tree.with_value(path, str(context))
    return tree


def _notes(tree: Tree) -> tuple[str, ...]:
    """What a person should look at because no map can know it."""
    notes = [
        f"{path} runs on the host as root and travels as it is"
        for path, node in sorted(tree.nodes.items())
        if path.startswith("scripts/") and isinstance(node, File)
    ]
    notes += [f"{path} links to {target}, which stays behind" for path, target in _outside_links(tree)]
    if tree.has("personality"):
        notes.append("personality is set; it fits one kind of machine only")
    return tuple(notes)


def _outside_links(tree: Tree) -> list[tuple[str, str]]:
    own = {"vdir", "run", "cache", "apps/pkgmgmt/base"}
    links = ((path, tree.link(path)) for path in sorted(tree.nodes) if path not in own)
    return [(path, target) for path, target in links if target and PurePosixPath(target).is_absolute()]
