"""What the heartbeat of a VE proves about how many copies of it ran."""

from scenarios.faults.heartbeat import Heartbeats


def heard(*lines: str) -> Heartbeats:
    """Beats, as they came."""
    beats = Heartbeats()
    for line in lines:
        beats.note(f"{line}\n")
    return beats


def test_one_copy() -> None:
    """Counted on, heard twice on the way: nothing to say."""
    assert heard("9.5 1 10.0", "9.5 2 10.1", "9.5 2 10.1").contradictions() == []


def test_two_copies_from_one_moment() -> None:
    """One count at two times, whichever is heard first."""
    first, second = heard("9.5 1 10.0", "9.5 1 39.0"), heard("9.5 1 39.0", "9.5 1 10.0")

    assert (
        first.contradictions() == second.contradictions() == ["beat 1 of the start at 9.5 came at 10.000 and at 39.000"]
    )


def test_a_start_beside_an_earlier_one() -> None:
    """The earlier start counted on while the later one did."""
    [said] = heard("9.5 1 10.0", "11.0 1 11.1", "9.5 2 12.0").contradictions()

    assert "the start at 9.5 still ran at 12.0" in said


def test_what_two_places_heard() -> None:
    """The same from both is one beat; what contradicts itself in one of them does so together."""
    one, other = heard("9.5 1 10.0"), heard("9.5 1 10.0", "9.5 1 39.0")

    one.merge(other)

    assert len(one.times) == 1
    assert len(one.contradictions()) == 1


def test_explained() -> None:
    """The judge may know that the earlier copy had ended before the later could run."""
    beats = heard("9.5 1 10.0", "9.5 1 39.0")

    assert beats.contradictions(lambda each: each.earlier_unix_s <= 12.0 <= each.later_unix_s) == []
    assert len(beats.contradictions(lambda each: each.earlier_unix_s <= 9.0)) == 1
