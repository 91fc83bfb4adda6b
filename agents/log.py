"""What happened to each VE on this host, one JSON line per event: for a person after the fact, and for programs.

Rule: a line is written when the machine has decided and before anything of it is done, and writing it may fail (a full
disk) without harm to the hand-over.
"""

import contextlib
import json
import os
import time
from collections.abc import Sequence

from agents.handover.vocabulary import (
    Answer,
    Arm,
    Booted,
    Command,
    DeadlinePassed,
    Did,
    DidNot,
    Do,
    Event,
    Ordered,
    PeerSaid,
    TellPeer,
    Write,
)
from migrator.wire.facts import Record
from migrator.wire.faults import Fault

STDERR = 2


def told(record: Record, stage: object, event: Event, commands: Sequence[Command]) -> None:
    """To standard error: what happened, what is done about it, and where the machine stands after it."""
    line: dict[str, object] = {
        "at_unix_s": round(time.time(), 6),
        "ve": record.ve,
        "migration": record.migration,
        "order": record.order,
        "claim": str(record.claim),
        "stage": str(stage),
        "event": _event(event),
        "then": [_command(command) for command in commands],
    }
    if isinstance(event, DidNot) and event.fault.log_tail:
        line["log_tail"] = event.fault.log_tail
    with contextlib.suppress(OSError):
        # One unbuffered write: lines do not mix with what others write there, and one that failed does not come again.
        os.write(STDERR, json.dumps(line).encode() + b"\n")


def said(text: str) -> None:
    """A sentence for a person."""
    line = {"at_unix_s": round(time.time(), 6), "said": text}
    with contextlib.suppress(OSError):
        os.write(STDERR, json.dumps(line).encode() + b"\n")


def _event(event: Event) -> str:
    match event:
        case Ordered(order=order):
            return f"ordered {type(order).__name__}"
        case Did(act=act):
            return f"did {act}"
        case DidNot(act=act, fault=fault):
            return f"did not {act}: {_reason(fault)}"
        case PeerSaid(reply=reply):
            return f"peer said {_reply(reply)}"
        case DeadlinePassed():
            return "deadline passed"
        case Booted(state=state):
            return f"agent started, {state}"


def _command(command: Command) -> str:
    match command:
        case Write(record=record):
            return f"write {record.claim}"
        case Do(act=act):
            return f"do {act}"
        case TellPeer(message=message):
            return f"tell {type(message).__name__}"
        case Arm(limit_s=limit_s):
            return "disarm" if limit_s is None else f"arm {limit_s:g} s"
        case Answer(reply=reply):
            return f"answer {_reply(reply)}"


def _reply(reply: object) -> str:
    return _reason(reply) if isinstance(reply, Fault) else type(reply).__name__ if reply is not None else "Stands"


def _reason(fault: Fault) -> str:
    return f"{fault.code}: {fault.sentence()}"
