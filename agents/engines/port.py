"""What every kind of VE must be able to do, on each side of a move.

Rule: an engine does single acts and says what it sees; it never decides. Who may run a VE is decided by
`agents.handover`; an engine is only called when that is settled. Every act may be called again after it succeeded
(the agent may have died before it noted so), and then does nothing. Every failure is a FaultError that names the
tool and carries the end of its log; an act that raises has left the VE as it was, or `look` says how it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import trio

from migrator.wire.facts import Mode, Objection, ToolFact, VeFacts, VeState


@dataclass(frozen=True, slots=True)
class Tree:
    """A directory of files that moves with a VE; rsync carries its content, never across a mount point."""

    name: str
    """The same on both hosts (`root`, `config`, `dump`, ...); the path may differ."""
    path: Path
    excluded: tuple[str, ...] = ()
    """Paths below it, beginning with a slash, that do not move."""


@dataclass(frozen=True, slots=True)
class Coming:
    """A VE that is to come to this host, or may be asked to."""

    facts: VeFacts
    """As its source sees it, its configuration included."""
    ve: str
    """Its id here."""
    mode: Mode
    names: Mapping[str, str] = field(default_factory=dict)
    """How names of the source are called here: `bridge:br0` -> `vmbr0`, `interface:eth0` -> `eno1`, ..."""

    def name(self, kind: str, name: str) -> str:
        """What `name` of this kind is called here."""
        return self.names.get(f"{kind}:{name}", name)


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
    booted_by_agent: bool
    """Whether the agent starts its VEs with the host; false where the engine has boot scripts of its own."""

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
        """Boot a stopped VE, network included. Returns when it has certainly started; raises when it has not."""
        ...

    async def stop(self, ve: str) -> None:
        """Stop it with whatever grace the engine has, then by force. Returns when no process is left."""
        ...

    # --- source ---------------------------------------------------------------------------------

    def trees(self, ve: str) -> Sequence[Tree]:
        """The files that move with the VE."""
        ...

    def pids(self, ve: str) -> Sequence[int]:
        """Its processes now, as this host numbers them; none where it has none or the engine cannot tell."""
        ...

    async def note(self, ve: str) -> None:
        """Before the last pass over the files, no process running: write into the trees what rsync cannot carry."""
        ...

    async def fence(self, ve: str) -> None:
        """Take the engine's own lock, where it has one, and keep its boot scripts from starting the VE; durable."""
        ...

    async def unfence(self, ve: str) -> None:
        """Autostart and lock back as they were before `fence`; also on a target, when the move is over."""
        ...

    async def freeze(self, ve: str) -> None:
        """No process runs, and it is off the network. Returns when that is so. Not called where `live` is false."""
        ...

    async def thaw(self, ve: str) -> None:
        """The inverse of freeze; within milliseconds. Also mends what an interrupted `dump` left behind."""
        ...

    async def missed(self, ve: str) -> Sequence[bytes]:
        """Ethernet frames that came for the VE since `freeze`, each told once; none where they cannot be kept."""
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

    async def vet(self, coming: Coming) -> Sequence[Objection]:
        """Everything of this engine's that stands against the VE's coming, at once: versions, names, ids, devices, ...

        Addresses, disk, memory and CPU are compared by the controller; what only the engine knows is compared here.
        """
        ...

    async def accept(self, coming: Coming) -> Sequence[Tree]:
        """Make room for a VE that will come: directories, network (not joined), cgroup. Nothing runs.

        Returns the trees that the source's `trees` go to, by name. Raises FaultError(CONFLICT) if anything of it is
        taken by something else; what was made until then is removed again by `drop`.
        """
        ...

    async def arrange(self, ve: str) -> None:
        """Stop-copy, or a VE that does not run: all files are here; configure and mount it, and do not start it."""
        ...

    async def hold(self, ve: str, images: Path) -> Hold:
        """Restore from `images`: all processes exist, none runs, not on the network."""
        ...

    async def run(self, ve: str) -> None:
        """Join the network and let a held VE run. Fast: it is in the blackout. After `arrange`, `start` is called."""
        ...

    async def deliver(self, ve: str, frames: Sequence[bytes]) -> None:
        """What the source's `missed` told: into the VE, which runs here now. Without use for an engine: do nothing."""
        ...

    async def announce(self, ve: str) -> None:
        """Tell the network where the VE's addresses are now; repeated, after it runs."""
        ...

    async def drop(self, ve: str) -> None:
        """Remove all that `accept`, `arrange` and `hold` made, whatever state that is in."""
        ...


@dataclass(frozen=True, slots=True)
class MemoryAccess:
    """Where the pages of a VE can be reached from outside."""

    group: Path
    """Its cgroup (v2): every process in it and below is the VE's, and no other."""
    work: Path
    """Where the checkpoint tool looks for `lazy-pages.socket` when it restores; exists."""


Covers = Sequence[tuple[str, str]]
"""Files that stand in others' place for the checkpoint tool: (file, what it covers)."""


class Start(Protocol):
    """Starts a program that leads a session, in surroundings of the caller's."""

    async def __call__(self, argv: Sequence[str], environment: Mapping[str, str], cwd: Path | None) -> trio.Process:
        """The program; what it says is told by `agents.shell.finish`. Raises FileNotFoundError."""
        ...


@runtime_checkable
class PagesApart(Protocol):
    """An engine whose VEs' pages can move apart from the images: CRIU with lazy pages. Others need none of this.

    Its tools can be started ahead, while the VE runs, so that nothing has to be started in the blackout. What was started
    ahead holds nothing of the VE, and is used by the next dump or hold if it still fits; without it they start their tools
    themselves.
    """

    def memory(self, ve: str) -> MemoryAccess:
        """Of a VE that runs here, or is to be restored here."""
        ...

    async def dump_ahead(self, ve: str, images: Path, start: Start) -> None:
        """Start what dumps the VE to `images`, unless it waits already; files that lie there then, a restore needs early."""
        ...

    async def dump_covered(self, ve: str, images: Path, covers: Covers) -> Dump:
        """As `dump`, by what was started ahead; it sees the files of `covers`, by which pages sent already are left out."""
        ...

    async def note_frozen(self, ve: str) -> None:
        """What has to be known of a frozen VE before the checkpoint tool touches it. Its threads may be traced for a moment."""
        ...

    async def hold_ahead(self, ve: str, images: Path) -> None:
        """Start what restores the VE lazily from `images`, of which the early files are there."""
        ...

    async def hold_soon(self, ve: str) -> None:
        """The VE has been frozen, its images are about to come: make ready what may not be kept ready for long."""
        ...

    async def hold_lazily(self, ve: str, images: Path) -> Hold:
        """As `hold`; pages that are left out of `images` come from the socket in `MemoryAccess.work`."""
        ...

    async def end_ahead(self, ve: str) -> None:
        """Nothing that was started ahead is wanted any more. May be called again."""
        ...
