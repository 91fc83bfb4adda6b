"""PURE. Bytes in, whole frames out: four bytes of length, big-endian, then that many bytes.

Rule: a peer that sends garbage is found out after at most one header; nothing is allocated on its word.
"""

from migrator.wire.faults import FaultCode, fault_error

HEADER_BYTES = 4
FRAME_BYTES_MAX = 8 * 1024 * 1024


def pack(body: bytes) -> bytes:
    """One frame. Raises FaultError(BAD_REQUEST) for a body over FRAME_BYTES_MAX."""
    if len(body) > FRAME_BYTES_MAX:
        raise fault_error(FaultCode.BAD_REQUEST, f"a message of {len(body)} bytes is over {FRAME_BYTES_MAX}")
    return len(body).to_bytes(HEADER_BYTES, "big") + body


class FrameReader:
    """Collects bytes and gives out whole frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that `data` completes. Raises FaultError(BAD_REQUEST) for an impossible length."""
        self._buffer += data
        frames: list[bytes] = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> bytes | None:
        if len(self._buffer) < HEADER_BYTES:
            return None
        size = int.from_bytes(self._buffer[:HEADER_BYTES], "big")
        if size > FRAME_BYTES_MAX:
            raise fault_error(
                FaultCode.BAD_REQUEST,
                f"a frame of {size} bytes was announced; at most {FRAME_BYTES_MAX} are taken",
            )
        if len(self._buffer) < HEADER_BYTES + size:
            return None
        frame = bytes(self._buffer[HEADER_BYTES : HEADER_BYTES + size])
        del self._buffer[: HEADER_BYTES + size]
        return frame

    @property
    def at_boundary(self) -> bool:
        """Whether no part of a frame is waiting: the only clean place for a stream to end."""
        return not self._buffer
