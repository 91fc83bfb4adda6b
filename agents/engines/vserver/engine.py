"""The `vserver` engine: Linux-VServer guests driven by util-vserver's own programs. No checkpoint exists there.

Rule: a guest's name is its id; where it is and whether it runs is asked each time. A move is stop, last pass, start; what
the tools' exit statuses do not say is looked at (`agents.engines.vserver.power`).
"""

from collections.abc import Sequence
from pathlib import Path

from agents.engines.port import Coming, Dump, Hold, Tree
from agents.engines.vserver import lines, tools
from agents.engines.vserver.coming import Arriving
from agents.engines.vserver.facts import Facts
from agents.engines.vserver.leaving import Leaving
from agents.engines.vserver.maps import Maps
from agents.engines.vserver.notes import Notes
from agents.engines.vserver.power import Power
from agents.engines.vserver.site import Site
from agents.engines.vserver.vetting import Vetting
from migrator.wire.facts import Objection, ToolFact, VeFacts, VeState
from migrator.wire.faults import FaultCode, FaultError, fault_error

NEEDED = ("vserver", "vserver-info", "vserver-stat", "vps", "showattr", "setattr", "chxid", "lsxid", "rsync")
REMEDY = "apt install util-vserver (and boot a Linux-VServer kernel)"
CONFIGS = Path("/etc/vservers")
NOT_LIVE = "a Linux-VServer guest cannot be checkpointed; it moves by stop-copy"


class VserverEngine:
    """See `agents.engines.port.Engine` for what each act promises."""

    name = "vserver"
    live = False
    booted_by_agent = False

    def __init__(self) -> None:
        self._site = Site()
        self._power = Power(self._site)
        self._leaving = Leaving(self._site, self._power)
        self._vetting = Vetting(self._site)
        self._arriving = Arriving(self._site, self._power, self._vetting)
        self._facts = Facts(self._site, self._leaving)

    async def probe(self) -> tuple[Sequence[ToolFact], Sequence[str]]:
        """util-vserver with its version and what is wrong with it here; usable: a VServer kernel and every program.

        Nothing of a host that has nothing to do with VServer: nobody there misses the tools.
        """
        try:
            info = await self._site.info()
        except FaultError:
            return ((ToolFact("util-vserver", "", remedy=REMEDY),) if CONFIGS.is_dir() else ()), ()
        missing = [name for name in NEEDED if (await tools.run("sh", "-c", f"command -v {name}")).status != 0]
        problem = f"missing: {', '.join(missing)}" if missing else ""
        if info.api is None:
            problem = f"the running kernel {info.kernel} is no VServer kernel"
        tool = ToolFact("util-vserver", info.version, problem, REMEDY if problem else "")
        return (tool,), () if problem else (self.name,)

    async def discover(self) -> Sequence[VeFacts]:
        """Every guest of this host, also legacy ones, which can only be looked at."""
        try:
            names, legacy = await self._site.names(), await self._site.legacy_names()
        except FaultError:
            return ()
        found = [await self.inspect(name) for name in names]
        old = [
            VeFacts(name, self.name, VeState.STOPPED, live=False, notes=(f"{name} is a legacy guest",))
            for name in legacy
        ]
        return [*(facts for facts in found if facts is not None), *old]

    async def inspect(self, ve: str) -> VeFacts | None:
        """Facts of one guest; None while it is only on its way here."""
        try:
            if await self._site.place(ve) is None:
                return None
        except FaultError:
            return None
        return await self._facts.of(ve, await self.look(ve))

    async def look(self, ve: str) -> VeState:
        """From `running` alone; a guest on its way here, and one that has moved away and is kept, are stopped."""
        try:
            directory = await self._site.directory(ve)
        except FaultError as error:
            if error.fault.code is FaultCode.ENGINE_MISSING:
                return VeState.ABSENT
            raise
        if directory.is_dir() and await self._site.running(ve):
            return VeState.RUNNING
        here = await self._site.place(ve) is not None or Notes(ve).arrival is not None
        return VeState.STOPPED if here else VeState.ABSENT

    async def start(self, ve: str) -> None:
        """Start it and see that it runs; on a target, with everything it had, or not at all."""
        await self._must_be_whole(ve, "start")
        if Notes(ve).arrival is not None:
            await self._arriving.start(ve)
        else:
            await self._power.start(ve, self._site.maps(), strict=False)

    async def stop(self, ve: str) -> None:
        """Stop it within our own time limits and see that no process, and no address of it, is left."""
        if (await self._site.directory(ve)).is_dir():
            await self._power.stop(ve, self._maps(ve))

    async def _must_be_whole(self, ve: str, step: str) -> None:
        directory = await self._site.directory(ve)
        if (directory / "legacy").exists() or ve in await self._site.legacy_names():
            raise fault_error(FaultCode.BAD_REQUEST, f"{ve} is a legacy guest, which other tools drive", step=step)
        if not directory.is_dir() and (await self._site.fenced(ve)).is_dir():
            reason = (
                f"{ve} has moved away from here; its copy is kept as {await self._site.fenced(ve)} and must not start"
            )
            raise fault_error(FaultCode.CONFLICT, reason, step=step)
        if not directory.is_dir():
            raise fault_error(FaultCode.UNKNOWN_VE, f"there is no guest {ve} on this host", step=step)

    def _maps(self, ve: str) -> Maps:
        arrival = Notes(ve).arrival
        return self._site.maps() if arrival is None else self._arriving.maps_of(arrival)

    # --- source ---------------------------------------------------------------------------------

    def trees(self, ve: str) -> Sequence[Tree]:
        """See `leaving`: which trees there are is read off the configuration now."""
        return self._leaving.trees_now(ve)

    def pids(self, ve: str) -> Sequence[int]:
        """None: files are passed for the last time when it has no process."""
        return ()

    async def note(self, ve: str) -> None:
        """Attributes, tags, host rules, and the last of its addresses off this host."""
        await self._leaving.note(await self._site.guest(ve))

    async def fence(self, ve: str) -> None:
        """The tools' lock held, boot mark gone, `reboot` inside the guest without effect."""
        await self._must_be_whole(ve, "fence")
        await self._leaving.fence(ve)

    async def unfence(self, ve: str) -> None:
        """As before `fence`; on a target: the boot mark it had, and no note left."""
        if Notes(ve).arrival is not None:
            await self._arriving.lift(ve)
        else:
            await self._leaving.unfence(ve)

    async def freeze(self, ve: str) -> None:
        """Cannot be done."""
        raise fault_error(FaultCode.BAD_REQUEST, f"{ve}: {NOT_LIVE}", step="freeze")

    async def thaw(self, ve: str) -> None:
        """A guest whose stop did not come to its end runs on, or is started afresh."""
        await self._power.go_on(ve, self._site.maps())

    async def missed(self, ve: str) -> Sequence[bytes]:
        """Its addresses are the host's: nothing is kept."""
        return ()

    async def dump(self, ve: str, images: Path) -> Dump:
        """Cannot be done."""
        raise fault_error(FaultCode.BAD_REQUEST, f"{ve}: {NOT_LIVE}", step="dump")

    async def discard(self, ve: str) -> None:
        """Its configuration is renamed, so that nothing starts it here; rules of the host that spoke of it are gone."""
        await self._leaving.discard(ve)

    async def destroy(self, ve: str) -> None:
        """Everything of it goes; nothing that is mounted below it."""
        await self._leaving.destroy(ve)

    # --- target ---------------------------------------------------------------------------------

    async def vet(self, coming: Coming) -> Sequence[Objection]:
        """Every clash, loud or silent, with evidence and remedy."""
        return await self._vetting.objections(coming)

    async def accept(self, coming: Coming) -> Sequence[Tree]:
        """Directories, and ids reserved; its configuration is not in its place yet."""
        return await self._arriving.accept(coming)

    async def arrange(self, ve: str) -> None:
        """Tags, attributes, limits, rules of the host, and the configuration as it is here."""
        await self._arriving.arrange(ve)

    async def hold(self, ve: str, images: Path) -> Hold:
        """Cannot be done."""
        raise fault_error(FaultCode.BAD_REQUEST, f"{ve}: {NOT_LIVE}", step="restore")

    async def run(self, ve: str) -> None:
        """The same as `start`."""
        await self.start(ve)

    async def deliver(self, ve: str, frames: Sequence[bytes]) -> None:
        """Nothing was kept."""

    async def announce(self, ve: str) -> None:
        """Gratuitous ARP and neighbour advertisements from the host's own devices."""
        guest = await self._site.guest(ve)
        lines.announce_all(guest, lines.host_owned(guest))

    async def drop(self, ve: str) -> None:
        """Everything that was made for it; its directories hold nobody else's files."""
        await self._arriving.drop(ve)
