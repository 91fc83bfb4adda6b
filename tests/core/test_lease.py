"""One controller drives a migration: whatever the clocks say, an epoch appends only until the next one was given."""

import random
from pathlib import Path

import pytest

from migrator.adapters.journal import SqlJournal
from migrator.core import lease as leases
from migrator.core.vocabulary import Resumed
from migrator.ports.journal import LeaseLost
from tests.stories import request


def test_a_held_lease_is_not_given() -> None:
    """A second controller waits until the lease has run out, and then gets a higher epoch."""
    held = leases.first("one", 100.0)

    assert leases.take(held, "two", 100.0 + leases.LEASE_S - 0.1) is None
    taken = leases.take(held, "two", 100.0 + leases.LEASE_S)
    assert taken is not None
    assert taken.epoch == held.epoch + 1
    assert not leases.held(taken, held.epoch)


def test_run_out_and_not_taken_is_still_held() -> None:
    """One who was held up may go on if nobody came."""
    held = leases.first("one", 100.0)

    assert leases.renew(held, held.epoch, 1000.0) == leases.Lease("one", held.epoch, 1000.0 + leases.LEASE_S)


def test_the_late_one_cannot_free_anothers_lease() -> None:
    """Giving up an old epoch changes nothing."""
    taken = leases.take(leases.give_up(leases.first("one", 0.0), 1), "two", 1.0)
    assert taken is not None

    assert leases.give_up(taken, 1) == taken
    assert leases.renew(taken, 1, 2.0) is None


@pytest.mark.parametrize("seed", range(20))
def test_the_journal_keeps_to_it(seed: int, tmp_path: Path) -> None:
    """The SQL journal gives, renews and refuses as the lease here does, whoever asks in whatever order."""
    journal, draw, now = SqlJournal.at(tmp_path / "journal.db"), random.Random(seed), 100.0
    epochs = [journal.begin(request(), now, "0")]
    lease = leases.first("0", now)
    for number in range(40):
        now += draw.choice((0.0, 1.0, leases.LEASE_S))
        epoch = draw.choice(epochs)
        match draw.choice(("lease", "renew", "append", "give up")):
            case "lease":
                taken = leases.take(lease, str(number), now)
                if taken is None:
                    with pytest.raises(LeaseLost):
                        journal.lease("m1", now, str(number))
                else:
                    lease = taken
                    assert journal.lease("m1", now, str(number)) == lease.epoch
                    epochs.append(lease.epoch)
            case "give up":
                lease = leases.give_up(lease, epoch)
                journal.give_up("m1", epoch)
            case what:
                renewed = leases.renew(lease, epoch, now)
                if renewed is None:
                    with pytest.raises(LeaseLost):
                        _renew(journal, what, epoch, now)
                else:
                    lease = renewed
                    _renew(journal, what, epoch, now)
    journal.close()


def _renew(journal: SqlJournal, what: str, epoch: int, now: float) -> None:
    if what == "renew":
        journal.renew("m1", epoch, now)
    else:
        journal.append("m1", epoch, Resumed(now), now)
