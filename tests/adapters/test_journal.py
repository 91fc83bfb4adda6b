"""The journal's contract, held by every database it is kept in: leases, epochs, and a story that is read as it was told."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sql

from migrator.adapters.journal import LEASE_S, SqlJournal
from migrator.core.story import Story
from migrator.core.vocabulary import (
    AbortRequested,
    CutoverReached,
    Fenced,
    MigrationRequest,
    OverBudget,
    Policy,
    Replied,
    Resumed,
    Role,
)
from migrator.ports.journal import LeaseLost, NoPlace
from migrator.wire.facts import Mode, Objection
from tests.adapters import databases
from tests.stories import BROKEN, GOOD, REQUEST, STARTED, VE, said

T = 1000.0
LATER = T + LEASE_S + 1
Open = Callable[[], SqlJournal]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """One PostgreSQL server for all tests that want one."""
    with databases.server() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.lab)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'journal.db'}"
        return
    url = request.getfixturevalue("server")
    yield url
    engine = sql.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sql.text("drop schema public cascade"))
        connection.execute(sql.text("create schema public"))
    engine.dispose()


@pytest.fixture
def open_journal(url: str) -> Iterator[Open]:
    """Opens the journal as one more controller would."""
    made: list[SqlJournal] = []

    def one() -> SqlJournal:
        made.append(SqlJournal(url))
        return made[-1]

    yield one
    for each in made:
        each.close()


@pytest.fixture
def journal(open_journal: Open) -> SqlJournal:
    """The journal as one controller sees it."""
    return open_journal()


def request(migration: str = "m1", ve: str = "web") -> MigrationRequest:
    """A migration with nothing left at its default."""
    policy = Policy(Mode.LIVE, False, 0.25, OverBudget.ABORT, 3, 7.5, 1000, ("cpu-flags",), 5000.5, True)
    return replace(
        REQUEST,
        migration=migration,
        ve=ve,
        policy=policy,
        new_id="www",
        names={"bridge:br0": "vmbr0"},
        target_port=2222,
    )


EVENTS = [
    replace(STARTED, objections=(Objection("a", "b", "c", True),), source_ves=(replace(VE, config=b"\x00\xff"),)),
    *said([*GOOD, (Role.TARGET, BROKEN)]),
    Replied(1020.0, Role.TARGET, GOOD[-1][1], 7),
    AbortRequested(1021.5, "ops ünï"),
    CutoverReached(1022.0),
    Resumed(1023.0),
    Fenced(1024.0, Role.TARGET, "ops", "its power is cut; I pulled the plug"),
]


def test_story_is_read_as_it_was_told(journal: SqlJournal, open_journal: Open) -> None:
    """Every kind of event comes back equal, in order, also for another controller; replaying it gives the same phases."""
    epoch = journal.begin(request(), T, "here:1")
    for event in EVENTS:
        journal.append("m1", epoch, event, event.at_unix_s)

    entry = open_journal().read("m1")

    assert entry is not None
    assert entry.request == request()
    assert entry.events == tuple(EVENTS)
    assert (entry.began_unix_s, entry.ended, entry.holder) == (T, "", "here:1")
    told = Story(request(), T)
    for event in EVENTS:
        told.tell(event)
    assert Story.replay(entry.request, entry.began_unix_s, entry.events).passages == told.passages


def test_unknown_migration(journal: SqlJournal) -> None:
    """There is nothing to read of it, and nothing to take."""
    assert journal.read("zz") is None
    with pytest.raises(KeyError):
        journal.lease("zz", T, "here:1")


def test_held_migration_is_not_taken(journal: SqlJournal, open_journal: Open) -> None:
    """As long as its lease lasts nobody else gets it, and is told who holds it."""
    journal.begin(request(), T, "here:1")

    with pytest.raises(LeaseLost, match="here:1"):
        open_journal().lease("m1", T + LEASE_S - 1, "there:2")


def test_lease_lasts_as_long_as_it_is_renewed_or_used(journal: SqlJournal, open_journal: Open) -> None:
    """Renewing and appending both prolong it."""
    other = open_journal()
    epoch = journal.begin(request(), T, "here:1")
    journal.renew("m1", epoch, T + LEASE_S - 1)
    with pytest.raises(LeaseLost):
        other.lease("m1", LATER, "there:2")
    journal.append("m1", epoch, EVENTS[0], LATER)
    with pytest.raises(LeaseLost):
        other.lease("m1", LATER + LEASE_S - 1, "there:2")


def test_who_lost_the_lease_can_do_nothing_more(journal: SqlJournal, open_journal: Open) -> None:
    """After a take-over every write of the first is refused and leaves no trace; giving up takes nothing away."""
    first = journal.begin(request(), T, "here:1")
    journal.append("m1", first, EVENTS[0], T)
    other = open_journal()
    second = other.lease("m1", LATER, "there:2")

    assert second > first
    writes: tuple[Callable[[], object], ...] = (
        lambda: journal.append("m1", first, EVENTS[1], LATER),
        lambda: journal.renew("m1", first, LATER),
        lambda: journal.end("m1", first, "done"),
    )
    for write in writes:
        with pytest.raises(LeaseLost, match="there:2"):
            write()
    journal.give_up("m1", first)

    entry = other.read("m1")
    assert entry is not None
    assert (entry.events, entry.ended, entry.holder) == ((EVENTS[0],), "", "there:2")
    assert entry.leased_until_unix_s > LATER
    other.append("m1", second, EVENTS[1], LATER)


def test_given_up_lease_is_free_at_once(journal: SqlJournal, open_journal: Open) -> None:
    """Nobody waits for a lease that its holder has let go, the holder included."""
    epoch = journal.begin(request(), T, "here:1")
    journal.give_up("m1", epoch)

    assert open_journal().lease("m1", T + 1, "there:2") == epoch + 1


def test_epochs_rise_for_one_holder_too(journal: SqlJournal) -> None:
    """A controller that takes up again what it left is not taken for its earlier self."""
    epoch = journal.begin(request(), T, "here:1")
    journal.give_up("m1", epoch)
    again = journal.lease("m1", T + 1, "here:1")

    with pytest.raises(LeaseLost):
        journal.append("m1", epoch, EVENTS[0], T + 2)
    journal.append("m1", again, EVENTS[0], T + 2)


def test_unfinished_and_history(journal: SqlJournal) -> None:
    """Unfinished: oldest first. History: newest first, as many as asked for, of one VE if named."""
    for number, (name, ve) in enumerate((("m1", "web"), ("m2", "db"), ("m3", "web"), ("m4", "web"))):
        epoch = journal.begin(request(name, ve), T + number, "here:1")
        if name in ("m1", "m3"):
            journal.end(name, epoch, "done")

    assert [each.request.migration for each in journal.unfinished()] == ["m2", "m4"]
    assert [each.request.migration for each in journal.history(3)] == ["m4", "m3", "m2"]
    assert [(each.request.migration, each.ended) for each in journal.history(9, "web")] == [
        ("m4", ""), ("m3", "done"), ("m1", "done")
    ]  # fmt: skip


def test_one_id_is_one_migration(journal: SqlJournal, open_journal: Open) -> None:
    """An id that is taken cannot begin again."""
    journal.begin(request(), T, "here:1")

    with pytest.raises(sql.exc.IntegrityError):
        open_journal().begin(request(), T, "there:2")


def test_wish_needs_no_lease(journal: SqlJournal, open_journal: Open) -> None:
    """Anybody may wish for an abort; whoever drives the migration hears of the last one."""
    journal.begin(request(), T, "here:1")
    assert journal.wished("m1") == ""
    other = open_journal()
    other.wish("m1", "eve", T + 1)
    other.wish("m1", "ops", T + 2)

    assert journal.wished("m1") == "ops"


# --- several processes -----------------------------------------------------------------------------

PROGRAM = """
import sys
from migrator.adapters.journal import SqlJournal
from migrator.ports.journal import LeaseLost, NoPlace
from tests.adapters.test_journal import EVENTS, LATER, request

url, name, work = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
journal = SqlJournal(url)
if work == "lease":
    try:
        print(journal.lease("m1", LATER, name))
    except LeaseLost as lost:
        print("lost")
elif work == "begin":
    try:
        print(journal.begin(request(name), LATER, name, {"alpha": 2, "beta": 5}))
    except NoPlace as busy:
        print(busy.host)
else:
    epoch = journal.begin(request(name), LATER, name)
    for number in range(int(work)):
        journal.append(name, epoch, EVENTS[number % len(EVENTS)], LATER)
        print(number, flush=True)
journal.close()
"""


class Other:
    """Another controller: a process of its own, ready to begin."""

    def __init__(self, url: str, name: str, work: str) -> None:
        argv = [sys.executable, "-c", PROGRAM, url, name, work]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(argv, text=True, cwd=Path(__file__).parents[2], **pipes)  # type: ignore[call-overload]

    def wait_until_ready(self) -> None:
        """It has started, and waits for `go`."""
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            raise AssertionError(self.process.communicate()[1])

    def go(self) -> None:
        """Begin."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def words(self) -> list[str]:
        """What it said, when it has ended well."""
        output, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, errors
        lines: list[str] = output.splitlines()
        return lines


def at_once(url: str, works: dict[str, str]) -> dict[str, list[str]]:
    """Let these processes work at the same time; what each said."""
    others = {name: Other(url, name, work) for name, work in works.items()}
    for other in others.values():
        other.wait_until_ready()
    for other in others.values():
        other.go()
    return {name: other.words() for name, other in others.items()}


def test_one_of_many_gets_the_lease(journal: SqlJournal, url: str) -> None:
    """Five controllers take one migration over at the same instant: one has it, and the journal says who."""
    journal.begin(request(), T, "here:1")

    said = at_once(url, {f"p{number}": "lease" for number in range(5)})

    [winner] = [name for name, words in said.items() if words == ["2"]]
    assert sorted(itertools.chain(*said.values())) == ["2"] + ["lost"] * 4
    entry = journal.read("m1")
    assert entry is not None
    assert entry.holder == winner


def test_a_host_has_so_many_places(journal: SqlJournal) -> None:
    """Whoever drives them: no more begin than both hosts take; one that ends, or that nobody drives, frees its place."""
    most = {REQUEST.source: 2, REQUEST.target: 3, "other": 0}
    first = journal.begin(request("m1"), T, "here:1", most)
    journal.begin(request("m2"), T, "there:2", most)
    with pytest.raises(NoPlace, match=f"{REQUEST.source} has as many migrations under way"):
        journal.begin(request("m3"), T, "here:1", most)
    assert journal.read("m3") is None

    journal.end("m1", first, "done")
    journal.begin(request("m3"), T, "here:1", most)
    journal.begin(request("m4"), LATER, "here:1", most)  # nobody drives m2 and m3 any more

    assert [entry.request.migration for entry in journal.unfinished()] == ["m2", "m3", "m4"]


def test_places_are_counted_by_all_together(journal: SqlJournal, url: str) -> None:
    """Five controllers begin at the same instant where two have a place: two begin."""
    said = at_once(url, {f"p{number}": "begin" for number in range(5)})

    assert sorted(itertools.chain(*said.values())) == ["1", "1", "alpha", "alpha", "alpha"]
    assert len(journal.unfinished()) == 2


def test_processes_write_side_by_side(url: str, open_journal: Open) -> None:
    """Four controllers, all the first to open the journal, write a story each: none waits for ever, none loses a word."""
    at_once(url, {f"p{number}": "40" for number in range(4)})

    found = {each.request.migration: each.events for each in open_journal().history(9)}
    wanted = tuple(EVENTS[number % len(EVENTS)] for number in range(40))
    assert found == {f"p{number}": wanted for number in range(4)}


def test_what_was_appended_outlives_its_writer(url: str, open_journal: Open) -> None:
    """A controller that is killed in the middle leaves every event it was told of, whole and in order."""
    other = Other(url, "p0", "100000")
    other.wait_until_ready()
    other.go()
    assert other.process.stdout is not None
    told = [other.process.stdout.readline() for _ in range(20)]
    other.process.kill()
    other.process.communicate()

    entry = open_journal().read("p0")

    assert told[-1] == "19\n"
    assert entry is not None
    assert len(entry.events) >= 20
    assert entry.events[:20] == tuple(EVENTS[number % len(EVENTS)] for number in range(20))
