"""A host's devices, by netlink: what they are, up, down, and the ones that can be made (VLANs, dummies).

Rule: a device is told by its name, and what cannot be done says which device and why (LookupError, NetlinkError).
"""

from dataclasses import dataclass
from typing import Any

from pyroute2 import IPRoute

IFF_UP, IFF_LOOPBACK, IFF_NOARP = 0x1, 0x8, 0x80


@dataclass(frozen=True, slots=True)
class Device:
    """One device of the host."""

    name: str
    kind: str
    """`vlan`, `dummy`, `bridge`, `veth`, ...; empty: a physical one."""
    up: bool
    mac: str
    mtu: int
    parent: str = ""
    vlan: int = 0
    answers_arp: bool = True
    master: str = ""
    """The bridge or bond it is a port of."""


def all_devices() -> dict[str, Device]:
    """By name."""
    with _host() as host:
        links = list(host.get_links())
    names = {link["index"]: str(link.get_attr("IFLA_IFNAME")) for link in links}
    return {names[link["index"]]: _device(link, names) for link in links}


def find(name: str) -> Device | None:
    """The named one; None when it is not there."""
    return all_devices().get(name)


def _host() -> Any:
    """A conversation with this host's kernel; pyroute2 ships no types a checker could follow."""
    return IPRoute()


def _device(link: Any, names: dict[int, str]) -> Device:
    info: Any = link.get_attr("IFLA_LINKINFO")
    kind = str(info.get_attr("IFLA_INFO_KIND") or "") if info is not None else ""
    data: Any = info.get_attr("IFLA_INFO_DATA") if info is not None and kind == "vlan" else None
    flags = link["flags"]
    return Device(
        names[link["index"]],
        kind,
        bool(flags & IFF_UP),
        str(link.get_attr("IFLA_ADDRESS") or ""),
        int(link.get_attr("IFLA_MTU") or 0),
        names.get(link.get_attr("IFLA_LINK") or 0, "") if kind == "vlan" else "",
        int(data.get_attr("IFLA_VLAN_ID") or 0) if data is not None else 0,
        not flags & (IFF_LOOPBACK | IFF_NOARP),
        names.get(link.get_attr("IFLA_MASTER") or 0, ""),
    )


def set_up(name: str) -> None:
    """Bring it up. Raises LookupError when it is not there."""
    _set(name, "up")


def set_down(name: str) -> None:
    """Take it down; not there: nothing."""
    if find(name) is not None:
        _set(name, "down")


def _set(name: str, state: str) -> None:
    with _host() as host:
        index = host.link_lookup(ifname=name)
        if not index:
            raise LookupError(f"there is no device {name}")
        host.link("set", index=index[0], state=state)


def make_vlan(name: str, parent: str, vlan: int) -> None:
    """A VLAN device; there already: nothing. Raises LookupError without its parent, NetlinkError without 8021q."""
    with _host() as host:
        if host.link_lookup(ifname=name):
            return
        below = host.link_lookup(ifname=parent)
        if not below:
            raise LookupError(f"there is no device {parent} for the VLAN {name}")
        host.link("add", ifname=name, kind="vlan", link=below[0], vlan_id=vlan)


def make_dummy(name: str) -> None:
    """A dummy device; there already: nothing. Raises NetlinkError where the kernel has none."""
    with _host() as host:
        if not host.link_lookup(ifname=name):
            host.link("add", ifname=name, kind="dummy")


def delete(name: str) -> None:
    """Remove a device that was made; not there: nothing."""
    with _host() as host:
        for index in host.link_lookup(ifname=name):
            host.link("del", index=index)
