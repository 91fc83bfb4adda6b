"""A journal, and a clock that makes waiting short."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from trio.testing import MockClock

from migrator.adapters.journal import SqlJournal


@pytest.fixture
def quick_clock() -> MockClock:
    """Thirty seconds in one: threads (the journal) go on at their own pace, so the clock cannot simply jump."""
    return MockClock(rate=30)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqlJournal]:
    """A real one, in a SQLite file."""
    made = SqlJournal.at(tmp_path / "journal.db")
    yield made
    made.close()
