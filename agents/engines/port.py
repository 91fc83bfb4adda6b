"""What every kind of VE must be able to do, on each side of a move.

Rule: an engine does single acts and says what it sees; it never decides. Who may run a VE is decided by
`agents.handover`; an engine is only called when that is settled. Every act may be called again after it succeeded
(the agent may have died before it noted so), and then does nothing. Every failure is a FaultError that names the
tool and carries the end of its log; an act that raises has left the VE as it was, or `look` says how it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from migrator.wire.facts import ToolFact, VeFacts, VeState


@dataclass(frozen=True, slots=True)
class Dump:
    """A finished dump of a frozen VE."""

    criu_s: float
    """What the checkpoint tool itself reports for its work; 0 where it reports nothing."""
    bytes: int


@dataclass(frozen=True, slots=True)
class Hold:
    """A restored VE of which all processes exist and none runs."""

    criu_s: float
    notes: tuple[str, ...] = field(default=())


class Engine(Protocol):
    """One kind of VE on this host."""

    name: str
    live: bool
    """Whether a running VE can be checkpointed here; if not it moves by stop/copy."""

    async def probe(self) -> tuple[Sequence[ToolFact], Sequence[str]]:
        """The tools this engine needs, as found; and what it offers here (`name/runtime`), empty: unusable."""
        ...

    async def discover(self) -> Sequence[VeFacts]:
        """Every VE of this kind on this host, running or not."""
        ...

    async def inspect(self, ve: str) -> VeFacts | None:
        """All facts of one VE, its configuration included; None when it is not here."""
        ...

    async def look(self, ve: str) -> VeState:
        """The state now, asked of kernel and engine, cheap; ABSENT when it is not here."""
        ...

    async def start(self, ve: str) -> None:
        """Boot a stopped VE, network included."""
        ...

    async def stop(self, ve: str) -> None:
        """Stop it with whatever grace the engine has, then by force. Returns when no process is left."""
        ...

    # --- source ---------------------------------------------------------------------------------

    async def fence(self, ve: str) -> None:
        """Keep the engine's own boot scripts from starting it; durable."""
        ...

    async def unfence(self, ve: str) -> None:
        """Put the autostart back as it was before `fence`."""
        ...

    async def freeze(self, ve: str) -> None:
        """Off the network, then no process runs. Returns when that is so."""
        ...

    async def thaw(self, ve: str) -> None:
        """The inverse of freeze; within milliseconds. Also mends what an interrupted `dump` left behind."""
        ...

    async def dump(self, ve: str, images: Path) -> Dump:
        """Write a checkpoint of the frozen VE to `images`; it is still frozen, and can still be thawed, afterwards."""
        ...

    async def discard(self, ve: str) -> None:
        """End all processes of a frozen VE that runs elsewhere, without letting one run; keep its files."""
        ...

    async def destroy(self, ve: str) -> None:
        """Remove a VE that has no process: files, configuration, network, cgroup."""
        ...

    # --- target ---------------------------------------------------------------------------------

    async def accept(self, facts: VeFacts) -> None:
        """Make room for a VE that will come: directory, network (not joined), cgroup. Nothing runs.

        Raises FaultError(CONFLICT) if any of it is taken by something else.
        """
        ...

    async def hold(self, ve: str, images: Path) -> Hold:
        """Restore from `images`: all processes exist, none runs, not on the network."""
        ...

    async def run(self, ve: str) -> None:
        """Join the network and let a held VE run; or start it, if it came by stop/copy. Fast: it is in the blackout."""
        ...

    async def announce(self, ve: str) -> None:
        """Tell the network where the VE's addresses are now; repeated, after it runs."""
        ...

    async def drop(self, ve: str) -> None:
        """Remove all that `accept` and `hold` made, whatever state that is in."""
        ...

    def transfer_root(self, ve: str) -> Path:
        """The directory whose content `rsync` carries, same path meaning on both sides."""
        ...
