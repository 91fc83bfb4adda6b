"""Being told what happens to migrations."""

from typing import Protocol

from migrator.core.story import Story
from migrator.core.vocabulary import Command, Event
from migrator.wire.messages import Progress


class Observer(Protocol):
    """Told of every event after the machine has handled it, and of progress between events.

    Called from the driver's task: it must not block and must not raise.
    """

    def told(self, story: Story, event: Event, commands: list[Command]) -> None:
        """This happened; `story` includes it."""
        ...

    def progressed(self, story: Story, progress: Progress) -> None:
        """A host is that far with what it was asked to do."""
        ...
