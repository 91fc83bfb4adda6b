"""An engine of make-believe: its VEs have real files and processes that are only counted. For tests and simulation.

Rule: it keeps every promise of `agents.engines.port` (the contract suite holds it to that). What a power cut takes is in
`Power`, what survives one is below a directory; so a host that reboots is a new `Power` over the same directory.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import trio

from agents.engines.port import Coming, Dump, Hold, Tree
from migrator.wire.codec import from_plain, to_plain
from migrator.wire.facts import Interface, Objection, ToolFact, VeFacts, VeState
from migrator.wire.faults import Fault, FaultCode, FaultError, fault_error

IMAGE = "memory.img"


@dataclass(slots=True)
class Life:
    """The processes of one VE: a count in their memory, which rises as long as they run."""

    count: int = 0
    frozen: bool = False


@dataclass(slots=True)
class Power:
    """All that a power cut takes from a host, and what an outsider sees of it."""

    lives: dict[str, Life] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    """Host's end of a VE's interface -> the bridge it is on; empty: on none."""
    announced: list[tuple[str, str]] = field(default_factory=list)
    """(bridge, address) of every announcement, in order."""
    on_change: Callable[[str], None] = lambda ve: None
    """Told of each VE whose processes begin, end, stop or go on: here a simulation looks for two running copies."""

    def tick(self) -> None:
        """Some time passes: whatever runs counts on."""
        for life in self.lives.values():
            life.count += not life.frozen

    def let(self, ve: str, life: Life | None) -> None:
        """The processes of a VE are now these, or none."""
        if life is None:
            self.lives.pop(ve, None)
        else:
            self.lives[ve] = life
        self.on_change(ve)


class Mishap(Protocol):
    """Asked whether an act fails: when it begins, and once more (`half`) when some of what it does is done."""

    def __call__(self, act: str, ve: str, half: bool) -> Fault | None:
        """The fault with which it fails; None: it goes on."""
        ...


def no_mishap(act: str, ve: str, half: bool) -> Fault | None:
    """Everything succeeds."""
    del act, ve, half
    return None


def no_delay(act: str) -> float:
    """Every act takes no time."""
    del act
    return 0.0


class FakeEngine:
    """See `agents.engines.port.Engine` for what each act promises."""

    name = "fake"

    def __init__(
        self,
        directory: Path,
        power: Power,
        *,
        live: bool = True,
        bridges: Sequence[str] = ("br0",),
        mishap: Mishap = no_mishap,
        pace_s: Callable[[str], float] = no_delay,
    ) -> None:
        """`directory` is the host's disk; `pace_s` says how long an act takes on trio's clock, which may be virtual."""
        self.live, self.bridges, self.booted_by_agent = live, tuple(bridges), True
        self.mishap, self.pace_s = mishap, pace_s
        self._directory, self._power = directory, power

    def create(self, ve: str, interfaces: Sequence[Interface] = (), *, autostart: bool = False) -> None:
        """Make a stopped VE, as an administrator would."""
        self._root(ve).mkdir(parents=True)
        (self._root(ve) / "etc").mkdir()
        (self._root(ve) / "etc/hostname").write_text(f"{ve}\n")
        self._write(ve, {"interfaces": to_plain(list(interfaces)), "autostart": autostart, "fenced": False})

    def boot(self) -> None:
        """What the host's own scripts do after its power came back: start what has autostart and is not fenced."""
        for facts in self._all():
            if facts.autostart:
                self._power.let(facts.ve, Life())
                self._join(facts.ve)

    async def probe(self) -> tuple[Sequence[ToolFact], Sequence[str]]:
        """It needs nothing."""
        return (), ("fake",)

    async def discover(self) -> Sequence[VeFacts]:
        """Every VE with a description."""
        return self._all()

    def _all(self) -> Sequence[VeFacts]:
        names = sorted(path.parent.name for path in self._directory.glob("*/ve.json"))
        return [facts for facts in map(self._facts, names) if facts is not None]

    async def inspect(self, ve: str) -> VeFacts | None:
        """From its description and its processes."""
        return self._facts(ve)

    def _facts(self, ve: str) -> VeFacts | None:
        told = self._read(ve)
        if told is None:
            return None
        life = self._power.lives.get(ve)
        return VeFacts(
            ve,
            self.name,
            self.state(ve),
            root=str(self._directory / ve),
            memory_bytes=4096 if life else 0,
            disk_bytes=sum(path.stat().st_size for path in (self._directory / ve).rglob("*") if path.is_file()),
            processes=1 if life else 0,
            interfaces=self._interfaces(ve),
            autostart=told["autostart"] and not told["fenced"],
            live=self.live,
            config=json.dumps(told).encode(),
        )

    async def look(self, ve: str) -> VeState:
        """From its processes and its directory."""
        return self.state(ve)

    def state(self, ve: str) -> VeState:
        """What `look` says, for callers that cannot wait."""
        if life := self._power.lives.get(ve):
            return VeState.FROZEN if life.frozen else VeState.RUNNING
        return VeState.STOPPED if (self._directory / ve).is_dir() else VeState.ABSENT

    async def start(self, ve: str) -> None:
        """On its bridges, then a process that begins to count at nothing."""
        if ve in self._power.lives:
            return
        self._need(ve)
        await self._begin("start", ve)
        self._join(ve)
        try:
            self._maybe_fail("start", ve, half=True)
        except FaultError:
            self._unlink(ve)
            raise
        self._power.let(ve, Life())

    async def stop(self, ve: str) -> None:
        """Its process ends."""
        await self._begin("stop", ve)
        self._end(ve)

    # --- source ---------------------------------------------------------------------------------

    def trees(self, ve: str) -> Sequence[Tree]:
        """All its files; the description is written anew on the target."""
        return (Tree("root", self._root(ve)),)

    def pids(self, ve: str) -> Sequence[int]:
        """None that the kernel knows."""
        return ()

    async def note(self, ve: str) -> None:
        """There is nothing that files do not carry."""

    async def fence(self, ve: str) -> None:
        """Its description says that no boot may start it."""
        self._set_fence(ve, fenced=True)
        self._arriving(ve).unlink(missing_ok=True)  # what leaves is at home here, even if nobody said so

    async def unfence(self, ve: str) -> None:
        """As before; and what came is at home here."""
        self._set_fence(ve, fenced=False)
        self._arriving(ve).unlink(missing_ok=True)

    def _set_fence(self, ve: str, *, fenced: bool) -> None:
        if told := self._read(ve):
            self._write(ve, told | {"fenced": fenced})

    async def freeze(self, ve: str) -> None:
        """Off its bridges, then it counts no more."""
        life = self._living(ve, "freeze")
        if life.frozen:
            return
        await self._begin("freeze", ve)
        self._leave(ve)
        try:
            self._maybe_fail("freeze", ve, half=True)
        except FaultError:
            self._join(ve)
            raise
        self._power.let(ve, replace(life, frozen=True))

    async def thaw(self, ve: str) -> None:
        """On its bridges, then it counts again."""
        await self._begin("thaw", ve)
        self._go_on(ve, "thaw")

    async def missed(self, ve: str) -> Sequence[bytes]:
        """Nobody sends it frames."""
        del ve
        return ()

    async def dump(self, ve: str, images: Path) -> Dump:
        """The count, with a checksum, as an image."""
        life = self._living(ve, "dump")
        if not life.frozen:
            raise fault_error(FaultCode.CONFLICT, f"{ve} is not frozen", step="dump")
        await self._begin("dump", ve)
        shutil.rmtree(images, ignore_errors=True)
        images.mkdir(parents=True, mode=0o700)
        self._maybe_fail("dump", ve, half=True)
        body = json.dumps({"ve": ve, "count": life.count})
        (images / IMAGE).write_text(f"{hashlib.sha256(body.encode()).hexdigest()}\n{body}")
        return Dump(0.0, (images / IMAGE).stat().st_size)

    async def discard(self, ve: str) -> None:
        """Its process ends where it stands."""
        await self._begin("discard", ve)
        self._end(ve)

    async def destroy(self, ve: str) -> None:
        """Its directory goes."""
        if ve in self._power.lives:
            raise fault_error(FaultCode.CONFLICT, f"{ve} has processes", step="destroy")
        await self._begin("destroy", ve)
        self._remove(ve)

    # --- target ---------------------------------------------------------------------------------

    async def vet(self, coming: Coming) -> Sequence[Objection]:
        """The id must be free and the bridges must be there."""
        found = []
        if self.state(coming.ve) is not VeState.ABSENT:
            found.append(Objection("ve-exists", f"there is a VE {coming.ve} already", "remove or rename it"))
        wanted = {coming.name("bridge", each.bridge) for each in coming.facts.interfaces}
        found += [
            Objection("bridge", f"there is no bridge {bridge}", "make it, or map the name in the inventory")
            for bridge in sorted(wanted - set(self.bridges))
        ]
        return found

    async def accept(self, coming: Coming) -> Sequence[Tree]:
        """The directory, the description with the names of here, the links on no bridge."""
        ve = coming.ve
        if ve in self._power.lives or (self.state(ve) is not VeState.ABSENT and not self._arriving(ve).exists()):
            raise fault_error(FaultCode.CONFLICT, f"{ve} is already here", step="reserve")
        await self._begin("accept", ve)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._arriving(ve).touch()
        self._root(ve).mkdir(parents=True, exist_ok=True)
        self._maybe_fail("accept", ve, half=True)
        interfaces = [replace(each, bridge=coming.name("bridge", each.bridge)) for each in coming.facts.interfaces]
        self._write(
            ve, {"interfaces": to_plain(interfaces), "autostart": coming.facts.autostart, "fenced": True}
        )  # until the move is over no boot starts it
        self._leave(ve)
        return self.trees(ve)

    async def arrange(self, ve: str) -> None:
        """It needs no more than its files."""
        await self._begin("arrange", ve)

    async def hold(self, ve: str, images: Path) -> Hold:
        """The count from the image; it does not rise."""
        if ve in self._power.lives:
            return Hold(0.0)
        await self._begin("hold", ve)
        try:
            digest, body = (images / IMAGE).read_text().split("\n")
        except (OSError, ValueError) as error:
            raise fault_error(FaultCode.TOOL_FAILED, "the image cannot be read", step="restore", tool="fake") from error
        if hashlib.sha256(body.encode()).hexdigest() != digest:
            raise fault_error(FaultCode.TOOL_FAILED, "the image is damaged", step="restore", tool="fake")
        self._maybe_fail("hold", ve, half=True)
        self._power.let(ve, Life(json.loads(body)["count"], frozen=True))
        return Hold(0.0)

    async def run(self, ve: str) -> None:
        """On its bridges, then it counts on."""
        await self._begin("run", ve)
        self._go_on(ve, "run")

    async def deliver(self, ve: str, frames: Sequence[bytes]) -> None:
        """It listens to nobody."""

    async def announce(self, ve: str) -> None:
        """Every address is noted as announced on its bridge."""
        for each in self._interfaces(ve):
            self._power.announced += [(each.bridge, address) for address in each.addresses]

    async def drop(self, ve: str) -> None:
        """Everything of a VE that is arriving; nothing of one that is at home here."""
        if not self._arriving(ve).exists():
            return
        await self._begin("drop", ve)
        self._end(ve)
        self._remove(ve)

    # --- within ---------------------------------------------------------------------------------

    async def _begin(self, act: str, ve: str) -> None:
        await trio.sleep(self.pace_s(act))
        self._maybe_fail(act, ve, half=False)

    def _maybe_fail(self, act: str, ve: str, *, half: bool) -> None:
        if fault := self.mishap(act, ve, half):
            raise FaultError(fault)

    def _living(self, ve: str, step: str) -> Life:
        life = self._power.lives.get(ve)
        if life is None:
            raise fault_error(FaultCode.CONFLICT, f"{ve} has no process", step=step)
        return life

    def _go_on(self, ve: str, step: str) -> None:
        life = self._living(ve, step)
        if life.frozen:
            self._join(ve)
            self._power.let(ve, replace(life, frozen=False))

    def _end(self, ve: str) -> None:
        self._unlink(ve)
        self._power.let(ve, None)

    def _remove(self, ve: str) -> None:
        self._unlink(ve)
        shutil.rmtree(self._directory / ve, ignore_errors=True)
        self._arriving(ve).unlink(missing_ok=True)

    def _join(self, ve: str) -> None:
        self._power.links.update((each.host_name, each.bridge) for each in self._interfaces(ve))

    def _leave(self, ve: str) -> None:
        self._power.links.update((each.host_name, "") for each in self._interfaces(ve))

    def _unlink(self, ve: str) -> None:
        for each in self._interfaces(ve):
            self._power.links.pop(each.host_name, None)

    def _root(self, ve: str) -> Path:
        return self._directory / ve / "root"

    def _arriving(self, ve: str) -> Path:
        return self._directory / f".arriving-{ve}"

    def _interfaces(self, ve: str) -> tuple[Interface, ...]:
        told = self._read(ve)
        return tuple(from_plain(each, Interface) for each in told["interfaces"]) if told else ()

    def _need(self, ve: str) -> None:
        if self._read(ve) is None:
            raise fault_error(FaultCode.UNKNOWN_VE, f"there is no VE {ve} on this host")

    def _read(self, ve: str) -> dict[str, Any] | None:
        try:
            told: dict[str, Any] = json.loads((self._directory / ve / "ve.json").read_text())
        except FileNotFoundError:
            return None
        return told

    def _write(self, ve: str, told: dict[str, Any]) -> None:
        (self._directory / ve / "ve.json").write_text(json.dumps(told))
