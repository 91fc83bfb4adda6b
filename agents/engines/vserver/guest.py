"""PURE. What a configuration directory says about its guest.

Rule: reading never guesses: a value that cannot be understood is a problem with the path of its file, not a default.
Facts: util-vserver configuration reference ("flower page").
"""

import ipaddress
from dataclasses import dataclass

from agents.engines.vserver import fstab
from agents.engines.vserver.tree import File, Tree

STATIC_IDS = range(2, 49152)
"""Context ids an administrator may choose; above are those that old kernels hand out themselves."""
CONTEXT_NAME_MAX = 64
"""The kernel keeps that many characters of a context's name; the path of a longer one never counts as running."""
LABEL_MAX = 15
TOGGLES = ("nodev", "only_ip", "disabled", "down", "indirect", "vlandev", "tun", "tap")
CAPABILITIES = ("bcapabilities", "ccapabilities", "ncapabilities", "cflags", "nflags", "umask")


@dataclass(frozen=True, slots=True)
class Address:
    """One entry below `interfaces`."""

    entry: str
    ip: str
    prefix: int
    device: str
    """Empty: no host device (`nodev` without one)."""
    label: str = ""
    nodev: bool = False
    """The host's own configuration owns the address; util-vserver only allows it to the guest."""
    vlan: bool = False
    down: bool = False
    """The device is not set up by `start`."""
    indirect: bool = False
    bcast: str = ""
    scope: str = ""
    peer: str = ""

    @property
    def version(self) -> int:
        """4 or 6."""
        return ipaddress.ip_address(self.ip).version

    @property
    def with_prefix(self) -> str:
        """Address with prefix length."""
        return f"{self.ip}/{self.prefix}"

    @property
    def full_label(self) -> str:
        """The label on the device, empty when it has none."""
        return f"{self.device}:{self.label}" if self.label else ""


@dataclass(frozen=True, slots=True)
class DiskLimit:
    """One entry below `dlimits`; -1 is no limit."""

    entry: str
    directory: str
    space_kib: int
    inodes: int
    reserved_percent: int


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest as configured."""

    name: str
    directory: str
    context: int | None
    """None: a dynamic id, given by an old kernel at each start."""
    ncontext: int | None
    """Network context id; None: none of its own, the context's id is used."""
    tag: int | None
    addresses: tuple[Address, ...] = ()
    mounts: tuple[fstab.Mount, ...] = ()
    disk_limits: tuple[DiskLimit, ...] = ()
    style: str = "sysv"
    mark: str = ""
    depends: tuple[str, ...] = ()
    vdir: str = ""
    external_packages: str = ""
    """Directory behind `apps/pkgmgmt/base`: package data outside the guest's root."""
    unified: bool = False
    legacy: bool = False
    scripts: tuple[str, ...] = ()
    """Scripts that run on the host, as root, around start and stop."""
    words: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """File -> names, of every list of capabilities and flags."""
    problems: tuple[str, ...] = ()

    @property
    def nid(self) -> int | None:
        """The network context in fact used."""
        return self.context if self.ncontext is None else self.ncontext

    @property
    def file_tag(self) -> int | None:
        """The tag its files carry on a tagging file system."""
        return self.context if self.tag is None else self.tag

    @property
    def devices(self) -> tuple[str, ...]:
        """Host devices it has addresses on, each once."""
        return tuple(dict.fromkeys(address.device for address in self.addresses if address.device))

    @property
    def autostart(self) -> bool:
        """Whether a boot script starts it."""
        return bool(self.mark)


def read(name: str, directory: str, tree: Tree) -> Guest:
    """What the tree says."""
    problems: list[str] = []
    addresses = tuple(
        address
        for entry in tree.under("interfaces")
        if not tree.has(f"interfaces/{entry}/disabled") and (address := _address(tree, entry, problems)) is not None
    )
    if len(directory) > CONTEXT_NAME_MAX:
        problems.append(
            f"{directory} has {len(directory)} characters; the kernel keeps {CONTEXT_NAME_MAX} of a context's name, "
            "so the guest would never count as running"
        )
    return Guest(
        name=name,
        directory=directory,
        context=_id(tree, "context", problems),
        ncontext=_id(tree, "ncontext", problems),
        tag=_id(tree, "tag", problems),
        addresses=addresses,
        mounts=tuple(mount for file in fstab.FILES for mount in _mounts(tree, file)),
        disk_limits=_disk_limits(tree, problems),
        style=tree.value("apps/init/style") or "sysv",
        mark=tree.value("apps/init/mark") or "",
        depends=tree.lines("apps/init/depends"),
        vdir=tree.link("vdir") or "",
        external_packages=tree.link("apps/pkgmgmt/base") or "",
        unified=any(name != "exclude" for name in tree.under("apps/vunify")),
        legacy=tree.has("legacy"),
        scripts=tuple(
            sorted(p for p, node in tree.nodes.items() if p.startswith("scripts/") and isinstance(node, File))
        ),
        words=tuple((file, tree.lines(file)) for file in CAPABILITIES if tree.has(file)),
        problems=tuple(problems),
    )


def _id(tree: Tree, path: str, problems: list[str]) -> int | None:
    text = tree.value(path)
    if text is None:
        return None
    if not text.isdigit() or int(text) not in STATIC_IDS:
        problems.append(f"{path} holds {text!r}, not an id from {STATIC_IDS.start} to {STATIC_IDS.stop - 1}")
        return None
    return int(text)


def _address(tree: Tree, entry: str, problems: list[str]) -> Address | None:
    base = f"interfaces/{entry}"
    ip = tree.value(f"{base}/ip")
    if ip is None:
        return None  # `interfaces/dev` and the like are defaults, not an entry
    address, _, suffix = ip.partition("/")
    try:
        parsed = ipaddress.ip_address(address)
        version, address = parsed.version, str(parsed)
        prefix = _prefix(tree, base, suffix, version)
    except ValueError as error:
        problems.append(f"{base}: {error}")
        return None
    nodev = any(tree.has(f"{where}/{word}") for where in (base, "interfaces") for word in ("nodev", "only_ip"))
    device = tree.value(f"{base}/dev") or tree.value("interfaces/dev") or ""
    if not device and not nodev:
        problems.append(f"{base} names neither a device (`dev`) nor `nodev`")
    return Address(
        entry=entry,
        ip=address,
        prefix=prefix,
        device=device,
        label=tree.value(f"{base}/name") or "",
        nodev=nodev,
        vlan=_either(tree, base, "vlandev") and not _either(tree, base, "novlandev"),
        down=tree.has(f"{base}/down"),
        indirect=tree.has(f"{base}/indirect"),
        bcast=tree.value(f"{base}/bcast") or tree.value("interfaces/bcast") or "",
        scope=tree.value(f"{base}/scope") or tree.value("interfaces/scope") or "",
        peer=tree.value(f"{base}/peer") or "",
    )


def _either(tree: Tree, base: str, word: str) -> bool:
    return tree.has(f"{base}/{word}") or tree.has(f"interfaces/{word}")


def _prefix(tree: Tree, base: str, suffix: str, version: int) -> int:
    whole = 32 if version == 4 else 128
    text = suffix or next((value for where in (base, "interfaces") if (value := _mask_of(tree, where))), "")
    if not text:
        return whole
    if text.isdigit():
        if int(text) > whole:
            raise ValueError(f"prefix {text} is longer than an address")
        return int(text)
    return ipaddress.ip_network(f"0.0.0.0/{text}").prefixlen


def _mask_of(tree: Tree, where: str) -> str:
    return tree.value(f"{where}/prefix") or tree.value(f"{where}/mask") or ""


def _mounts(tree: Tree, file: str) -> tuple[fstab.Mount, ...]:
    node = tree.nodes.get(file)
    return fstab.mounts(node.content, remote=file == "fstab.remote") if isinstance(node, File) else ()


def _disk_limits(tree: Tree, problems: list[str]) -> tuple[DiskLimit, ...]:
    found = []
    for entry in tree.under("dlimits"):
        base = f"dlimits/{entry}"
        directory = tree.value(f"{base}/directory")
        if tree.has(f"{base}/disabled"):
            continue
        if directory is None:
            problems.append(f"{base} names no directory")
            continue
        numbers = [_number(tree, f"{base}/{word}", problems) for word in ("space_total", "inodes_total", "reserved")]
        found.append(DiskLimit(entry, directory, *numbers))
    return tuple(found)


def _number(tree: Tree, path: str, problems: list[str]) -> int:
    text = tree.value(path)
    missing = 0 if path.endswith("/reserved") else -1
    if text is None:
        return missing
    try:
        return int(text)
    except ValueError:
        problems.append(f"{path} holds {text!r}, not a number")
        return missing
