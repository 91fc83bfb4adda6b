"""PURE. How names of one host become names of another, and what is asked for a guest, as TOML data of the target.

    unclean_stop = "proceed"          # or "abort": what a guest that had to be killed at stop does to its move
    own_interfaces = ["vlan7"]        # up with the first guest on it, down with the last; never created or deleted
    public_addresses = {"192.0.2.1" = "192.0.2.2"}   # of the hosts, in carried NAT rules

    [devices]                         # host device there -> here
    eth0 = "br0"
    [vlans]                           # VLAN id there -> here, in DEV.ID devices
    12 = 112
    [labels]
    [directories]                     # host path prefix there -> here: fstab sources, disk limits
    "/srv" = "/data"
    [cpuset]                          # cpuset/cpus and cgroup cpuset.cpus, mems: whole value there -> here
    "4-7" = "0-1"
    [cgroup]                          # value there -> here, in any other cgroup file
    "8:0" = "254:0"

    [guests.web1]
    context = 140                     # a new id; its files are tagged again
    prefix = {"10.0.0.5" = 32}
    replay_mounts = ["/mnt"]          # mounts made by hand in the running guest, made again after start
    drop_mounts = ["/media"]          # and those not made again

Rule: no entry means the same name; unknown keys are an error, so that a slip does not go unseen.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from cattrs import Converter, transform_error


@dataclass(frozen=True, slots=True)
class GuestMap:
    """What is asked for one guest."""

    context: int | None = None
    prefix: Mapping[str, int] = field(default_factory=dict)
    replay_mounts: tuple[str, ...] = ()
    drop_mounts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Maps:
    """All maps of one target."""

    devices: Mapping[str, str] = field(default_factory=dict)
    vlans: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    directories: Mapping[str, str] = field(default_factory=dict)
    cpuset: Mapping[str, str] = field(default_factory=dict)
    cgroup: Mapping[str, str] = field(default_factory=dict)
    public_addresses: Mapping[str, str] = field(default_factory=dict)
    own_interfaces: tuple[str, ...] = ()
    unclean_stop: str = "proceed"
    guests: Mapping[str, GuestMap] = field(default_factory=dict)

    def device(self, name: str) -> str:
        """The device here for the one of that name there; `DEV.ID` is mapped by its parts if not as a whole."""
        if name in self.devices:
            return self.devices[name]
        parent, dot, vlan = name.rpartition(".")
        if not dot or not vlan.isdigit():
            return name
        return f"{self.device(parent)}.{self.vlans.get(vlan, vlan)}"

    def directory(self, path: str) -> str:
        """The host path here for one there: the longest mapped prefix, by whole parts."""
        here = PurePosixPath(path)
        best = max((prefix for prefix in self.directories if here.is_relative_to(prefix)), key=len, default=None)
        if best is None:
            return path
        return str(PurePosixPath(self.directories[best]) / here.relative_to(best))

    def guest(self, name: str) -> GuestMap:
        """What is asked for the named guest."""
        return self.guests.get(name, GuestMap())


_CONVERTER = Converter(forbid_extra_keys=True)


def parse(text: str) -> Maps:
    """The maps in a TOML text. Raises ValueError that names every wrong key and value."""
    try:
        data: dict[str, Any] = tomllib.loads(text)
        maps = _CONVERTER.structure(data, Maps)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(str(error)) from error
    except Exception as error:  # cattrs groups all that is wrong; any other is one more way to be wrong
        raise ValueError("; ".join(transform_error(error))) from error
    if maps.unclean_stop not in ("proceed", "abort"):
        raise ValueError(f'unclean_stop is "proceed" or "abort", not {maps.unclean_stop!r}')
    return maps
