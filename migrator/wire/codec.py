"""PURE. Messages to msgpack and back; the only file that imports msgpack.

Rule: what comes from outside is checked field by field before anyone sees it; anything else is a Fault BAD_REQUEST,
never a crash.
"""

from typing import Any

import msgpack
from cattrs import Converter, transform_error
from cattrs.strategies import configure_tagged_union

from migrator.wire import framing
from migrator.wire.faults import FaultCode, fault_error
from migrator.wire.messages import Envelope, Hello, Notice, PeerRequest, Reply, Request

NESTING_MAX = 100


def _converter() -> Converter:
    converter = Converter(forbid_extra_keys=True)
    configure_tagged_union(
        Hello | Request | PeerRequest | Reply | Notice, converter, tag_name="type", tag_generator=_tag
    )
    converter.register_structure_hook(bytes, _bytes)
    converter.register_unstructure_hook(bytes, lambda value: value)
    return converter


def _tag(kind: type[Any]) -> str:
    return kind.__name__


def _bytes(value: object, _: type[bytes]) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError(f"bytes expected, not {type(value).__name__}")
    return value


_CONVERTER = _converter()


def encode(envelope: Envelope) -> bytes:
    """A whole frame."""
    body: Any = msgpack.packb(_CONVERTER.unstructure(envelope), use_bin_type=True)
    return framing.pack(bytes(body))


def decode(frame: bytes) -> Envelope:
    """The message in a frame's body. Raises FaultError(BAD_REQUEST) for anything that is not one."""
    try:
        plain = msgpack.unpackb(frame, raw=False, strict_map_key=True)
        return _CONVERTER.structure(plain, Envelope)
    except Exception as error:  # every way in which foreign bytes can be wrong is the same fault
        reason = "; ".join(transform_error(error)) if isinstance(error, ExceptionGroup) else str(error)
        raise fault_error(
            FaultCode.BAD_REQUEST, f"a frame of {len(frame)} bytes is no message: {reason[:300]}"
        ) from error


def to_plain(value: Any) -> Any:
    """Any wire value as plain dicts, lists and scalars (for JSON and the journal)."""
    return _CONVERTER.unstructure(value)


def from_plain(plain: Any, kind: Any) -> Any:
    """The inverse of to_plain for a wire type."""
    return _CONVERTER.structure(plain, kind)
