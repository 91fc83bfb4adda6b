"""The log: an Observer that writes one line of JSON per event of a story, to a file or standard error.

Rule: a log that cannot be written does not disturb a migration: that is said once on standard error, and the move goes on.
"""

import contextlib
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import structlog

from migrator.core import report as reports
from migrator.core.phases import STOPPED, Phase
from migrator.core.story import Story
from migrator.core.vocabulary import AbortRequested, Command, Event, Fenced, Finish, Replied, Send, Started
from migrator.wire.faults import Fault
from migrator.wire.messages import Copied, HandedOver, Progress

STANDARD_ERROR = "-"
BAD_ENDS = frozenset({Phase.NEEDS_OPERATOR})
NOT_WELL = frozenset({Phase.UNDOING, Phase.UNDONE, Phase.SETTLING, Phase.BLOCKED, Phase.REFUSED})


class EventLog:
    """See `migrator.ports.observer.Observer`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream
        processors: list[Any] = [
            structlog.processors.add_log_level,
            structlog.processors.EventRenamer("event"),
            structlog.processors.JSONRenderer(),
        ]
        self._log = structlog.wrap_logger(
            structlog.WriteLogger(stream), processors=processors, wrapper_class=structlog.BoundLogger
        )

    @classmethod
    def to(cls, where: str) -> "EventLog":
        """`-` for standard error, else a file that is appended to, readable by its owner only. Raises OSError."""
        if where == STANDARD_ERROR:
            return cls(sys.stderr)
        path = Path(where)
        path.touch(mode=0o600)
        return cls(path.open("a", buffering=1, encoding="utf-8"))

    def told(self, story: Story, event: Event, commands: list[Command]) -> None:
        """One line."""
        if self._stream is None:
            return
        try:
            getattr(self._log, level(story, event))(type(event).__name__, **fields(story, event, commands))
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            self.close()
            print(f"the log cannot be written any more: {error}; the migration goes on", file=sys.stderr)

    def progressed(self, story: Story, progress: Progress) -> None:
        """Nothing: the log is of what has happened."""

    def close(self) -> None:
        """The file is done with."""
        stream, self._stream = self._stream, None
        if stream is not None and stream is not sys.stderr:
            with contextlib.suppress(OSError):  # a full disk is told of where lines are written
                stream.close()


def level(story: Story, event: Event) -> str:
    """How bad it is: `error` needs a person, `warning` is not as planned."""
    if story.machine.phase in BAD_ENDS:
        return "error"
    fault = isinstance(event, Replied) and isinstance(event.reply, Fault)
    return "warning" if fault or story.machine.phase in NOT_WELL else "info"


def fields(story: Story, event: Event, commands: list[Command]) -> dict[str, Any]:
    """What the line says beside the event's name; stable names, for programs that read logs."""
    request = story.request
    said: dict[str, Any] = {
        "at": datetime.fromtimestamp(event.at_unix_s, UTC).isoformat(timespec="milliseconds"),
        "migration": request.migration,
        "ve": request.ve,
        "source": request.source,
        "target": request.target,
        "phase": str(story.machine.phase),
        "asks": [f"{each.role}: {type(each.request).__name__}" for each in commands if isinstance(each, Send)],
    }
    said |= _of_event(story, event)
    if any(isinstance(each, Finish) for each in commands) or story.machine.phase in STOPPED:
        report = reports.of(story)
        said |= {"outcome": report.outcome, "total_s": round(report.total_s, 3)}
    return said


def _of_event(story: Story, event: Event) -> dict[str, Any]:
    match event:
        case Started():
            plan = story.machine.plan
            refusals = [f"{each.name}: {each.evidence}" for each in plan.refusals] if plan else []
            return {"mode": str(story.machine.mode), "reason": plan.reason if plan else "", "refusals": refusals}
        case Replied(role=role, reply=reply):
            return {"from": str(role), "reply": type(reply).__name__, **_of_reply(reply)}
        case AbortRequested(who=who):
            return {"who": who}
        case Fenced(role=role, who=who, why=why):
            return {"fenced": str(role), "who": who, "why": why}
        case _:
            return {}


def _of_reply(reply: object) -> dict[str, Any]:
    match reply:
        case Fault():
            return {
                "fault": str(reply.code),
                "message": reply.message,
                "host": reply.host,
                "step": reply.step,
                "tool": reply.tool,
                "log_tail": reply.log_tail,
            }
        case Copied():
            return {
                "round": reply.round,
                "duration_s": round(reply.duration_s, 3),
                "file_bytes": reply.file_bytes,
                "memory_bytes": reply.memory_bytes,
            }
        case HandedOver():
            parts = {name: round(1000 * took, 1) for name, took in reply.parts_s.items()}
            return {
                "blackout_ms": round(1000 * reply.blackout_s, 1),
                "parts_ms": parts,
                "image_bytes": reply.image_bytes,
            }
        case _:
            return {}
