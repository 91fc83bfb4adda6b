"""PURE. How names of one host become names of another, what is asked for a guest, and a host's own limits, as TOML data.

Every host may have /etc/migrator/vserver.toml; what the inventory says for one move (`interface:eth0`) goes before it.

    unclean_stop = "proceed"          # or "abort": what a guest that had to be killed at stop does to its move
    own_interfaces = ["vlan7"]        # up with the first guest on it, down with the last; VLANs are so by themselves
    dummies = ["dummy0"]              # made here if a guest needs them and they are missing
    public_addresses = {"192.0.2.1" = "192.0.2.2"}   # of the hosts, in carried NAT rules
    sync_timeout_s = 120              # how long a guest may take to stop before it is killed; and other limits

    [devices]                         # host device there -> here
    eth0 = "br0"
    [vlans]                           # VLAN id there -> here, in DEV.ID devices
    12 = 112
    [labels]
    [carry]                           # directory there, bound into a guest -> its place here: moves with the guest
    "/srv/www" = "/data/www"
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
from dataclasses import dataclass, field, replace
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
    carry: Mapping[str, str] = field(default_factory=dict)
    own_interfaces: tuple[str, ...] = ()
    dummies: tuple[str, ...] = ()
    """Devices that are made (kind `dummy`) when a guest needs them and they are not there."""
    unclean_stop: str = "proceed"
    sync_timeout_s: int = 120
    """A guest's own is raised to this while it is stopped: the tools' 30 s are too short for a database."""
    stop_margin_s: float = 30.0
    """How much longer than its sync timeout `stop` may take before we stop waiting for it."""
    kill_limit_s: float = 10.0
    """How long processes may take to end after SIGKILL."""
    start_limit_s: float = 400.0
    """Above the 300 s for which `start` waits for its lock."""
    service_limit_s: float = 3.0
    """How long a started guest is given to listen where it listened before."""
    probe_s: float = 0.4
    """How long an address is asked for on the network before it is put on a device."""
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
        here, mapped = PurePosixPath(path), {**self.directories, **self.carry}
        best = max((prefix for prefix in mapped if here.is_relative_to(prefix)), key=len, default=None)
        if best is None:
            return path
        return str(PurePosixPath(mapped[best]) / here.relative_to(best))

    def guest(self, name: str) -> GuestMap:
        """What is asked for the named guest."""
        return self.guests.get(name, GuestMap())


def with_names(maps: Maps, names: Mapping[str, str], guest: str) -> Maps:
    """The maps with an inventory's names before them (`kind:name` -> name here). Raises ValueError for a wrong value.

    Kinds beside the tables above: `address` (public ones), `own-interface`, `dummy`, and for the guest that moves `context`,
    `prefix:ADDRESS` and `mount:TARGET` (`replay` or `drop`).
    """
    by_kind: dict[str, dict[str, str]] = {}
    for key, value in names.items():
        kind, _, name = key.partition(":")
        by_kind.setdefault(kind, {})[name] = value
    tables: dict[str, Any] = {
        field: {**getattr(maps, field), **by_kind.get(kind, {})} for kind, field in TABLES.items()
    }
    vlans = {**maps.vlans, **{name: int(value) for name, value in by_kind.get("vlan", {}).items()}}
    own = (*maps.own_interfaces, *by_kind.get("own-interface", {}).values())
    dummies = (*maps.dummies, *by_kind.get("dummy", {}).values())
    guests = {**maps.guests, guest: _asked(maps.guest(guest), guest, by_kind)}
    return replace(maps, **tables, vlans=vlans, own_interfaces=own, dummies=dummies, guests=guests)


def _asked(asked: GuestMap, guest: str, by_kind: Mapping[str, Mapping[str, str]]) -> GuestMap:
    context = by_kind.get("context", {}).get(guest)
    mounts = by_kind.get("mount", {})
    if unknown := sorted({*mounts.values()} - {"replay", "drop"}):
        raise ValueError(f"a mount is to be `replay` or `drop`, not {', '.join(unknown)}")
    return replace(
        asked,
        context=asked.context if context is None else int(context),
        prefix={**asked.prefix, **{address: int(value) for address, value in by_kind.get("prefix", {}).items()}},
        replay_mounts=(*asked.replay_mounts, *(target for target, act in mounts.items() if act == "replay")),
        drop_mounts=(*asked.drop_mounts, *(target for target, act in mounts.items() if act == "drop")),
    )


TABLES = {
    "interface": "devices",
    "label": "labels",
    "directory": "directories",
    "carry": "carry",
    "cpuset": "cpuset",
    "cgroup": "cgroup",
    "address": "public_addresses",
}
"""Kind of name in an inventory -> table here."""
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
