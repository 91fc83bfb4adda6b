"""A stream gets another connection when that pays, and not otherwise."""

from agents.transfer.lines.widening import STRANDS_MAX, Step, Widening

MIB = 1 << 20


def test_line_is_not_the_limit() -> None:
    """A stream that waits for its own reading, or for the operator's cap, is left alone."""
    widening = Widening()
    assert {widening.look(100 * MIB, 0.3, 1.0) for _ in range(20)} == {Step.STAY}


def test_as_long_as_it_pays() -> None:
    """Every further connection is kept that makes the stream quicker; the first that does not is let go, for good."""
    widening = Widening()
    quick = [15, 10, 25, 20, 35, 30, 35, 31]
    steps = [widening.look(mib * MIB, 0.9, 1.0) for mib in quick]

    assert steps[::2] == [Step.STAY] * 4, "buffers are filling"
    assert steps[1::2] == [Step.WIDEN, Step.WIDEN, Step.WIDEN, Step.NARROW]
    assert widening.strands == 3
    assert widening.look(10 * MIB, 0.9, 1.0) is Step.STAY


def test_one_is_enough() -> None:
    """On a line that one connection fills a second is tried once."""
    widening = Widening()
    steps = [widening.look(118 * MIB, 0.9, 1.0) for _ in range(9)]
    assert [step for step in steps if step is not Step.STAY] == [Step.WIDEN, Step.NARROW]
    assert widening.strands == 1


def test_most() -> None:
    """There is an end to it, however much it pays."""
    widening = Widening()
    steps = [widening.look(MIB << number, 0.9, 1.0) for number in range(4 * STRANDS_MAX)]
    assert steps.count(Step.WIDEN) == STRANDS_MAX - 1
    assert widening.strands == STRANDS_MAX


def test_none_can_be_opened() -> None:
    """It is not asked for again."""
    widening = Widening()
    assert [widening.look(MIB, 0.9, 1.0) for _ in range(2)] == [Step.STAY, Step.WIDEN]
    widening.ended()
    assert {widening.look(MIB, 0.9, 1.0) for _ in range(5)} == {Step.STAY}
    assert widening.strands == 1
