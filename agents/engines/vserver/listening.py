"""Who listens where on this host, by process: from /proc/net/tcp and the processes' open files (proc(5)).

Rule: a guest has no network of its own, so its sockets and the host's are in one table, and a host program that listens
on every address has a guest's port as well.
"""

import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

LISTEN = "0A"
ANY = ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class Listener:
    """One listening TCP socket."""

    address: str
    port: int
    inode: int

    def covers(self, address: str, port: int) -> bool:
        """Whether nobody else can listen at this address and port any more."""
        return self.port == port and (self.address == address or self.address in ANY)


def listeners() -> tuple[Listener, ...]:
    """All of this host's network namespace."""
    return (*_table("tcp", socket.AF_INET), *_table("tcp6", socket.AF_INET6))


def _table(name: str, family: int) -> tuple[Listener, ...]:
    try:
        lines = Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    except FileNotFoundError:
        return ()
    rows = (line.split() for line in lines)
    return tuple(_listener(row, family) for row in rows if row[3] == LISTEN)


def _listener(row: list[str], family: int) -> Listener:
    digits, port = row[1].split(":")
    words = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    return Listener(socket.inet_ntop(family, packed), int(port, 16), int(row[9]))


def of_processes(pids: Iterable[int]) -> tuple[Listener, ...]:
    """Listeners that one of these processes has open."""
    inodes: set[int] = set()
    for pid in pids:
        inodes |= _sockets(pid)
    return tuple(each for each in listeners() if each.inode in inodes)


def _sockets(pid: int) -> set[int]:
    found = set()
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            if target.startswith("socket:["):
                found.add(int(target[8:-1]))
    except OSError:
        return found  # it has just ended, or a descriptor was just closed
    return found


def ports(pids: Iterable[int], addresses: Iterable[str]) -> tuple[tuple[str, int], ...]:
    """(address, port) of what these processes listen on, one of these addresses for each that is for all."""
    own = tuple(addresses)
    found = set()
    for each in of_processes(pids):
        found |= {(address, each.port) for address in (own if each.address in ANY else (each.address,))}
    return tuple(sorted(found))


def taken(wanted: Iterable[tuple[str, int]], but: Iterable[int] = ()) -> tuple[tuple[str, int], ...]:
    """Those of the wanted (address, port) at which nobody else can listen; sockets of the processes `but` do not count."""
    own = {each.inode for each in of_processes(but)}
    there = [each for each in listeners() if each.inode not in own]
    return tuple(pair for pair in wanted if any(each.covers(*pair) for each in there))
