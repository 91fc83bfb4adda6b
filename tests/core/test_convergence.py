"""What the blackout is predicted to take, and when copying stops."""

from dataclasses import replace

from migrator.core.convergence import LIVE_LIMIT_S, START_S, STOP_S, Verdict, decide, limit_s, predict
from migrator.wire.facts import MemoryMethod, Mode
from migrator.wire.messages import Copied

LINE = 100e6


def passed(number: int, file_bytes: int, file_s: float) -> Copied:
    """A round of a VE whose memory does not move."""
    return Copied(number, file_s, file_bytes, file_s)


def test_stop_copy_is_stop_last_pass_and_start() -> None:
    """What a pass over the files took last is what it will take once more, between stop and start."""
    found = predict([passed(1, 10**9, 12.0), passed(2, 1000, 1.5)], 0, LINE, Mode.STOP_COPY)

    assert found.parts_s == {"stop": STOP_S, "files": 1.5, "start": START_S}
    assert found.blackout_s == STOP_S + 1.5 + START_S


def test_stop_copy_is_passed_until_it_does_not_pay() -> None:
    """A second pass always; a third only if the second took much less than the first."""
    first, long, short = passed(1, 10**9, 60.0), passed(2, 10**8, 8.0), passed(3, 1000, 7.9)

    assert decide([first], 0, 0.5, 12, LINE, Mode.STOP_COPY)[0] is Verdict.AGAIN
    assert decide([first, long], 0, 0.5, 12, LINE, Mode.STOP_COPY)[0] is Verdict.AGAIN
    assert decide([first, long, short], 0, 0.5, 12, LINE, Mode.STOP_COPY)[0] is Verdict.OVER_BUDGET


def test_the_hosts_undo_a_stop_copy_later() -> None:
    """A live blackout that takes 10 s has failed; services that stop and start may well take that."""
    predicted = predict([passed(1, 1000, 20.0)], 0, LINE, Mode.STOP_COPY)

    assert limit_s(Mode.LIVE, None) == LIVE_LIMIT_S
    assert limit_s(Mode.STOP_COPY, predicted) > 60 + predicted.blackout_s


def test_what_is_left_is_what_was_written_since_memory_was_looked_at() -> None:
    """However long the round was: memory that was looked at late in it has little to send."""
    long = Copied(2, 30.0, 0, 30.0, 10**8, 1.0, 20e6, MemoryMethod.TRACKED, since_memory_s=0.5)

    assert predict([long], 10**9, LINE).rest_bytes == 10**7
    assert predict([replace(long, since_memory_s=30.0)], 10**9, LINE).rest_bytes == 6 * 10**8


def test_a_broken_line_begins_the_count_again() -> None:
    """What was measured before the line broke does not decide: the round after it brought what was left, and once more it pays."""
    tracked = MemoryMethod.TRACKED
    moved = Copied(1, 4.0, 10**8, 1.0, 10**9, 4.0, memory_method=tracked)
    again = Copied(2, 0.5, 0, 0.1, 10**7, 0.4, 10**6, tracked)
    anew = replace(moved, round=3, anew=True)

    assert decide([moved, again], 10**9, 0.5, 12, LINE)[0] is Verdict.READY
    assert decide([moved, again, anew], 10**9, 0.5, 12, LINE)[0] is Verdict.AGAIN
    assert decide([moved, again, anew], 10**9, 0.5, 3, LINE)[0] is Verdict.OVER_BUDGET
