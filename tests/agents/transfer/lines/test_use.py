"""The streams of one migration see what the line carries, and try another connection one at a time."""

from pathlib import Path

from agents.transfer.lines.use import LineUse, Stream, connections


def test_each_sees_the_sum(tmp_path: Path) -> None:
    """What one tells, the other finds in the total, at once."""
    memory, files = LineUse(tmp_path / "use", Stream.MEMORY), LineUse(tmp_path / "use", Stream.FILES)
    memory.tell(1000, 1)
    files.tell(234, 3)

    assert memory.total_bytes == files.total_bytes == 1234
    assert (connections(tmp_path / "use", Stream.MEMORY), connections(tmp_path / "use", Stream.FILES)) == (1, 3)
    memory.close()
    files.close()


def test_the_next_process_goes_on(tmp_path: Path) -> None:
    """A stream's next process begins to count at nothing, and the total does not fall by that."""
    first = LineUse(tmp_path / "use", Stream.FILES)
    first.tell(1000, 2)
    first.close()
    first.close()
    second = LineUse(tmp_path / "use", Stream.FILES)
    assert second.total_bytes == 1000
    second.tell(1, 1)

    assert second.total_bytes == 1001
    second.close()


def test_one_tries_at_a_time(tmp_path: Path) -> None:
    """While one stream has a connection on trial the other does not begin one, and may when that has ended or its process has."""
    memory, files = LineUse(tmp_path / "use", Stream.MEMORY), LineUse(tmp_path / "use", Stream.FILES)
    assert memory.begin_trial()
    assert memory.begin_trial(), "its own goes on"
    assert not files.begin_trial()
    memory.end_trial()
    assert files.begin_trial()
    files.close()
    assert memory.begin_trial()
    memory.close()


def test_a_stream_that_has_not_gone(tmp_path: Path) -> None:
    """Nobody has told anything: no connections."""
    assert connections(tmp_path / "use", Stream.FILES) == 0
    (tmp_path / "use").write_bytes(b"x")
    assert connections(tmp_path / "use", Stream.FILES) == 0
