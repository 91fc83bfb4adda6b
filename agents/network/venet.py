"""The host's side of venet addresses: routes to venet0, proxy entries on neighbour devices, announcements there.

Rule: an address is this host's exactly when it is routed to venet0 and answered for by a proxy entry on the neighbour devices;
both go before another host announces it. vzctl's own hooks make and remove them; here it is seen and made sure.
"""

import contextlib
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pyroute2 import IPRoute, NetlinkError

from agents.network.announce import frame

VENET = "venet0"
UP, LOOPBACK, NOARP, SLAVE = 0x1, 0x8, 0x80, 0x800
PROXY = 0x08
"""NTF_PROXY, linux/neighbour.h."""


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """A device on which the host answers for VEs' addresses."""

    name: str
    index: int
    mac: str


def neighbour_devices(setting: str = "") -> tuple[Neighbourhood, ...]:
    """Up, not loopback, NOARP or a slave, having an address, no VE's end; NEIGHBOUR_DEVS=list:... restricts them."""
    listed = setting.removeprefix("list:").replace(",", " ").split() if setting.startswith("list:") else None
    with IPRoute() as host:
        addressed = {each["index"] for each in host.get_addr()}
        links = [(each["index"], each["flags"], dict(each["attrs"])) for each in host.get_links()]
    found = []
    for index, flags, attributes in links:
        name = str(attributes.get("IFLA_IFNAME", ""))
        fits = flags & UP and not flags & (LOOPBACK | NOARP | SLAVE) and "IFLA_MASTER" not in attributes
        if fits and index in addressed and not name.startswith(("veth", "venet")):
            found.append(Neighbourhood(name, index, str(attributes.get("IFLA_ADDRESS", ""))))
    return tuple(each for each in found if listed is None or each.name in listed)


def here(addresses: Iterable[str]) -> tuple[str, ...]:
    """Those of the addresses that this host routes to venet0 or has a proxy entry for."""
    wanted = {_plain(address) for address in addresses}
    with IPRoute() as host:
        found = {address for address, _ in _routes(host)} | {address for address, _, _ in _proxies(host)}
    return tuple(sorted(wanted & found))


def withdraw(addresses: Iterable[str]) -> None:
    """Routes and proxy entries of the addresses go; what is not there is no error."""
    wanted = {_plain(address) for address in addresses}
    with IPRoute() as host:
        for address, index in _routes(host):
            if address in wanted:
                with contextlib.suppress(NetlinkError):
                    host.route("del", dst=f"{address}/{_length(address)}", oif=index)
        for address, index, family in _proxies(host):
            if address in wanted:
                with contextlib.suppress(NetlinkError):
                    host.neigh("del", dst=address, ifindex=index, family=family, flags=PROXY)


def announce(addresses: Iterable[str], devices: Iterable[Neighbourhood]) -> None:
    """One round: each address at each device's own hardware address."""
    for device in devices:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw, contextlib.suppress(OSError):
            raw.bind((device.name, 0))
            for address in addresses:
                raw.send(frame(device.mac, address))


def _routes(host: Any) -> list[tuple[str, int]]:
    """(address, device) of every route to one address by venet0."""
    index = next(iter(host.link_lookup(ifname=VENET)), 0)
    found = []
    for family in (socket.AF_INET, socket.AF_INET6) if index else ():
        for route in host.get_routes(family=family, oif=index):
            address = route.get_attr("RTA_DST")
            if address and route.get_attr("RTA_OIF") == index and route["dst_len"] == _length(address):
                found.append((_plain(address), index))
    return found


def _proxies(host: Any) -> list[tuple[str, int, int]]:
    """(address, device, family) of every proxy entry."""
    found: list[tuple[str, int, int]] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        for entry in host.neigh("dump", family=family, flags=PROXY):
            address = entry.get_attr("NDA_DST")
            if address and entry["flags"] & PROXY:
                found.append((_plain(address), entry["ifindex"], family))
    return found


def _plain(address: str) -> str:
    return str(ipaddress.ip_interface(address).ip)


def _length(address: str) -> int:
    return ipaddress.ip_address(address).max_prefixlen
