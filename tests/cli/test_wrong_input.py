"""What a person may type that cannot be done: one clear paragraph, its own exit status, and no host is touched."""

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from migrator.adapters.journal import SqlJournal
from migrator.cli.exits import Exit
from migrator.cli.main import main
from migrator.core.vocabulary import Role
from tests.stories import BROKEN, GOOD, LOST, REQUEST, STARTED, said, undone

Run = Callable[..., Result]


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """An inventory of two hosts at which nobody answers, and a journal."""
    inventory = tmp_path / "inventory.toml"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    known = tmp_path / "known_hosts"
    known.touch()
    inventory.write_text(
        "".join(
            f'[[host]]\nname = "{name}"\naddress = "127.0.0.1"\nport = {port}\nknown_hosts = "{known}"\n'
            for name in ("alpha", "beta")
        )
    )
    return {"MIGRATOR_INVENTORY": str(inventory), "MIGRATOR_JOURNAL": str(tmp_path / "state/journal.db")}


@pytest.fixture
def run(places: dict[str, str]) -> Run:
    """The program, as if typed."""

    def typed(*words: str, **more: str) -> Result:
        done = CliRunner().invoke(main, words, env={**places, "MIGRATOR_LOG": "", **more})
        assert "Traceback" not in done.output
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done

    return typed


@pytest.fixture
def journal(places: dict[str, str]) -> SqlJournal:
    """A journal with one migration that was undone, one that was left blocked, one whose hosts could not be asked."""
    made = SqlJournal.at(Path(places["MIGRATOR_JOURNAL"]))
    stories = {"m1": [(Role.SOURCE, BROKEN), *undone()], "m2": [*GOOD[:4], (Role.SOURCE, LOST)], "m3": None}
    for number, (name, replies) in enumerate(stories.items()):
        from dataclasses import replace

        request = replace(REQUEST, migration=name)
        epoch = made.begin(request, 1000.0 + number, "elsewhere:1")
        for event in [STARTED, *said(replies)] if replies else []:
            made.append(name, epoch, event, event.at_unix_s)
        if name != "m2":
            made.end(name, epoch, "undone" if replies else "refused")
        else:
            made.give_up(name, epoch)
    made.close()
    return made


NOT_NAMES = ["--help", "-v", "../x", "a/b", "", ".hidden", "a b", "x" * 65, "ünï", "a..b", "x;reboot"]


@pytest.mark.parametrize("name", NOT_NAMES)
@pytest.mark.parametrize(
    "words",
    [("plan", "--", "NAME", "beta"), ("migrate", "--", "NAME", "beta"), ("migrate", "--", "web", "NAME", "beta"),
     ("ve", "show", "--", "NAME"), ("ve", "start", "--", "NAME"), ("ve", "stop", "--", "NAME")],
    ids=" ".join,
)  # fmt: skip
def test_what_cannot_be_a_ve_is_a_usage_error(run: Run, words: tuple[str, ...], name: str) -> None:
    """An id that looks like an option, a path or nothing is refused before any host is asked."""
    done = run(*(name if word == "NAME" else word for word in words))

    assert done.exit_code == Exit.USAGE
    assert "cannot be the name of a VE" in done.stderr
    assert "no host was asked" in done.stderr


@pytest.mark.parametrize("name", ["../x", "--help", "a/b"])
def test_new_id_is_checked_as_well(run: Run, name: str) -> None:
    """The id on the target is a name like any other."""
    done = run("migrate", "web", "beta", f"--new-id={name}")

    assert (done.exit_code, "cannot be the name of a VE" in done.stderr) == (Exit.USAGE, True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "First steps"),
        (("fly",), "No such command 'fly'"),
        (("migrate", "web"), "Missing argument"),
        (("migrate", "web", "beta", "--parallel", "0"), "--parallel"),
        (("migrate", "web", "beta", "--budget", "soon"), "--budget"),
        (("migrate", "web", "beta", "--mode", "fast"), "--mode"),
        (("migrate", "web", "beta", "--cutover-at", "noon"), "--cutover-at"),
        (("migrate", "web", "beta", "--metrics-port", "99999"), "--metrics-port"),
        (("migrate", "web", "web", "beta"), "named twice"),
        (("migrate", "web", "db", "beta", "--new-id", "x"), "goes with one VE"),
        (("host", "add", "../x", "192.0.2.1"), "is no name for a host"),
        (("host", "add", "gamma"), "give its ADDRESS"),
        (("host", "add", "gamma", "192.0.2.1", "--port", "ssh"), "--port"),
        (("fence", "alpha"), "--why"),
        (("history", "--limit", "0"), "--limit"),
        (("completion", "tcsh"), "tcsh"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else None,
)
def test_usage_errors(run: Run, words: tuple[str, ...], says: str) -> None:
    """A command line that cannot be understood: status 2, and the word that is wrong."""
    done = run(*words)

    assert done.exit_code == Exit.USAGE
    assert says in done.output


@pytest.mark.parametrize(
    "words",
    [("plan", "web", "gamma"), ("migrate", "web", "gamma"), ("host", "check", "gamma"), ("host", "remove", "gamma"),
     ("ve", "list", "--host", "gamma"), ("fence", "gamma", "--why", "x", "--yes"), ("migrate", "web", "../x")],
    ids=" ".join,
)  # fmt: skip
def test_unknown_host(run: Run, words: tuple[str, ...]) -> None:
    """A host that is not in the inventory: status 8, with the ones that are."""
    done = run(*words)

    assert done.exit_code == Exit.NOT_FOUND
    assert "alpha, beta" in done.stderr


@pytest.mark.parametrize(
    "words", [("show", "zz"), ("abort", "zz"), ("resume", "zz"), ("recover", "zz"), ("show", "../x")], ids=" ".join
)
def test_unknown_migration(run: Run, words: tuple[str, ...]) -> None:
    """A migration that the journal does not have: status 8, and where to look."""
    done = run(*words)

    assert done.exit_code == Exit.NOT_FOUND
    assert "migrator history" in done.stderr


@pytest.mark.parametrize(
    "words",
    [("host", "check"), ("ve", "list"), ("ve", "show", "web"), ("plan", "web", "beta"), ("migrate", "web", "beta"),
     ("ve", "stop", "web"), ("migrate", "web", "beta", "--from", "alpha")],
    ids=" ".join,
)  # fmt: skip
def test_silent_hosts(run: Run, words: tuple[str, ...]) -> None:
    """Hosts that do not answer: status 6, never `not found`; the words name host and address."""
    done = run(*words)

    assert done.exit_code == Exit.UNREACHABLE
    assert "alpha" in done.output
    assert "127.0.0.1" in done.output


def test_host_list_shows_silent_hosts(run: Run) -> None:
    """A list is a list: it has a line for a host that does not answer, and is no failure."""
    done = run("host", "list")

    assert done.exit_code == Exit.DONE
    assert [line.split()[:3] for line in done.stdout.splitlines()[1:]] == [
        ["alpha", "no", "answer"],
        ["beta", "no", "answer"],
    ]


@pytest.mark.parametrize("text", ["[[host", '[[host]]\nname = "a"\n', None], ids=["no TOML", "no address", "none"])
@pytest.mark.parametrize("words", [("host", "list"), ("migrate", "web", "beta"), ("recover",)], ids=" ".join)
def test_inventory_that_cannot_be_used(
    run: Run, places: dict[str, str], words: tuple[str, ...], text: str | None
) -> None:
    """Status 7, with the file and what is wrong with it."""
    file = Path(places["MIGRATOR_INVENTORY"])
    file.unlink() if text is None else file.write_text(text)
    SqlJournal.at(Path(places["MIGRATOR_JOURNAL"])).close()

    done = run(*words)

    if words == ("recover",):
        assert done.exit_code == Exit.DONE  # nothing is unfinished, so no host is needed
    else:
        assert done.exit_code == Exit.SETTINGS
        assert str(file) in done.stderr


@pytest.mark.parametrize(
    ("journal_at", "says"),
    [
        ("/proc/none/journal.db", "/proc/none"),
        ("/dev/null", "/dev/null"),
        ("nosuch://x/y", "nosuch"),
        ("mysql://x/y", "mysql"),
    ],
)
def test_journal_that_cannot_be_used(run: Run, journal_at: str, says: str) -> None:
    """Status 7, with the journal's place and the reason."""
    done = run("history", MIGRATOR_JOURNAL=journal_at)

    assert done.exit_code == Exit.SETTINGS
    assert says in done.stderr


def test_metrics_port_in_use(run: Run) -> None:
    """A port that is taken, a log that cannot be written: refused before anything is changed."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        busy = run("migrate", "web", "beta", "--metrics-port", port)
    unwritable = run("migrate", "web", "beta", MIGRATOR_LOG="/proc/none/log")

    assert (busy.exit_code, port in busy.stderr, "nothing was changed" in busy.stderr) == (Exit.REFUSED, True, True)
    assert (unwritable.exit_code, "/proc/none/log" in unwritable.stderr) == (Exit.REFUSED, True)


@pytest.mark.usefixtures("journal")
def test_status_tells_the_unfinished_and_the_next_command(run: Run) -> None:
    """Where each host says the VE is, who drove it last, and what to do next."""
    text = run("status").stdout
    [plain] = json.loads(run("status", "--json").stdout)

    assert text.startswith("migration m2: web from alpha to beta: settling")
    assert "driven by nobody; last by elsewhere:1" in text
    assert "next: migrator recover m2" in text
    assert set(plain["hosts"]) == {"alpha", "beta"}
    assert plain["report"]["phase"] == "settling"


@pytest.mark.usefixtures("journal")
def test_why_is_told_when_all_that_is_known_is_a_lost_answer(run: Run) -> None:
    """No definite fault: host, step and the answer that did not come stand in `status` and `show`."""
    for words in (("status",), ("show", "m2")):
        assert f"  why: handing-over on alpha: {LOST.message}" in run(*words).stdout.splitlines()


@pytest.mark.usefixtures("journal")
def test_the_same_command_again_names_the_migration_that_is_not_over(run: Run) -> None:
    """A controller was killed and its command is typed again: no second migration, no host asked; how to go on with the first."""
    done = run("migrate", "web", "beta")

    assert done.exit_code == Exit.REFUSED
    assert "web is in migration m2 from alpha to beta, which nobody drives" in done.stderr
    assert "Next: migrator resume m2" in done.stderr


def test_what_another_controller_drives_is_left_to_it(run: Run, journal: SqlJournal, places: dict[str, str]) -> None:
    """Not done, and said so: who drives it, how long a dead one can hold it, the next command."""
    other = SqlJournal.at(Path(places["MIGRATOR_JOURNAL"]))
    other.lease("m2", time.time(), "elsewhere:7")
    done, again = run("resume", "m2"), run("migrate", "web", "beta")
    other.close()

    assert (done.exit_code, again.exit_code) == (Exit.BLOCKED, Exit.REFUSED)
    assert "driven by elsewhere:7" in done.stderr
    assert "Next: migrator recover m2" in done.stderr
    assert "which elsewhere:7 drives" in again.stderr


@pytest.mark.usefixtures("journal")
def test_history_and_show_tell_how_each_ended(run: Run) -> None:
    """Newest first; one whose hosts could not be asked is `refused`, and its VE untouched."""
    rows = run("history").stdout.splitlines()[1:]
    shown = run("show", "m1", "--story").stdout
    refused = json.loads(run("show", "m3", "--json").stdout)["report"]

    assert [row.split()[0] for row in rows] == ["m3", "m2", "m1"]
    assert "criu ended with 1" in shown
    assert "Replied source: dump on alpha (criu)" in shown
    assert (refused["phase"], "untouched" in refused["outcome"]) == ("refused", True)


@pytest.mark.usefixtures("journal")
@pytest.mark.parametrize("verb", ["abort", "resume", "recover"])
def test_ended_migration_is_not_taken_up(run: Run, verb: str) -> None:
    """What has ended stays ended: status 3, and how it ended."""
    done = run(verb, "m1")

    assert done.exit_code == Exit.REFUSED
    assert "has ended already: undone" in done.stderr


@pytest.mark.usefixtures("journal")
def test_fence_asks_first(run: Run, places: dict[str, str]) -> None:
    """Without a clear yes nothing is noted."""
    before = SqlJournal.at(Path(places["MIGRATOR_JOURNAL"]))
    events = len(before.unfinished()[0].events)
    done = run("fence", "beta", "--why", "its power is cut")
    after = len(before.unfinished()[0].events)
    before.close()

    assert done.exit_code == Exit.INTERNAL  # click's word for a question that was not answered
    assert "certainly off" in done.output
    assert after == events


def test_help_names_every_verb_and_status(run: Run) -> None:
    """`--help` is enough to begin with: first steps, all verbs, all exit statuses."""
    text = run("--help").stdout

    for word in ("migrator host add", "migrator plan", "recover", "fence", "completion", "130"):
        assert word in text
    for verb in main.commands:
        assert run(verb, "--help").exit_code == Exit.DONE


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(run: Run, shell: str) -> None:
    """A script that the shell can take."""
    assert "_MIGRATOR_COMPLETE" in run("completion", shell).stdout
