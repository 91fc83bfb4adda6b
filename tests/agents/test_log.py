"""The agent's log tells a VE's story and never stands in its way."""

import json
import os

import pytest

from agents import log
from agents.handover.vocabulary import Act, Arm, DidNot, Do, Write
from migrator.wire.facts import Claim, Record
from migrator.wire.faults import Fault, FaultCode

RECORD = Record("shop", Claim.LEAVING, 7, "m1", "beta", "oci")


def test_one_line_says_what_happened_and_what_is_done(capfd: pytest.CaptureFixture[str]) -> None:
    """An event is one line of JSON: the event with its reason, the commands in their order, the tool's own words."""
    fault = Fault(FaultCode.TOOL_FAILED, "criu ended with 1", step="dump", tool="criu", log_tail="Error (x.c:1)")

    log.told(RECORD, "undoing", DidNot(Act.DUMP, fault), [Arm(None), Write(RECORD), Do(Act.THAW)])

    [line] = capfd.readouterr().err.splitlines()
    told = json.loads(line)
    assert told["event"] == "did not dump: tool-failed: dump (criu): criu ended with 1"
    assert told["then"] == ["disarm", "write leaving", "do thaw"]
    assert (told["ve"], told["claim"], told["stage"], told["order"]) == ("shop", "leaving", "undoing", 7)
    assert told["log_tail"] == "Error (x.c:1)"


def test_a_full_disk_under_the_log_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that cannot be written is given up; the hand-over goes on."""
    full = os.open("/dev/full", os.O_WRONLY)
    monkeypatch.setattr(log, "STDERR", full)
    try:
        with pytest.raises(OSError, match="No space left"):
            os.write(full, b"x")
        log.told(RECORD, "undoing", DidNot(Act.DUMP, Fault(FaultCode.NO_SPACE, "full")), [])
    finally:
        os.close(full)
