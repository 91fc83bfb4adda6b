"""Ask the network whether anyone holds an address, before it is put on a device here.

Sources: RFC 5227 section 2.1.1 (ARP probe: no sender address), RFC 4862 section 5.4.2 (neighbour solicitation from the
unspecified address). Rule: an answer is certain, silence is not: a host that is slow or off is not heard.
"""

import contextlib
import ipaddress
import socket
import struct

import trio

from agents.network.announce import checksum

ETH_P_ALL = 0x0003
PROBES = 3


async def holder(device: str, mac: str, address: str, wait_s: float) -> str:
    """MAC of whoever answers for `address` (no prefix length) on the device within the time; empty: nobody did."""
    parsed = ipaddress.ip_address(address)
    raw = trio.socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    with contextlib.closing(raw), trio.move_on_after(wait_s):
        await raw.bind((device, ETH_P_ALL))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_ask, raw, question(mac, parsed), wait_s)
            while not (found := answer(await raw.recv(2048), mac, parsed)):
                pass
            nursery.cancel_scope.cancel()
        return found
    return ""


async def _ask(raw: trio.socket.SocketType, frame: bytes, wait_s: float) -> None:
    for _ in range(PROBES):
        await raw.send(frame)
        await trio.sleep(wait_s / PROBES)


def question(mac: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    """The frame that asks."""
    own = bytes.fromhex(mac.replace(":", ""))
    if isinstance(address, ipaddress.IPv4Address):
        body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + own + bytes(10) + address.packed
        return b"\xff" * 6 + own + b"\x08\x06" + body
    group = ipaddress.IPv6Address(int(ipaddress.IPv6Address("ff02::1:ff00:0")) | int(address) & 0xFFFFFF)
    body = struct.pack("!BBHI", 135, 0, 0, 0) + address.packed
    pseudo = bytes(16) + group.packed + struct.pack("!II", len(body), 58)
    body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + bytes(16) + group.packed
    return b"\x33\x33" + group.packed[-4:] + own + b"\x86\xdd" + header + body


def answer(frame: bytes, mac: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """MAC of the other station that this frame shows to hold the address; empty: it shows nothing of the kind."""
    sender, kind = frame[6:12].hex(":"), frame[12:14]
    if sender == mac.lower():
        return ""
    if isinstance(address, ipaddress.IPv4Address):
        arp = frame[14:42]
        return arp[8:14].hex(":") if kind == b"\x08\x06" and len(arp) == 28 and arp[14:18] == address.packed else ""
    packet = frame[14:]
    advertises = kind == b"\x86\xdd" and len(packet) >= 64 and packet[6] == 58 and packet[40] == 136
    return sender if advertises and packet[48:64] == address.packed else ""
