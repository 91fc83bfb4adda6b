"""Tell the neighbours where an address is now: gratuitous ARP and unsolicited neighbour advertisements.

Sent as raw frames from the host's end of the VE's link, so that nothing inside the VE is needed.
Sources: RFC 5227 section 3 (ARP announcement), RFC 4861 section 7.2.6 (unsolicited advertisement).
"""

import ipaddress
import socket
import struct

from migrator.wire.facts import Interface

ALL_NODES = ipaddress.IPv6Address("ff02::1")


def announce(interface: Interface) -> None:
    """One round of announcements for every address of the interface, into its bridge."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((interface.bridge, 0))
        for address in interface.addresses:
            raw.send(frame(interface.mac, address))


def frame(mac: str, address: str) -> bytes:
    """The Ethernet frame that announces `address` (with or without prefix length) at `mac`."""
    own = bytes.fromhex(mac.replace(":", ""))
    parsed = ipaddress.ip_interface(address).ip
    if isinstance(parsed, ipaddress.IPv4Address):
        return _arp(own, parsed)
    return _advertisement(own, parsed)


def _arp(own: bytes, address: ipaddress.IPv4Address) -> bytes:
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + own + address.packed + bytes(6) + address.packed
    return b"\xff" * 6 + own + b"\x08\x06" + body


def _advertisement(own: bytes, address: ipaddress.IPv6Address) -> bytes:
    body = struct.pack("!BBHI", 136, 0, 0, 0x20000000) + address.packed + b"\x02\x01" + own
    pseudo = address.packed + ALL_NODES.packed + struct.pack("!II", len(body), 58)
    body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + address.packed + ALL_NODES.packed
    return b"\x33\x33\x00\x00\x00\x01" + own + b"\x86\xdd" + header + body


def checksum(data: bytes) -> int:
    """Of internet protocols, RFC 1071; an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
