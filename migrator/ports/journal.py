"""The durable story of every migration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from migrator.core.vocabulary import Event, MigrationRequest


class LeaseLost(Exception):
    """Another controller has taken this migration over; this one must not drive it any more."""

    def __init__(self, migration: str, holder: str) -> None:
        super().__init__(f"migration {migration} is driven by {holder}")
        self.migration, self.holder = migration, holder


class NoPlace(Exception):
    """A host has as many migrations under way as it takes, whichever controllers of this journal drive them."""

    def __init__(self, host: str, limit: int) -> None:
        super().__init__(f"{host} has as many migrations under way as its `parallel` allows ({limit})")
        self.host, self.limit = host, limit


@dataclass(frozen=True, slots=True)
class Entry:
    """One migration as the journal knows it."""

    request: MigrationRequest
    began_unix_s: float
    events: tuple[Event, ...]
    ended: str
    """The phase it ended in; empty: it has not ended."""
    holder: str
    """Who drives it, or did last."""
    leased_until_unix_s: float


class Journal(Protocol):
    """Append-only. An event is on disk when `append` returns; it is never changed or removed.

    A migration is driven by who holds its lease: `lease` gives an epoch, which every `append` must carry. A lease that
    has run out may be taken by another controller, with a higher epoch; from then on the first one's appends raise
    LeaseLost. All methods block; call them from a worker thread.
    """

    def begin(
        self, request: MigrationRequest, now_unix_s: float, holder: str, most: Mapping[str, int] | None = None
    ) -> int:
        """Note a new migration and lease it to `holder`; the epoch.

        `most`: host -> how many migrations that are driven at this time may touch it, this one included. Raises NoPlace.
        """
        ...

    def lease(self, migration: str, now_unix_s: float, holder: str) -> int:
        """Take an unfinished migration over; the epoch. Raises LeaseLost while another controller holds it, KeyError."""
        ...

    def renew(self, migration: str, epoch: int, now_unix_s: float) -> None:
        """Hold it for longer. Raises LeaseLost."""
        ...

    def give_up(self, migration: str, epoch: int) -> None:
        """Let the lease go, so that another may take it at once."""
        ...

    def append(self, migration: str, epoch: int, event: Event, now_unix_s: float) -> None:
        """Add to the story. Raises LeaseLost."""
        ...

    def end(self, migration: str, epoch: int, phase: str) -> None:
        """Note how it ended. Raises LeaseLost."""
        ...

    def wish(self, migration: str, who: str, now_unix_s: float) -> None:
        """Ask whoever drives the migration to abort it; needs no lease."""
        ...

    def wished(self, migration: str) -> str:
        """Who wished to abort it last; empty: nobody."""
        ...

    def read(self, migration: str) -> Entry | None:
        """One migration; None when there is none of that id."""
        ...

    def unfinished(self) -> Sequence[Entry]:
        """Every migration that has not ended, oldest first."""
        ...

    def history(self, limit: int, ve: str = "") -> Sequence[Entry]:
        """The latest migrations, newest first; of one VE if it is named."""
        ...
