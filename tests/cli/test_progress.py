"""Progress in lines: what has happened, in words, once."""

import pytest

from migrator.cli.progress import WORDS, Bars, PlainLines, lines_of
from migrator.core.phases import ENDED, Phase
from migrator.core.story import Story
from migrator.core.vocabulary import Event, Replied, Role
from migrator.wire.messages import Progress
from tests.stories import GOOD, LOST, REQUEST, STARTED, said, tell


class Lines:
    """Collects what each event has to say."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def told(self, story: Story, event: Event, commands: object) -> None:
        """See Observer."""
        self.found += lines_of(story, event)

    def progressed(self, story: Story, progress: Progress) -> None:
        """See Observer."""


def test_a_line_per_phase_and_round() -> None:
    """A good migration is told in its phases and rounds, each beginning with the VE's name; the end is the report's."""
    heard = Lines()
    tell(said(GOOD), [heard])

    assert heard.found == [
        "web: making room on the target",
        "web: copying while it runs",
        "web: round 1: 1000 B of files, 600 B of memory in 1.0 s; predicted blackout 200 ms",
        "web: round 2: 50 B of files, 60 B of memory in 100 ms; predicted blackout 200 ms",
        "web: handing over",
        "web: making sure that it runs on the target",
        "web: cleaning the source",
    ]


def test_every_phase_has_words() -> None:
    """No phase that can be waited in is shown by its code name."""
    assert set(WORDS) == set(Phase) - ENDED


def test_lost_answer_is_told() -> None:
    """That a host did not answer, and what is done about it, is a line."""
    heard = Lines()
    tell(said([*GOOD[:3], (Role.SOURCE, LOST)]), [heard])

    assert heard.found[-1] == "web: asking both hosts where it is"


def test_plain_lines_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output is for the result."""
    tell(said(GOOD), [PlainLines()])

    said_there = capsys.readouterr()
    assert said_there.out == ""
    assert said_there.err.count("\n") == 7


def test_bars_live_as_long_as_their_migration() -> None:
    """A bar is there from the first event to the end, follows bytes, and a late notice does not bring it back."""
    bars, story = Bars(), Story(REQUEST, 1000.0)
    try:
        for event in (STARTED, *said(GOOD[:3])):
            bars.told(story, event, story.tell(event))
        bars.progressed(story, Progress("copy files", 50, 200, 25.0))
        [task] = bars._progress.tasks
        assert (task.completed, task.total) == (50, 200)
        assert "50 B of 200 B, 25 B/s, 6.0 s left" in task.fields["detail"]
        for event in said(GOOD[3:], 1010.0):
            bars.told(story, event, story.tell(event))
        bars.progressed(story, Progress("copy files", 200, 200))
        assert bars._progress.tasks == []
    finally:
        bars.close()


def test_event_type_is_known() -> None:
    """A plain reply without news says nothing."""
    story = tell(said(GOOD[:1]))

    assert lines_of(story, Replied(1002.0, Role.SOURCE, GOOD[0][1])) == []
