"""PURE. Who drives a migration: a lease with an epoch, checked at every append to its journal.

Rule: what decides is the epoch and never a clock. Clocks only say when another may take the lease; one whose clock was
wrong, or who was held up, finds a newer epoch at its next append and stops.
"""

from dataclasses import dataclass, replace

LEASE_S = 20.0


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease of one migration, as it lies in the journal."""

    holder: str
    epoch: int
    until_unix_s: float


def first(holder: str, now_unix_s: float) -> Lease:
    """Of a migration that begins."""
    return Lease(holder, 1, now_unix_s + LEASE_S)


def take(lease: Lease, holder: str, now_unix_s: float) -> Lease | None:
    """A new one for `holder`, with a higher epoch; None while it is held."""
    if lease.until_unix_s > now_unix_s:
        return None
    return Lease(holder, lease.epoch + 1, now_unix_s + LEASE_S)


def held(lease: Lease, epoch: int) -> bool:
    """Whether who holds this epoch may append. Until another has taken it, also after it has run out."""
    return lease.epoch == epoch


def renew(lease: Lease, epoch: int, now_unix_s: float) -> Lease | None:
    """Longer; None if it is another's."""
    return replace(lease, until_unix_s=now_unix_s + LEASE_S) if held(lease, epoch) else None


def give_up(lease: Lease, epoch: int) -> Lease:
    """Free for anybody; nothing happens if it is another's by now."""
    return replace(lease, until_unix_s=0.0) if held(lease, epoch) else lease
