"""PURE. Everything the controller and the agents, and two agents, can say to each other.

Rule: one frozen type per thing said. A request about a VE carries the migration and a rising order number; a host
obeys nothing older than what it has obeyed. Add a type to its union below and the type checker lists the places
that must learn it.
"""

from dataclasses import dataclass, field

from migrator.wire.facts import HostFacts, MemoryMethod, Mode, Objection, Record, Standing, VeFacts
from migrator.wire.faults import Fault

PROTOCOL_VERSION = 1


@dataclass(frozen=True, slots=True)
class Hello:
    """First message in both directions."""

    version: int
    name: str


# --- requests ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InspectHost:
    """Ask what this host can do. Answer: HostInspected."""


@dataclass(frozen=True, slots=True)
class ListVes:
    """Ask for every VE on this host. Answer: VesListed."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask where a VE stands. Answer: Stands."""

    ve: str


@dataclass(frozen=True, slots=True)
class SetPower:
    """Start or stop a VE that no migration holds. Answer: Stands."""

    ve: str
    on: bool


@dataclass(frozen=True, slots=True)
class Vet:
    """Target: could this VE come here, under this id? Changes nothing. Answer: Vetted."""

    facts: VeFacts
    ve: str
    mode: Mode
    names: dict[str, str] = field(default_factory=dict)
    """How names of the source are called here: `bridge:br0` -> `vmbr0`, `interface:eth0` -> `eno1`, ..."""


@dataclass(frozen=True, slots=True)
class Depart:
    """Source: the VE is about to leave. Writes `leaving`, fences its autostart, makes the migration's key pair.

    Answer: Departing.
    """

    migration: str
    order: int
    ve: str
    target: str
    mode: Mode = Mode.LIVE
    target_ve: str = ""
    """Its id on the target; empty: the same."""
    keep: bool = False
    """Whether the copy here stays when the target has the VE, stopped and fenced."""


@dataclass(frozen=True, slots=True)
class Reserve:
    """Target: make room for a VE that will come. Writes `arriving`. Answer: Reserved."""

    migration: str
    order: int
    source: str
    facts: VeFacts
    public_key: str
    key_expires_unix_s: int
    hold_limit_s: float
    """How long the target waits for the images, once the hand-over has begun, before it refuses."""
    ve: str = ""
    """The VE's id here; empty: as in `facts`."""
    mode: Mode = Mode.LIVE
    names: dict[str, str] = field(default_factory=dict)
    """As in Vet."""
    image_bytes: int = 0
    """How much of this host's memory the images may take; 0: no limit."""


@dataclass(frozen=True, slots=True)
class PreCopy:
    """Source: one round of copying files and memory while the VE runs. Progress notices meanwhile. Answer: Copied.

    The first round of a migration opens the channel to the target, and it stays open.
    """

    migration: str
    order: int
    ve: str
    address: str
    port: int
    host_keys: tuple[str, ...]
    places: dict[str, str] = field(default_factory=dict)
    """Name of a tree of files -> its directory on the target."""
    bandwidth_bytes_per_s: int = 0
    """0: no limit."""
    round: int = 1
    memory_method: MemoryMethod = MemoryMethod.DUMP
    """Where it turns out not to be possible, the memory moves in the blackout, and a note of Copied says why."""
    compare_bytes: int = 0
    """How much of this host's memory comparing by content may take for what it remembers."""
    compress: bool = True
    """Whether memory may be compressed, where that is quicker."""


@dataclass(frozen=True, slots=True)
class HandOver:
    """Source: the blackout, to its end, with the target, without the controller. Answer: HandedOver.

    A definite Fault as answer means that it was undone and the VE is on the source as before.
    """

    migration: str
    order: int
    ve: str
    limit_s: float
    """The source undoes the blackout by itself when the target does not hold the VE by then."""
    post_copy: bool = False
    """What was written since the last round stays here, and goes to the target when the VE runs there already; as long as it
    has not, the VE there needs this host."""


@dataclass(frozen=True, slots=True)
class Undo:
    """Source: back to how it was, allowed until the point of no return. Answer: Stands; Fault TOO_LATE after."""

    migration: str
    order: int
    ve: str


@dataclass(frozen=True, slots=True)
class Release:
    """Target: drop whatever of the VE is here and was never run. Writes `refused`. Answer: Stands, when it is removed.

    Fault TOO_LATE if the VE is owned here.
    """

    migration: str
    order: int
    ve: str
    taken_back: bool = False
    """This host was declared off and the source has taken the VE back (TakeBack): what came here before this host went
    down is dropped even if it was owned. Fault TOO_LATE if it has run since."""


@dataclass(frozen=True, slots=True)
class Settle:
    """Source: what the target's record says, brought by the controller, for a hand-over left open. Answer: Stands."""

    migration: str
    order: int
    ve: str
    target_record: Record


@dataclass(frozen=True, slots=True)
class Retire:
    """Source: the target has confirmed that the VE is its own; remove the copy here. Answer: Stands."""

    migration: str
    order: int
    ve: str


@dataclass(frozen=True, slots=True)
class Confirm:
    """Target: the VE stays here: run it if it does not run, and lift what the move left. Answer: Stands.

    Never sent once TakeBack was, unless the source has refused that.
    """

    migration: str
    order: int
    ve: str
    alone: bool = False
    """The source was declared off, or has been down: a VE that waits for memory from there (post-copy) is started anew from
    its files."""


@dataclass(frozen=True, slots=True)
class Adopt:
    """Target: own the VE that is held here and let it run; the source will not.

    Sent when the operator has declared the source off (`fence`), or when the controller has read `given` on the source
    with its own eyes and the source cannot say so itself. Never sent once TakeBack was. Only for a target that holds a
    complete image. Answer: Stands, when it runs.
    """

    migration: str
    order: int
    ve: str


@dataclass(frozen=True, slots=True)
class TakeBack:
    """Source: the operator has declared the target off (`fence`), and it will be told to drop the VE when it is back.

    The one thing beside the target's own refusal that brings a VE back that was given. Answer: Stands, when it is
    undone; Fault TOO_LATE if the target has confirmed that it runs the VE.
    """

    migration: str
    order: int
    ve: str


Request = (
    InspectHost
    | ListVes
    | Ask
    | SetPower
    | Vet
    | Depart
    | Reserve
    | PreCopy
    | HandOver
    | Undo
    | Release
    | Settle
    | Retire
    | Confirm
    | Adopt
    | TakeBack
)

# --- between the two agents of a migration, over the migration's own key -----------------------------


@dataclass(frozen=True, slots=True)
class PeerRestore:
    """Source to target: the images are complete, with this manifest; restore the VE and hold it. Answer: PeerHolds."""

    migration: str
    order: int
    ve: str
    manifest: dict[str, str]
    """File name -> SHA-256 in hex, of every image file."""
    post_copy: bool = False
    """A part of the memory stays on the source until the VE runs."""


@dataclass(frozen=True, slots=True)
class PeerGive:
    """Source to target: `given` is on disk here; the VE is yours. Answer: PeerRuns."""

    migration: str
    order: int
    ve: str


@dataclass(frozen=True, slots=True)
class PeerDrop:
    """Source to target: it was undone here; drop what you hold. Answer: Stands, when `refused` is on disk."""

    migration: str
    order: int
    ve: str


@dataclass(frozen=True, slots=True)
class PeerAsk:
    """Source to target: where does the VE stand with you? Answer: Stands. Also measures the round trip."""

    migration: str
    ve: str
    order: int = 0
    """The hand-over that asks, so that its answer is not taken for another's; nothing is obeyed."""


@dataclass(frozen=True, slots=True)
class PeerExpect:
    """Source to target, in the pre-copy: have what restores the VE wait for the images. Answer: Stands.

    `files` by name: those of the images that are known already and needed early. Nothing depends on it but the time a restore
    takes: a target that was not asked, or could not, starts its tools when the images are there.
    """

    migration: str
    ve: str
    files: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class PeerAnew:
    """Source to target: the line broke; whoever still writes at its other end is to be ended before anything is sent again.
    Answer: Stands."""

    migration: str
    ve: str


@dataclass(frozen=True, slots=True)
class PeerSoon:
    """Source to target: the VE is frozen, its images will come in some 0.1 s. As with PeerExpect, nothing depends on it but time.
    Answer: Stands."""

    migration: str
    ve: str


@dataclass(frozen=True, slots=True)
class PeerMeasure:
    """Source to target: nothing but `data`; how long the answer takes tells how quick the line is. Answer: Stands."""

    migration: str
    ve: str
    data: bytes


@dataclass(frozen=True, slots=True)
class PeerFrames:
    """Source to target: Ethernet frames that came for the VE in the blackout; put them into it. Answer: Stands."""

    migration: str
    ve: str
    frames: tuple[bytes, ...]


PeerRequest = PeerRestore | PeerGive | PeerDrop | PeerAsk | PeerAnew | PeerExpect | PeerSoon | PeerMeasure | PeerFrames

# --- answers --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HostInspected:
    """Answer to InspectHost."""

    facts: HostFacts


@dataclass(frozen=True, slots=True)
class VesListed:
    """Answer to ListVes."""

    ves: tuple[VeFacts, ...]
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Stands:
    """Where the VE stands on this host now."""

    standing: Standing


@dataclass(frozen=True, slots=True)
class Departing:
    """Answer to Depart: the public half of the key made for this migration."""

    public_key: str


@dataclass(frozen=True, slots=True)
class Vetted:
    """Answer to Vet: everything that stands against it, at once."""

    objections: tuple[Objection, ...] = ()


@dataclass(frozen=True, slots=True)
class Reserved:
    """Answer to Reserve: the keys by which the source knows this host, and where each tree of files goes."""

    host_keys: tuple[str, ...]
    places: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Copied:
    """Answer to PreCopy: what one round did."""

    round: int
    duration_s: float
    file_bytes: int = 0
    file_s: float = 0.0
    memory_bytes: int = 0
    memory_s: float = 0.0
    dirty_bytes_per_s: float = -1.0
    """How fast the VE writes memory it had not written since the round before; negative: not known yet."""
    memory_method: MemoryMethod = MemoryMethod.DUMP
    notes: tuple[str, ...] = ()
    anew: bool = False
    """The line had broken, and what had come was kept; no earlier round counts."""
    since_memory_s: float = 0.0
    """From the last look at what was written to memory until the end of the round."""


@dataclass(frozen=True, slots=True)
class PeerHolds:
    """Answer to PeerRestore: all processes exist, none runs."""

    restore_s: float
    """From the order to the hold, on the target's clock."""
    criu_restore_s: float


@dataclass(frozen=True, slots=True)
class PeerRuns:
    """Answer to PeerGive: `owner` is on disk, the VE runs."""

    run_to_reply_s: float
    """Between letting it run and sending this, so that the source can subtract it."""


@dataclass(frozen=True, slots=True)
class HandedOver:
    """Answer to HandOver: the VE runs on the target; what the blackout was made of, on the source's clock."""

    blackout_s: float
    parts_s: dict[str, float] = field(default_factory=dict)
    """Name of a part of the blackout -> its length. Parts may overlap."""
    image_bytes: int = 0
    file_bytes: int = 0
    memory_bytes: int = 0
    owed_bytes: int = 0
    """By post-copy: memory that was on the source yet when the VE ran on the target."""
    criu_s: float = 0.0
    """What CRIU itself reports for dump and restore together."""
    wire_s: float = 0.0
    """Time in which nothing but the transfer went on."""


Reply = (
    HostInspected
    | VesListed
    | Stands
    | Vetted
    | Departing
    | Reserved
    | Copied
    | HandedOver
    | PeerHolds
    | PeerRuns
    | Fault
)

# --- notices --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Progress:
    """Pushed while a long request is carried out."""

    step: str
    bytes_done: int
    bytes_total: int
    """0: not known yet."""
    rate_bytes_per_s: float = 0.0


Notice = Progress


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message with the number of the request it belongs to. 0: the greeting."""

    number: int
    body: "Hello | Request | PeerRequest | Reply | Notice"
