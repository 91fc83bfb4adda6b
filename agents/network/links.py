"""A VE's network on its host: a named network namespace, veth pairs, membership in a bridge.

Rule: a VE is on the network exactly when the host's end of its link is a member of its bridge. So leaving and joining
are one netlink call each, sockets of a frozen VE answer nobody, and the carrier inside never changes.
"""

import contextlib
import errno
import ipaddress
import socket
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute, NetlinkError, netns

from agents.network.namespaces import inside_of
from migrator.wire.facts import Interface

NAMESPACES = Path("/run/netns")
NODAD = 0x02
STALE = 0x04
RESOLVED = 0x02 | STALE | 0x08 | 0x10
"""REACHABLE, STALE, DELAY, PROBE: neighbour states with a hardware address (linux/neighbour.h)."""
Neighbours = Mapping[str, Sequence[tuple[str, str]]]
"""By the interface's name in the VE: (address, MAC) of those it talks to."""


CLASS = Path("/sys/class/net")
_conversations = threading.local()


def _host() -> Any:
    """This thread's conversation with the host's kernel, kept open: to begin one takes milliseconds of a blackout."""
    if not hasattr(_conversations, "route"):
        _conversations.route = IPRoute()
    return _conversations.route


def exists(link: str) -> bool:
    """Whether the host has a link of this name."""
    return _index(link) is not None


def is_bridge(link: str) -> bool:
    """Whether the host has a bridge of this name."""
    return (CLASS / link / "bridge").is_dir()


def _index(link: str) -> int | None:
    try:
        return socket.if_nametoindex(link)
    except OSError:
        return None


def make(name: str, interfaces: tuple[Interface, ...]) -> None:
    """The namespace with all its interfaces as they have to be; on no bridge yet. Exists already: completed."""
    if not (NAMESPACES / name).exists():
        netns.create(name)
    with inside_of(NAMESPACES / name) as inside:
        inside.link("set", index=1, state="up")
        for interface in interfaces:
            if not exists(interface.host_name):
                peer = {"ifname": interface.name, "address": interface.mac, "net_ns_fd": name}
                _host().link("add", ifname=interface.host_name, kind="veth", peer=peer)
            _configure(inside, interface)
            _host().link("set", index=_index(interface.host_name), mtu=interface.mtu, state="up")


def _configure(inside: Any, interface: Interface) -> None:
    [index] = inside.link_lookup(ifname=interface.name)
    inside.link("set", index=index, address=interface.mac, mtu=interface.mtu, state="up")
    for address in interface.addresses:
        flags = {"flags": NODAD} if ":" in address else {}
        with _present():
            parsed = ipaddress.ip_interface(address)
            inside.addr("add", index=index, address=str(parsed.ip), prefixlen=parsed.network.prefixlen, **flags)
    for to, via in interface.routes:
        with _present():
            inside.route("add", dst=to, oif=index, **({"gateway": via} if via else {}))


def complete(name: str, interfaces: tuple[Interface, ...]) -> bool:
    """Whether `make` would find nothing to do but to set again what it set before."""
    return (NAMESPACES / name).exists() and all(exists(each.host_name) for each in interfaces)


def neighbours(name: str, interfaces: tuple[Interface, ...]) -> Neighbours:
    """Whose hardware address the VE knows now."""
    with inside_of(NAMESPACES / name) as inside:
        return {each.name: _resolved(inside, each) for each in interfaces}


def _resolved(inside: Any, interface: Interface) -> list[tuple[str, str]]:
    [index] = inside.link_lookup(ifname=interface.name)
    known = [each for each in inside.get_neighbours(ifindex=index) if each["state"] & RESOLVED]
    return [(str(each.get_attr("NDA_DST")), str(each.get_attr("NDA_LLADDR"))) for each in known]


def introduce(name: str, known: Neighbours) -> None:
    """Let the VE know them.

    Else its first answer waits a second: its first question for a hardware address is lost, because it is on no bridge yet,
    and the kernel asks again after a second.
    """
    with inside_of(NAMESPACES / name) as inside:
        for interface, pairs in known.items():
            [index] = inside.link_lookup(ifname=interface)
            for address, mac in pairs:
                inside.neigh("replace", dst=address, lladdr=mac, ifindex=index, state=STALE)


@contextlib.contextmanager
def _present() -> Any:
    """What is there already is as good as made."""
    try:
        yield
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise


def join(interfaces: tuple[Interface, ...]) -> None:
    """Put the VE on the network."""
    for interface in interfaces:
        bridge, outer = _index(interface.bridge), _index(interface.host_name)
        if bridge is not None and outer is not None:
            _host().link("set", index=outer, master=bridge)


def leave(interfaces: tuple[Interface, ...]) -> None:
    """Take the VE off the network; its side notices nothing."""
    for interface in interfaces:
        if (outer := _index(interface.host_name)) is not None:
            _host().link("set", index=outer, master=0)


def remove(name: str, interfaces: tuple[Interface, ...]) -> None:
    """Take links and namespace away."""
    for interface in interfaces:
        if (outer := _index(interface.host_name)) is not None:
            with _gone():
                _host().link("del", index=outer)
    if (NAMESPACES / name).exists():
        netns.remove(name)


@contextlib.contextmanager
def _gone() -> Any:
    """What has vanished meanwhile is as good as removed."""
    try:
        yield
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            raise


def addresses() -> tuple[str, ...]:
    """The host's own addresses, without prefix length."""
    found = {str(each.get_attr("IFA_ADDRESS")) for each in _host().get_addr()}
    return tuple(sorted(found))
