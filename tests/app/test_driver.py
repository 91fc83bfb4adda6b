"""The driver runs one migration, gives it up to the operator in time, and lets go of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from migrator.adapters.journal import SqlJournal
from migrator.app import driver
from migrator.app.driver import Driver, Surroundings
from migrator.core.phases import Phase
from migrator.wire.facts import Claim, Record, Standing, VeState
from migrator.wire.messages import Ask, Progress, Reply, Request, Stands
from tests.stories import BEGAN_S, GOOD, LOST, REQUEST, STARTED, said


@dataclass
class Link:
    """A host that always says the same."""

    reply: Reply
    heard: list[Request] = field(default_factory=list)

    async def ask(self, request: Request, limit_s: float, progress: Callable[[Progress], None] | None = None) -> Reply:
        """See AgentLink."""
        self.heard.append(request)
        await trio.lowlevel.checkpoint()
        return self.reply

    async def close(self) -> None:
        """See AgentLink."""


def in_the_blackout(journal: SqlJournal) -> None:
    """The journal of a migration whose controller ended while the hosts handed over."""
    epoch = journal.begin(REQUEST, BEGAN_S, "one")
    for event in [STARTED, *said(GOOD[:4])]:
        journal.append(REQUEST.migration, epoch, event, event.at_unix_s)


async def test_a_host_that_stays_silent_is_left_to_the_operator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that never answers is asked for as long as patience lasts; then the migration is blocked and free."""
    monkeypatch.setattr(driver, "ASK_AGAIN_S", 0.02)
    journal = SqlJournal.at(tmp_path / "journal.db")
    in_the_blackout(journal)
    held = Stands(Standing(Record("web", Claim.ARRIVING, 9, "m1", image_complete=True), VeState.FROZEN, False))
    silent, target = Link(LOST), Link(held)
    around = Surroundings(journal, {"alpha": silent, "beta": target}, time.time, "two", patience_s=0.3)

    with trio.fail_after(10):
        taken_up = await Driver.take_up(REQUEST.migration, around)
        story = await taken_up.resume()

    assert story.machine.phase is Phase.BLOCKED
    assert len(silent.heard) > 2
    assert all(isinstance(request, Ask) for request in [*silent.heard, *target.heard])
    assert journal.lease(REQUEST.migration, time.time(), "three")
    journal.close()
