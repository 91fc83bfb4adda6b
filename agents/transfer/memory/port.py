"""What memory pre-copy offers to the hand-over. Blocking calls for worker threads; transport is any byte stream.

The order on the source: ``Precopy.round`` until convergence; freeze the VE; ``last_look`` (milliseconds); start the
dump under a ``veil`` and call ``send_last`` beside it; ``undo`` in every case, before the thaw or after the end.
A stream that breaks in a round is followed by another (``resume``, ``go_on``). On the target: ``PageHolder.receive`` runs for as
long as the stream does; after it returned sealed, either
``serve`` (lazy restore: the VE runs at once) or ``compose`` (complete CRIU images in the directory).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agents.transfer.memory.areas import ProcessFacts
from agents.transfer.memory.extents import PAGE_BYTES, Extents
from agents.transfer.memory.frames import ReadInto, Write


class MemoryRefused(Exception):
    """The memory cannot be moved this way; nothing was harmed. The text names the process and the reason."""


@dataclass(frozen=True, slots=True)
class RoundStats:
    """One round. ``pages`` were sent (never zero pages); ``wire_bytes`` is everything written to the stream.

    ``interval_s`` is the time since the round before began, in which those pages were written; None for the first.
    ``content_bytes`` is what the VE's private memory holds now; ``shadow_bytes`` what comparing costs on the source.
    ``notes`` names processes that are compared by content, with the reason.
    """

    number: int
    pages: int
    wire_bytes: int
    duration_s: float
    interval_s: float | None
    content_bytes: int
    processes: int
    shadow_bytes: int
    notes: tuple[str, ...]

    @property
    def dirty_bytes_per_s(self) -> float | None:
        """How fast unique pages were written since the round before; None after the first round."""
        return self.pages * PAGE_BYTES / self.interval_s if self.interval_s else None


@dataclass(frozen=True, slots=True)
class LastLook:
    """What the frozen VE still has to send. ``changed`` is by process id on the source.

    For a process compared by content it is all of its memory: what differs is only known when it is read.
    """

    changed_bytes: int
    processes: tuple[ProcessFacts, ...]
    changed: dict[int, Extents]


class Precopy(Protocol):
    """The source's side. Raises ``MemoryRefused``, ``Corrupt`` (stream), ``Cancelled``; ``OSError`` of the stream."""

    def round(self) -> RoundStats:
        """Send what changed since the last round (at first: everything) while the VE runs."""
        ...

    def resume(self, write: Write, read_into: ReadInto) -> None:
        """After the stream broke in a round: the next goes over this one, and sends what the target lacks."""
        ...

    def last_look(self) -> LastLook:
        """Of the *frozen* VE, before the dump starts (the dump's own mappings must not be seen)."""
        ...

    def send_last(self, look: LastLook) -> RoundStats:
        """Send it, and have the target confirm that it holds exactly what the VE holds."""
        ...

    def leave_last(self, look: LastLook) -> RoundStats:
        """Instead, for post-copy: have the target confirm that it knows what it will have to ask for."""
        ...

    def undo(self) -> None:
        """Leave the VE as if nothing had been: no tracking, no descriptor, no memory here. May be called once."""
        ...


@dataclass(frozen=True, slots=True)
class Held:
    """What the target holds of one process, by its id inside the VE."""

    pid_in_ve: int
    content_bytes: int


@dataclass(frozen=True, slots=True)
class Filled:
    """A lazy restore that is complete: the VE waits for no page any more, and the store is empty."""

    placed_bytes: int
    faults: int
    duration_s: float


class PageHolder(Protocol):
    """The target's side."""

    def receive(self) -> bool:
        """Take in the stream until it ends; True: sealed, the memory is complete. Raises ``Corrupt``."""
        ...

    def compose(self, images: Path) -> None:
        """Complete the CRIU images in ``images`` with the pages held; for an eager restore or a checkpoint."""
        ...

    def go_on(self, read_into: ReadInto, write: Write) -> None:
        """The stream broke; ``receive`` goes on with this one."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...
