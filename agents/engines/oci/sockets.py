"""The sockets of a VE as the kernel describes them: what kind each is, what waits in it, who is at the other end.

Rule: nothing is taken out of a socket; a descriptor of it is borrowed for a moment (pidfd_getfd(2), Linux 5.6). The one thing
that is ever changed is what a killed CRIU left changed (`leave_repair`).
Sources: socket(7), sock_diag(7), linux/unix_diag.h, linux/tcp.h.
"""

import contextlib
import ctypes
import os
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PIDFD_GETFD = 438
SO_PROTOCOL, SO_DOMAIN = 38, 39
NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, NLMSG_DONE, NLMSG_ERROR = 4, 20, 3, 2
NLM_F_REQUEST_DUMP = 0x301
UDIAG_SHOW_PEER, UNIX_DIAG_PEER = 4, 2
CLONE_NEWNET = 0x40000000
TCP_REPAIR, REPAIR_OFF_WITHOUT_PROBE = 19, -1


@dataclass(frozen=True, slots=True)
class Kind:
    """What a socket is."""

    domain: int
    type: int
    protocol: int
    unread: bool
    """Netlink only: whether something waits to be read."""


def kind(pid: int, descriptor: int) -> Kind | None:
    """Of a process's descriptor; None when it has gone meanwhile or the kernel does not let us look."""
    try:
        borrowed = _borrow(pid, descriptor)
    except OSError:
        return None
    try:
        own = socket.socket(fileno=borrowed)
    except OSError:
        os.close(borrowed)
        return None
    with own:
        domain = own.getsockopt(socket.SOL_SOCKET, SO_DOMAIN)
        return Kind(
            domain,
            own.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE),
            own.getsockopt(socket.SOL_SOCKET, SO_PROTOCOL),
            domain == socket.AF_NETLINK and _waits(own),
        )


def leave_repair(pids: Iterable[int]) -> int:
    """Put TCP sockets of processes that stand still out of the repair mode that a killed CRIU left them in; how many.

    In that mode a read fails and nothing is sent (tcp_recvmsg and tcp_sendmsg of the kernel), so that whoever has the
    socket hangs up. The kernel gives no way to read what SO_REUSEADDR was before; set, it harms nobody.
    """
    mended = 0
    for pid in pids:
        for descriptor in _sockets_of(pid):
            with contextlib.suppress(OSError), socket.socket(fileno=_borrow(pid, descriptor)) as own:
                if own.getsockopt(socket.SOL_SOCKET, SO_PROTOCOL) != socket.IPPROTO_TCP:
                    continue
                if own.getsockopt(socket.IPPROTO_TCP, TCP_REPAIR):
                    own.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, REPAIR_OFF_WITHOUT_PROBE)
                    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    mended += 1
    return mended


def _sockets_of(pid: int) -> list[int]:
    found = []
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if entry.readlink().name.startswith("socket:"):
                    found.append(int(entry.name))
    return found


def _waits(own: socket.socket) -> bool:
    try:
        return bool(own.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT | socket.MSG_TRUNC))
    except OSError:
        return False


def _borrow(pid: int, descriptor: int) -> int:
    handle = os.pidfd_open(pid)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        borrowed: int = libc.syscall(ctypes.c_long(PIDFD_GETFD), handle, descriptor, 0)
        if borrowed < 0:
            raise OSError(ctypes.get_errno(), "pidfd_getfd")
        return borrowed
    finally:
        os.close(handle)


def unix_peers(pid: int) -> dict[int, int]:
    """Inode -> inode of the other end, of every connected UNIX socket in the network namespace of a process."""
    found: dict[int, int] = {}

    def ask() -> None:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/ns/net") as namespace:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(namespace.fileno(), CLONE_NEWNET) == 0:
                found.update(_peers())

    asking = threading.Thread(target=ask)  # of this thread only is the namespace changed, and it ends
    asking.start()
    asking.join()
    return found


def _peers() -> Iterator[tuple[int, int]]:
    request = struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, UDIAG_SHOW_PEER, 0, 0)
    header = struct.pack("=IHHII", 16 + len(request), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST_DUMP, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as diag:
        diag.send(header + request)
        while True:
            data = diag.recv(1 << 16)
            for kind_of, body in _messages(data):
                if kind_of in (NLMSG_DONE, NLMSG_ERROR):
                    return
                (inode,) = struct.unpack_from("=I", body, 4)
                yield from ((inode, peer) for peer in _peer_attribute(body[16:]))


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 16 <= len(data):
        length, kind_of = struct.unpack_from("=IH", data, at)
        yield kind_of, data[at + 16 : at + length]
        at += max(16, length + 3 & ~3)


def _peer_attribute(data: bytes) -> Iterator[int]:
    at = 0
    while at + 4 <= len(data):
        length, kind_of = struct.unpack_from("=HH", data, at)
        if kind_of == UNIX_DIAG_PEER:
            yield struct.unpack_from("=I", data, at + 4)[0]
        at += max(4, length + 3 & ~3)
