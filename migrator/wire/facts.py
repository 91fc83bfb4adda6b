"""PURE. What a host says about itself, about one VE, and about who may run that VE.

Rule: a fact is observed, never meant. Sizes are bytes, times are seconds unless the name says otherwise.
"""

from dataclasses import dataclass
from enum import StrEnum


class VeState(StrEnum):
    """What the engine sees, asked now."""

    RUNNING = "running"
    FROZEN = "frozen"
    """All processes exist, none runs."""
    STOPPED = "stopped"
    """The VE is on this host and has no process."""
    SUSPENDED = "suspended"
    """The VE has no process but a dump on disk from which its engine can go on."""
    ABSENT = "absent"


class Mode(StrEnum):
    """How a VE moves."""

    LIVE = "live"
    """By checkpoint and restore: in the blackout it is frozen."""
    STOP_COPY = "stop-copy"
    """Stopped, the last files copied, started on the target. Also how a VE moves that does not run."""


class MemoryMethod(StrEnum):
    """How the memory of a VE that moves live reaches the target."""

    TRACKED = "tracked"
    """Ahead, in rounds; the kernel tells which pages were written (userfaultfd write protection, PAGEMAP_SCAN)."""
    SOFT_DIRTY = "soft-dirty"
    """Ahead, in rounds; the kernel's soft-dirty bits tell which pages were written. Each round stops the VE for milliseconds."""
    CONTENT = "content"
    """Ahead, in rounds; what changed is found by comparing with what was sent. Any kernel."""
    DUMP = "dump"
    """All of it in the blackout, in the checkpoint's images."""


@dataclass(frozen=True, slots=True)
class MemoryOffer:
    """Whether one method can be had for one VE where it is."""

    method: MemoryMethod
    why_not: str = ""
    """Empty: it can be had."""


class Claim(StrEnum):
    """What a host's durable ownership record says about one VE."""

    HOME = "home"
    """The VE is this host's; no migration is under way. Also what no record at all means."""
    LEAVING = "leaving"
    GIVEN = "given"
    """The point of no return is passed: the target may run it, this host may not."""
    GONE = "gone"
    """The target has confirmed that it runs the VE."""
    ARRIVING = "arriving"
    OWNER = "owner"
    """This host got the VE in a migration and may run it."""
    REFUSED = "refused"
    """This host has certainly not run the VE and never will under this or an older order."""


@dataclass(frozen=True, slots=True)
class Record:
    """One host's durable word on one VE."""

    ve: str
    claim: Claim
    order: int
    """The highest order number this host has obeyed for this VE."""
    migration: str = ""
    peer: str = ""
    """The other host of the migration."""
    engine: str = ""
    image_complete: bool = False
    """On a target: a complete, verified image of the VE is held."""
    mode: Mode = Mode.LIVE
    rest: VeState = VeState.RUNNING
    """The state the VE was in before the move, and is to be in after it or after its undo."""
    peer_ve: str = ""
    """The VE's id on the other host; empty: the same."""
    boot_id: str = ""
    """The boot of this host in which the record was written: another one now means that all processes were lost."""
    settled: bool = False
    """Nothing of the move is left to do here: undone and unfenced, refused and removed, gone and destroyed, or owned and
    confirmed. A VE that came and is settled is this host's like any other."""
    keep: bool = False
    """On a source: the copy here stays when the VE is gone, stopped and fenced."""
    handing_over: bool = False
    """On a source: the hand-over has begun, so the target may come to hold a complete image."""
    post_copy: bool = False
    """A part of the VE's memory stays on the source until the VE runs on the target, and a moment longer."""
    cold: bool = False
    """This host has been down since the hand-over began. A cold source asks the target before it starts the VE; a cold
    target runs it on the controller's word only, because its operator may have declared it off meanwhile."""


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface of a VE, as it has to be again on the target."""

    name: str
    """Name inside the VE."""
    mac: str
    host_name: str
    """Name of the host's end."""
    bridge: str
    mtu: int
    addresses: tuple[str, ...]
    """With prefix length, IPv4 and IPv6."""
    routes: tuple[tuple[str, str], ...] = ()
    """(destination or `default`, gateway or empty for on-link)."""


@dataclass(frozen=True, slots=True)
class VeFacts:
    """One VE on one host."""

    ve: str
    engine: str
    state: VeState
    runtime: str = ""
    """The tool that runs it (`crun`, `runc`, ...)."""
    root: str = ""
    """Directory that holds everything of the VE on this host."""
    memory_bytes: int = 0
    disk_bytes: int = 0
    processes: int = 0
    interfaces: tuple[Interface, ...] = ()
    foreign_mounts: tuple[str, ...] = ()
    """Host directories mounted into the VE from outside `root`; they do not move with it."""
    autostart: bool = False
    blockers: tuple[str, ...] = ()
    """What in the running VE a checkpoint would refuse, in words; empty: it can be asked for."""
    live: bool = True
    """Whether its engine can checkpoint it at all on this host."""
    notes: tuple[str, ...] = ()
    """What an operator should know before it is moved, in words (unknown parameters, action scripts, ...)."""
    config: bytes = b""
    """The engine's own description of the VE, opaque to the controller."""
    memory_offers: tuple[MemoryOffer, ...] = ()
    """How its memory could move live from this host, best first; none: the engine's checkpoint carries it."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses with prefix length."""
        return tuple(address for interface in self.interfaces for address in interface.addresses)


@dataclass(frozen=True, slots=True)
class Objection:
    """One reason why a VE cannot come to a host, or not as asked: a stable name, what was found, what to do about it."""

    name: str
    evidence: str
    remedy: str
    waivable: bool = False
    """Whether the operator may say `--waive NAME` and go on: the worst that follows is a failed, undone migration."""


@dataclass(frozen=True, slots=True)
class ToolFact:
    """A program the host has, or does not."""

    name: str
    version: str
    """Empty: not there."""
    problem: str = ""
    """Why it cannot be used although it is there; empty when it can."""
    remedy: str = ""
    """How to get it, or a usable one: a command where there is one."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What one host can do, asked now."""

    host: str
    kernel: str
    machine: str
    boot_id: str
    python: str
    clock_unix_s: float
    cpus: int
    cpu_flags: tuple[str, ...]
    memory_total_bytes: int
    memory_free_bytes: int
    disk_free_bytes: int
    """Free space where VEs live."""
    image_free_bytes: int
    """Free space (RAM) where images are held."""
    bridges: tuple[str, ...]
    addresses: tuple[str, ...]
    """Addresses in use on this host or by its VEs, without prefix length."""
    tools: tuple[ToolFact, ...]
    engines: tuple[str, ...]
    """Engines usable here, `engine/runtime` where a runtime matters."""

    def tool(self, name: str) -> ToolFact:
        """The named tool; one with an empty version when it is not there."""
        return next((tool for tool in self.tools if tool.name == name), ToolFact(name, ""))


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one VE stands on one host: the durable record and what the engine sees."""

    record: Record
    state: VeState
    working: bool
    """The host is still carrying out an order for this VE."""
