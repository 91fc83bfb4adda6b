"""What crosses the wire comes out as it went in, and nothing else comes out at all."""

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrator.wire import framing
from migrator.wire.codec import decode, encode
from migrator.wire.facts import Interface, VeFacts, VeState
from migrator.wire.faults import Fault, FaultCode, FaultError
from migrator.wire.messages import Envelope, HandedOver, InspectHost, PeerRestore, Reserve

FACTS = VeFacts(
    "web",
    "oci",
    VeState.RUNNING,
    interfaces=(Interface("eth0", "02:00:00:00:00:01", "ve-web", "br0", 1500, ("10.0.0.9/24", "fd00::9/64")),),
    config=b"\x00\xff",
)
BODIES = [
    InspectHost(),
    Reserve("m1", 3, "alpha", FACTS, "ssh-ed25519 AAAA", 1_800_000_000, 30.0),
    PeerRestore("m1", 7, "web", {"pages-1.img": "00" * 32}),
    HandedOver(0.4, {"dump": 0.1}, 100, 5),
    Fault(FaultCode.TOOL_FAILED, "criu ended with 1", host="beta", step="restore", tool="criu", log_tail="Error"),
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_round_trip(body: object) -> None:
    """A message is the same value on the other side."""
    envelope = Envelope(7, body)  # type: ignore[arg-type]

    [frame] = framing.FrameReader().feed(encode(envelope))

    assert decode(frame) == envelope


@settings(deadline=None)  # a busy machine is no failure
@given(st.binary(max_size=200))
def test_garbage_is_a_fault(frame: bytes) -> None:
    """Any bytes that are no message raise the one fault that says so."""
    with pytest.raises(FaultError) as caught:
        decode(frame)

    assert caught.value.fault.code is FaultCode.BAD_REQUEST


@pytest.mark.parametrize(
    "plain",
    [
        {"number": 1, "body": {"_type": "Zork"}},
        {"number": 1, "body": {"type": "Ask"}},
        {"number": 1, "body": {"type": "Ask", "ve": "a", "extra": 1}},
        {"number": 1, "body": {"type": "Hello", "version": "x", "name": "c"}},
    ],
)
def test_wrong_shape_is_a_fault(plain: object) -> None:
    """A message with a missing, unknown or ill-typed field is refused."""
    with pytest.raises(FaultError):
        decode(msgpack.packb(plain))


def test_oversized_frame_is_refused_by_its_header() -> None:
    """Four bytes are enough to refuse a frame that is too large; nothing is allocated for it."""
    with pytest.raises(FaultError, match="was announced"):
        framing.FrameReader().feed((framing.FRAME_BYTES_MAX + 1).to_bytes(4, "big"))


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(st.binary(max_size=50), max_size=8), st.integers(1, 7))
def test_frames_survive_any_cutting(bodies: list[bytes], step: int) -> None:
    """However a stream is cut into pieces, the same frames come out in the same order."""
    stream = b"".join(framing.pack(body) for body in bodies)
    reader = framing.FrameReader()

    out = [frame for at in range(0, len(stream), step) for frame in reader.feed(stream[at : at + step])]

    assert out == bodies
    assert reader.at_boundary
