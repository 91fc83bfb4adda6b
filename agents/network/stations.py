"""Which stations answer for addresses: all of them, on several devices at once.

Rule: as `agents.network.probe`, which asks the question: an answer is certain, silence is not. More than one station for
one address is a conflict even where one is expected.
"""

import ipaddress
import socket
import struct
from collections.abc import Iterable, Mapping

import trio

from agents.network import probe

ETH_P_ALL = 0x0003
SOL_PACKET, ADD_MEMBERSHIP, ALLMULTI = 263, 1, 2
"""PACKET_ADD_MEMBERSHIP and PACKET_MR_ALLMULTI, packet(7): answers to a question without a sender go to all nodes."""


async def answering(addresses: Iterable[str], devices: Mapping[str, str], wait_s: float) -> dict[str, set[str]]:
    """Address (no prefix length) -> hardware addresses that answered in time; devices: name -> its hardware address."""
    found: dict[str, set[str]] = {address: set() for address in addresses}
    with trio.move_on_after(wait_s):
        async with trio.open_nursery() as nursery:
            for device, mac in devices.items() if found else ():
                nursery.start_soon(_listen, device, mac, found)
            await trio.sleep_forever()
    return found


async def _listen(device: str, mac: str, found: dict[str, set[str]]) -> None:
    wanted = {address: ipaddress.ip_address(address) for address in found}
    with trio.socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as raw:
        await raw.bind((device, ETH_P_ALL))
        membership = struct.pack("iHH8s", socket.if_nametoindex(device), ALLMULTI, 0, b"")
        raw.setsockopt(SOL_PACKET, ADD_MEMBERSHIP, membership)
        for parsed in wanted.values():
            await raw.send(probe.question(mac, parsed))
        while True:
            frame = await raw.recv(2048)
            for address, parsed in wanted.items():
                if frame[12:14] != b"\x08\x06" or frame[20:22] == b"\x00\x02":  # of ARP, replies only
                    found[address] |= {probe.answer(frame, mac, parsed)} - {""}
