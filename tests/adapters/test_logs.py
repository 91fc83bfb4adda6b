"""The log: one line of JSON per event, and never in a migration's way."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from migrator.adapters.logs import EventLog
from migrator.core.vocabulary import AbortRequested, Policy, Role
from migrator.wire.facts import Claim
from tests.stories import BETA, BROKEN, GOOD, LOST, STARTED, request, said, stands, tell, undone


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where a log goes."""
    with io.StringIO() as made:
        yield made


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """What was written."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_per_event(stream: io.StringIO) -> None:
    """Every event is a line of JSON with its time, migration, VE, hosts and phase; the last says how it ended."""
    story = tell(said(GOOD), [EventLog(stream)])

    got = lines(stream)

    assert [each["event"] for each in got] == ["Started"] + ["Replied"] * 7
    assert got[0]["at"] == "1970-01-01T00:16:41.000+00:00"
    assert {(each["migration"], each["ve"], each["source"], each["target"]) for each in got} == {
        ("m1", "web", "alpha", "beta")
    }
    assert [each["phase"] for each in got][-1] == str(story.machine.phase) == "done"
    assert got[0]["asks"] == ["source: Depart"]
    assert got[5]["blackout_ms"] == 400
    assert got[-1]["outcome"].startswith("web is on beta")
    assert {each["level"] for each in got} == {"info"}


def test_faults_and_refusals_are_told_in_full(stream: io.StringIO) -> None:
    """A fault has host, step, tool and the end of the tool's log; refusals have their evidence; both are warnings."""
    log = EventLog(stream)
    policy = Policy(fallback=False)
    tell(said([*GOOD[:4], (Role.SOURCE, BROKEN), *undone()]), [log], request(policy=policy))
    tell([AbortRequested(1003.0, "ops")], [log])
    tell([], [log], started=replace(STARTED, target=replace(BETA, engines=())))

    fault = next(each for each in lines(stream) if "fault" in each)
    assert (fault["level"], fault["host"], fault["step"], fault["tool"]) == ("warning", "alpha", "dump", "criu")
    assert "sk-inet" in fault["log_tail"]
    assert next(each for each in lines(stream) if each["event"] == "AbortRequested")["who"] == "ops"
    refused = lines(stream)[-1]
    assert (refused["phase"], refused["level"]) == ("refused", "warning")
    assert refused["refusals"] == ["engine-missing: beta offers none, not oci/crun"]


def test_what_needs_a_person_is_an_error(stream: io.StringIO) -> None:
    """A migration that stops at the operator is an error line, with the state and the next command."""
    words = [(Role.SOURCE, stands(Claim.GONE)), (Role.TARGET, stands(Claim.REFUSED))]
    tell(said([*GOOD[:5], (Role.TARGET, replace(LOST, code=BROKEN.code)), *words]), [EventLog(stream)])

    assert (lines(stream)[-1]["phase"], lines(stream)[-1]["level"]) == ("needs-operator", "error")


def test_log_that_breaks_does_not_disturb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A full disk (here: /dev/full) is said once, and the story is told to its end."""
    log = EventLog.to("/dev/full")
    story = tell(said(GOOD), [log])
    log.close()

    assert story.ended
    assert capsys.readouterr().err.count("cannot be written") == 1


def test_file_is_appended_to_and_private(tmp_path: Path) -> None:
    """A log file keeps what is in it, is readable by its owner only, and an impossible one is an OSError."""
    file = tmp_path / "migrator.log"
    for _ in range(2):
        log = EventLog.to(str(file))
        tell(said(GOOD), [log])
        log.close()

    assert len(file.read_text().splitlines()) == 16
    assert file.stat().st_mode & 0o077 == 0
    with pytest.raises(OSError, match="No such file"):
        EventLog.to(str(tmp_path / "none/log"))


def test_dash_is_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """`-` writes to standard error and leaves it open."""
    log = EventLog.to("-")
    tell([], [log])
    log.close()

    assert json.loads(capsys.readouterr().err)["event"] == "Started"
