"""What a lab is made of, read from TOML or by default two hosts.

Rule: PURE; names are checked here, once, so that they can stand in paths, links and namespaces without quoting.
"""

import ipaddress
import re
import tomllib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

LAB_NAME = re.compile(r"[a-z][a-z0-9]{0,9}")
"""No dash: `NAME-` then begins the names of this lab's things only. Ten characters: `mlab-NAME` fits a link."""
HOST_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
FLAVOURS = frozenset({"namespaces", "vm"})
RESERVED = frozenset({"sw", "client", "machine"})


class TopologyError(ValueError):
    """A topology that cannot be built; says what is wrong with which value."""


@dataclass(frozen=True, slots=True)
class HostSpec:
    """One host as the topology asks for it."""

    name: str
    disk_mb: int = 0
    """Size of a file system of its own; 0: the machine's disk is the limit."""
    memory_mb: int = 0
    """Limit for all its processes and tmpfs together; 0: none."""
    packages: tuple[str, ...] = ()
    """Debian packages beside the usual ones."""
    roles: tuple[str, ...] = ()
    """Free words by which programs recognise a host's part, such as an engine to install."""


@dataclass(frozen=True, slots=True)
class Topology:
    """A lab: a name, hosts, and the line of each host to the switch."""

    name: str = "lab"
    hosts: tuple[HostSpec, ...] = (HostSpec("alpha"), HostSpec("beta"))
    rate: str = "1gbit"
    """Bandwidth of each host's line in both directions, as tc writes it; empty: not limited."""
    subnet: str = ""
    """IPv4 network, /24 or larger; empty: chosen from the name."""
    subnet6: str = ""
    """IPv6 network, /64; empty: chosen from the name."""
    flavour: str = "namespaces"
    """`namespaces`: hosts share this machine's kernel; `vm`: virtual machines with a kernel of their own, emulated."""

    def __post_init__(self) -> None:
        if not LAB_NAME.fullmatch(self.name):
            raise TopologyError(f"lab name {self.name!r}: wanted one to ten small letters and digits, a letter first")
        if self.flavour not in FLAVOURS:
            raise TopologyError(f"flavour {self.flavour!r}: known are {sorted(FLAVOURS)}")
        names = [host.name for host in self.hosts]
        for name in names:
            if not HOST_NAME.fullmatch(name) or name in RESERVED:
                raise TopologyError(
                    f"host name {name!r}: wanted small letters, digits and dashes, not {sorted(RESERVED)}"
                )
        if len(set(names)) != len(names):
            raise TopologyError(f"two hosts of one name in {names}")
        if not 0 < len(names) < 100:
            raise TopologyError(f"{len(names)} hosts: a lab has 1 to 99")


def hosts(*names: str) -> tuple[HostSpec, ...]:
    """Plain hosts of these names."""
    return tuple(HostSpec(name) for name in names)


def read(path: Path, name: str | None = None) -> Topology:
    """A topology file; `name` overrides the file's. Raises TopologyError naming the file and the wrong entry."""
    try:
        data = tomllib.loads(path.read_text())
        return from_plain(data | ({"name": name} if name else {}))
    except (tomllib.TOMLDecodeError, TopologyError, TypeError) as error:
        raise TopologyError(f"{path}: {error}") from error


def from_plain(data: Mapping[str, Any]) -> Topology:
    """`[[host]]` tables, or `hosts = ["alpha", "beta"]`; everything else is a field of Topology."""
    known = set(Topology.__dataclass_fields__) | {"host"}
    if unknown := sorted(set(data) - known):
        raise TopologyError(f"unknown {unknown}; known are {sorted(known)}")
    listed = data.get("host", data.get("hosts"))
    rest = {key: value for key, value in data.items() if key not in ("host", "hosts")}
    return Topology(**rest) if listed is None else Topology(**rest, hosts=tuple(map(from_plain_host, listed)))


def from_plain_host(entry: str | Mapping[str, Any]) -> HostSpec:
    """A host's table, or its bare name. Raises TopologyError."""
    if isinstance(entry, str):
        return HostSpec(entry)
    known = set(HostSpec.__dataclass_fields__)
    if unknown := sorted(set(entry) - known):
        raise TopologyError(f"host {entry.get('name', '?')!r}: unknown {unknown}; known are {sorted(known)}")
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    return HostSpec(**plain)


def subnets(topology: Topology, taken: tuple[ipaddress.IPv4Network, ...]) -> tuple[str, str]:
    """The lab's IPv4 and IPv6 network: what the topology says, or by name, the next free one after `taken`."""
    seed = zlib.crc32(topology.name.encode())
    subnet6 = topology.subnet6 or f"fd6d:{seed >> 16:x}:{seed & 0xFFFF:x}::/64"
    if topology.subnet:
        return str(ipaddress.IPv4Network(topology.subnet)), str(ipaddress.IPv6Network(subnet6))
    for step in count():
        number = (seed + step) % (64 * 256)
        network = ipaddress.IPv4Network(f"10.{64 + number // 256}.{number % 256}.0/24")
        if not any(network.overlaps(other) for other in taken):
            return str(network), subnet6
    raise AssertionError("count() does not end")
