"""PURE. Every parameter of a VE's config by class, and what its value means where a move depends on it.

Rule: a class says what a move does with it: carried as it is, rewritten for the target, or checked there first. An
unknown parameter is carried and reported. Sizes are bytes.
"""

from dataclasses import dataclass
from enum import StrEnum

UNLIMITED = 9223372036854775807
PAGE_BYTES = 4096


class Kind(StrEnum):
    """What a parameter is about."""

    IDENTITY = "identity"
    BOOT = "boot"
    PATHS = "paths"
    TEMPLATE = "template"
    UBC = "ubc"
    CPU = "cpu"
    IO = "io"
    QUOTA = "quota"
    VENET = "venet"
    VETH = "veth"
    HOST_DEVICE = "host device"
    DEVICES = "devices"
    RIGHTS = "rights"
    FIREWALL = "firewall"
    OTHER = "other"
    UNKNOWN = "unknown"


class Treatment(StrEnum):
    """What a move does with a parameter."""

    CARRIED = "carried"
    REWRITTEN = "rewritten"
    CHECKED = "checked"
    """Carried, and compared with the target before the move."""
    REFUSED = "refused"
    """A VE that sets it cannot move."""


_TABLE: dict[tuple[Kind, Treatment], str] = {
    (Kind.IDENTITY, Treatment.CARRIED): "DESCRIPTION ORIGIN_SAMPLE HOSTNAME NAMESERVER SEARCHDOMAIN",
    (Kind.IDENTITY, Treatment.CHECKED): "NAME",
    (Kind.BOOT, Treatment.REWRITTEN): "ONBOOT DISABLED",
    (Kind.BOOT, Treatment.CARRIED): "BOOTORDER STOP_TIMEOUT VE_STOP_MODE",
    (Kind.PATHS, Treatment.REWRITTEN): "VE_ROOT VE_PRIVATE",
    (Kind.PATHS, Treatment.CHECKED): "VE_LAYOUT MOUNT_OPTS",
    (Kind.TEMPLATE, Treatment.CHECKED): "OSTEMPLATE",
    (Kind.UBC, Treatment.CARRIED): (
        "KMEMSIZE LOCKEDPAGES PRIVVMPAGES SHMPAGES NUMPROC VMGUARPAGES OOMGUARPAGES NUMTCPSOCK NUMFLOCK NUMPTY "
        "NUMSIGINFO TCPSNDBUF TCPRCVBUF OTHERSOCKBUF DGRAMRCVBUF NUMOTHERSOCK DCACHESIZE NUMFILE NUMIPTENT AVNUMPROC"
    ),
    (Kind.UBC, Treatment.CHECKED): "PHYSPAGES SWAPPAGES VM_OVERCOMMIT",
    (Kind.CPU, Treatment.CARRIED): "CPUUNITS CPULIMIT CPUS",
    (Kind.CPU, Treatment.CHECKED): "CPUMASK NODEMASK",
    (Kind.IO, Treatment.CARRIED): "IOPRIO IOLIMIT IOPSLIMIT",
    (Kind.QUOTA, Treatment.CHECKED): "DISK_QUOTA DISKSPACE DISKINODES QUOTATIME QUOTAUGIDLIMIT",
    (Kind.VENET, Treatment.CHECKED): "IP_ADDRESS",
    (Kind.VETH, Treatment.REWRITTEN): "NETIF",
    (Kind.HOST_DEVICE, Treatment.REFUSED): "NETDEV PCI",
    (Kind.DEVICES, Treatment.CHECKED): "DEVICES DEVNODES",
    (Kind.RIGHTS, Treatment.CHECKED): "CAPABILITY FEATURES",
    (Kind.FIREWALL, Treatment.CHECKED): "NETFILTER IPTABLES",
    (Kind.OTHER, Treatment.CARRIED): "MEMINFO",
    (Kind.OTHER, Treatment.CHECKED): "LOCAL_UID LOCAL_GID",
}
KNOWN: dict[str, tuple[Kind, Treatment]] = {key: entry for entry, keys in _TABLE.items() for key in keys.split()}


def classify(key: str) -> tuple[Kind, Treatment]:
    """What a key is about and what is done with it."""
    return KNOWN.get(key, (Kind.UNKNOWN, Treatment.CARRIED))


def unknown(values: dict[str, str]) -> tuple[str, ...]:
    """The keys nobody knows; they are carried, and reported."""
    return tuple(key for key in values if key not in KNOWN)


_FACTORS = {"T": 1 << 40, "G": 1 << 30, "M": 1 << 20, "K": 1 << 10, "B": 1, "P": PAGE_BYTES}


def number(text: str, unit: int = 1) -> int:
    """A number with an optional suffix T, G, M, K, P(ages) or B, in units of `unit` bytes; `unlimited` too.

    Raises ValueError.
    """
    bare = text.strip()
    if bare.lower() == "unlimited":
        return UNLIMITED
    suffix = bare[-1:].upper()
    if suffix in _FACTORS:
        return min(UNLIMITED, int(float(bare[:-1]) * _FACTORS[suffix]) // unit)
    return min(UNLIMITED, int(bare))


def pair(text: str, unit: int = 1) -> tuple[int, int]:
    """`barrier:limit` (or `soft:hard`); one value sets both. Raises ValueError."""
    first, colon, second = text.partition(":")
    return number(first, unit), number(second if colon else first, unit)


def is_vswap(values: dict[str, str]) -> bool:
    """Whether memory is limited by vswap: a PHYSPAGES limit that is not unlimited."""
    try:
        return pair(values["PHYSPAGES"], PAGE_BYTES)[1] < UNLIMITED
    except (KeyError, ValueError):
        return False


def quota_bytes(values: dict[str, str]) -> int:
    """Hard limit of DISKSPACE (KiB, or with a suffix); 0 where there is none."""
    try:
        limit = pair(values["DISKSPACE"], 1024)[1]
    except (KeyError, ValueError):
        return 0
    return 0 if limit >= UNLIMITED // 1024 else limit * 1024


def quota_inodes(values: dict[str, str]) -> int:
    """Hard limit of DISKINODES; 0 where there is none."""
    try:
        limit = pair(values["DISKINODES"])[1]
    except (KeyError, ValueError):
        return 0
    return 0 if limit >= UNLIMITED else limit


def venet_addresses(values: dict[str, str]) -> tuple[str, ...]:
    """IP_ADDRESS, each without its mask."""
    return tuple(word.partition("/")[0] for word in values.get("IP_ADDRESS", "").split())


@dataclass(frozen=True, slots=True)
class Netif:
    """One veth interface: the parts of its entry in order, known or not."""

    parts: tuple[tuple[str, str], ...]

    def get(self, key: str, default: str = "") -> str:
        """One part."""
        return dict(self.parts).get(key, default)

    @property
    def ifname(self) -> str:
        """Name inside the VE."""
        return self.get("ifname", "eth0")

    def host_ifname(self, ve: str) -> str:
        """Name of the host's end; by default vethCTID.N for ethN."""
        return self.get("host_ifname") or f"veth{ve}.{self.ifname.removeprefix('eth')}"

    def replaced(self, key: str, value: str) -> "Netif":
        """The same with one part changed, if it has that part."""
        return Netif(tuple((name, value if name == key else old) for name, old in self.parts))


def netifs(text: str) -> tuple[Netif, ...]:
    """NETIF: interfaces separated by `;`, parts by `,`."""
    return tuple(Netif(tuple(_part(part) for part in entry.split(","))) for entry in text.split(";") if entry.strip())


def _part(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name.strip(), value.strip()


def netif_text(interfaces: tuple[Netif, ...]) -> str:
    """NETIF's value again."""
    entries = (",".join(f"{key}={value}" if value else key for key, value in one.parts) for one in interfaces)
    return ";".join(entries)


@dataclass(frozen=True, slots=True)
class Device:
    """One entry of DEVICES or DEVNODES."""

    name: str
    """Path below /dev; empty for an entry by numbers."""
    kind: str = ""
    major: int = -1
    minor: int = -1
    """-1: all."""
    access: str = ""


def devnodes(text: str) -> tuple[Device, ...]:
    """DEVNODES: `net/tun:rw`."""
    pairs = (word.partition(":") for word in text.split())
    return tuple(Device(name.removeprefix("/dev/"), access=access) for name, _, access in pairs)


def devices(text: str) -> tuple[Device, ...]:
    """DEVICES: `b:8:16:rw`, `c:5:all:rw`; what cannot be read is left out."""
    found = []
    for word in text.split():
        kind, major, minor, access = (*word.split(":"), "", "", "", "")[:4]
        if kind in ("b", "c") and major.isdigit() and (minor == "all" or minor.isdigit()):
            found.append(Device("", kind, int(major), -1 if minor == "all" else int(minor), access))
    return tuple(found)


def switches(text: str) -> dict[str, bool]:
    """CAPABILITY and FEATURES: `NET_ADMIN:on SYS_TIME:off`, a bare word meaning on."""
    words = (word.partition(":") for word in text.split())
    return {name: state.lower() != "off" for name, _, state in words}


def layout(values: dict[str, str], default: str = "simfs") -> str:
    """`simfs`, `ploop` or `vzfs`, without its mode."""
    return (values.get("VE_LAYOUT") or default).partition(":")[0].lower()


def numbers_list(text: str) -> tuple[int, ...]:
    """CPUMASK and NODEMASK lists: `0,2-4`; empty for `all` and `auto`. Raises ValueError."""
    found: list[int] = []
    for part in text.split(","):
        if part.strip().lower() in ("", "all", "auto"):
            continue
        first, dash, last = part.partition("-")
        found += range(int(first), int(last if dash else first) + 1)
    return tuple(found)
