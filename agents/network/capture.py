"""Frames that come for a VE while it stands still: kept at the source, given to it where it runs next.

A client whose packets are lost in a blackout sends them again after 0.2, 0.6, 1.4, 3 … s, so that it would wait up to twice
as long as the VE stood still (RFC 6298 section 5.5). Its last attempt is delivered the moment the VE runs instead.
Rule: a frame is only kept in the kernel's buffer of one socket; nothing is answered for the VE, nothing is sent to the
network. Each frame carries the kernel's header of offloads in front (PACKET_VNET_HDR): one from a neighbour on this
machine may lack its checksum still. Sources: packet(7), and socket(7) for SO_ATTACH_FILTER.
"""

import contextlib
import ctypes
import socket
import struct
from collections.abc import Iterable, Sequence

ETH_P_ALL = 0x0003
SO_ATTACH_FILTER = 26
SOL_PACKET = 263
PACKET_VNET_HDR = 15
PACKET_IGNORE_OUTGOING = 23
OFFLOADS_BYTES = 10
"""sizeof(struct virtio_net_hdr), linux/virtio_net.h."""
BUFFER_BYTES = 4 << 20
FRAMES_MAX = 512
FRAME_BYTES_MAX = 1 << 16
_LOAD_HALF, _LOAD_WORD, _JUMP_EQUAL, _RETURN = 0x28, 0x20, 0x15, 0x06


class Capture:
    """Listens from the moment it is made until it is closed."""

    def __init__(self, macs: Iterable[str]) -> None:
        """Frames to any of these addresses, on any link of this host."""
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.setblocking(False)
        program = _filter([bytes.fromhex(mac.replace(":", "")) for mac in macs])
        buffer = ctypes.create_string_buffer(program)
        attached = struct.pack("HL", len(program) // 8, ctypes.addressof(buffer))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, attached)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        self._socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        self._socket.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        self._drain()  # a packet socket takes every frame until it has its filter, and no header at first

    def take(self) -> tuple[bytes, ...]:
        """What came, in order, each frame once (a bridge shows it on several links), and stop listening."""
        frames = self._drain()
        self.close()
        return tuple(frames)

    def _drain(self) -> dict[bytes, None]:
        frames: dict[bytes, None] = {}
        with contextlib.suppress(BlockingIOError):
            while len(frames) < FRAMES_MAX:
                frames.setdefault(self._socket.recv(FRAME_BYTES_MAX))
        return frames

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


def _filter(macs: Sequence[bytes]) -> bytes:
    """Classic BPF: accept a frame whose destination is one of the addresses."""
    code = b""
    for mac in macs:
        high, low = struct.unpack("!HI", mac)
        code += _op(_LOAD_HALF, 0) + _op(_JUMP_EQUAL, high, 0, 3)
        code += _op(_LOAD_WORD, 2) + _op(_JUMP_EQUAL, low, 0, 1) + _op(_RETURN, FRAME_BYTES_MAX)
    return code + _op(_RETURN, 0)


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def destination(frame: bytes) -> bytes:
    """The hardware address a kept frame was sent to."""
    return frame[OFFLOADS_BYTES : OFFLOADS_BYTES + 6]


def deliver(link: str, frames: Iterable[bytes]) -> None:
    """Send frames into a VE by the host's end of its link."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        raw.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        raw.bind((link, 0))
        for frame in frames:
            with contextlib.suppress(OSError):  # a frame that does not fit this link is lost like any other
                raw.send(frame)
