"""PURE. One migration's story: its events in order, and what is read off them: phases with their times, rounds, the end.

Rule: everything that is shown, logged, counted or stored about a migration is read off this, so that no two of them
can differ.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from migrator.core.machine import Migration
from migrator.core.phases import ENDED, Phase
from migrator.core.vocabulary import Command, Event, MigrationRequest


@dataclass(frozen=True, slots=True)
class Passage:
    """One phase as it went by."""

    phase: Phase
    from_unix_s: float
    until_unix_s: float | None
    """None: it is the phase now."""


class Story:
    """The machine of one migration with the times at which it went through its phases."""

    def __init__(self, request: MigrationRequest, began_unix_s: float) -> None:
        self.request = request
        self.machine = Migration(request)
        self.events: list[Event] = []
        self.passages = [Passage(self.machine.phase, began_unix_s, None)]

    @classmethod
    def replay(cls, request: MigrationRequest, began_unix_s: float, events: Iterable[Event]) -> "Story":
        """The story as the journal has it; its commands were carried out by whoever drove it."""
        story = cls(request, began_unix_s)
        for event in events:
            story.tell(event)
        return story

    def tell(self, event: Event) -> list[Command]:
        """This happened; what is to be done now."""
        commands = self.machine.handle(event)
        self.events.append(event)
        last = self.passages[-1]
        if self.machine.phase is not last.phase:
            self.passages[-1] = Passage(last.phase, last.from_unix_s, event.at_unix_s)
            self.passages.append(Passage(self.machine.phase, event.at_unix_s, None))
        return commands

    @property
    def began_unix_s(self) -> float:
        """When it was asked for."""
        return self.passages[0].from_unix_s

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.machine.phase in ENDED

    @property
    def ended_unix_s(self) -> float | None:
        """When it ended; None while it has not."""
        return self.passages[-1].from_unix_s if self.ended else None
