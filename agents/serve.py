"""The agent's daemon: a root-only unix socket, one conversation per connection.

Rule: bytes that make no sense end their own connection with a clear fault and touch nothing else; orders already taken
are carried out whoever hangs up.
"""

import contextlib
import os
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import trio

from agents import log, places
from agents.engines.port import Coming
from agents.engines.registry import Registry
from agents.failures import fault_of
from agents.handover import judging
from agents.handover.vocabulary import Order, PeerOrder
from agents.keeper import Keeper
from agents.network import links
from agents.records import Records
from agents.transfer.memory.moving import offers
from agents.works import VeWorks
from migrator.wire import framing
from migrator.wire.codec import decode, encode
from migrator.wire.facts import Claim, HostFacts, Standing, ToolFact, VeState
from migrator.wire.faults import FaultCode, FaultError, fault_error
from migrator.wire.messages import (
    PROTOCOL_VERSION,
    Ask,
    Envelope,
    Hello,
    HostInspected,
    InspectHost,
    ListVes,
    PeerAnew,
    PeerExpect,
    PeerFrames,
    PeerMeasure,
    PeerRequest,
    PeerSoon,
    PreCopy,
    Progress,
    Release,
    Reply,
    Request,
    Reserve,
    SetPower,
    Stands,
    Undo,
    VesListed,
    Vet,
    Vetted,
)


class Daemon:
    """Everything the agent knows while it runs."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.registry, self.records = Registry(), Records(boot_id=boot_id())
        self._keepers: dict[str, Keeper] = {}
        self._works: dict[str, VeWorks] = {}
        self.nursery = nursery

    async def wake(self) -> None:
        """Go on where the records say this host was."""
        for record in self.records.all():
            if record.engine or (await self._engine_name(record.ve)):
                keeper = await self.keeper(record.ve, record.engine)
                await keeper.booted(rebooted=bool(record.boot_id) and record.boot_id != boot_id())

    async def boot(self) -> None:
        """Once after the host came up: start what starts with it and no move holds, one after the other."""
        if places.BOOTED.exists():
            return
        for engine in self.registry.engines.values():
            for facts in await engine.discover() if engine.booted_by_agent else ():
                if facts.autostart and facts.state is VeState.STOPPED and self._may_boot(facts.ve):
                    try:
                        await engine.start(facts.ve)
                    except FaultError as error:
                        log.said(f"{facts.ve} does not start with the host: {error.fault.sentence()}")
        places.BOOTED.touch()

    def _may_boot(self, ve: str) -> bool:
        record = self.records.read(ve)
        return record.claim is Claim.HOME or (record.claim is Claim.OWNER and record.settled)

    async def _engine_name(self, ve: str) -> str:
        try:
            return (await self.registry.holding(ve)).name
        except FaultError:
            return ""

    async def keeper(self, ve: str, engine: str = "") -> Keeper:
        """The one keeper of a VE. Raises FaultError for a name that is none, or a VE nobody has."""
        if not places.valid_name(ve):
            raise fault_error(FaultCode.BAD_REQUEST, f"{ve!r} cannot be the name of a VE")
        if ve not in self._keepers:
            found = self.registry.named(engine) if engine else await self.registry.holding(ve)
            self._works[ve] = VeWorks(ve, found)
            record = replace(self.records.read(ve), engine=found.name)
            self._keepers[ve] = Keeper(record, self.records, self._works[ve], self.nursery)
        return self._keepers[ve]

    async def answer(self, request: Request | PeerRequest, tell: Callable[[Progress], None]) -> Reply:
        """The reply to one request; `tell` hears of progress meanwhile. Raises FaultError."""
        match request:
            case InspectHost():
                return HostInspected(await self._facts())
            case ListVes():
                found = [
                    replace(facts, memory_offers=offers(engine)) if facts.state is VeState.RUNNING else facts
                    for engine in self.registry.engines.values()
                    for facts in await engine.discover()
                ]
                return VesListed(tuple(found), self.records.all())
            case Ask():
                return await (await self.keeper(request.ve)).standing()
            case SetPower():
                return await self._power(request)
            case PreCopy():
                await self.keeper(request.ve)
                self._works[request.ve].leaving.listener = tell
                return await self._order(request)
            case Vet():
                coming = Coming(request.facts, request.ve, request.mode, request.names)
                return Vetted(tuple(await self.registry.named(request.facts.engine).vet(coming)))
            case PeerAnew() | PeerExpect() | PeerSoon():
                return await self._expect(request)
            case PeerMeasure():
                engine = self.records.read(request.ve).engine
                return await (await self.keeper(request.ve, engine)).standing()
            case PeerFrames():
                return await self._deliver(request)
            case Reserve():
                return await self._reserve(request)
            case _:
                return await self._order(request)

    async def _reserve(self, request: Reserve) -> Reply:
        ve = request.ve or request.facts.ve
        return await (await self.keeper(ve, request.facts.engine)).order(request)

    async def _power(self, request: SetPower) -> Reply:
        engine, keeper = await self.registry.holding(request.ve), await self.keeper(request.ve)
        if judging.in_a_move(record := keeper.machine.record):
            held = f"VE {request.ve} is {record.claim} here, in migration {record.migration}"
            raise fault_error(FaultCode.CONFLICT, held, step="power")
        await (engine.start(request.ve) if request.on else engine.stop(request.ve))
        return await keeper.standing()

    async def _expect(self, request: PeerAnew | PeerExpect | PeerSoon) -> Reply:
        record = self.records.read(request.ve)
        keeper = await self.keeper(request.ve, record.engine)
        if record.claim is Claim.ARRIVING and record.migration == request.migration and not record.image_complete:
            arriving = self._works[request.ve].arriving
            match request:
                case PeerAnew():
                    await arriving.end_receivers(request.migration)
                case PeerExpect():
                    await arriving.hold_ahead(request)
                case PeerSoon():
                    await arriving.hold_soon()
        return await keeper.standing()

    async def _deliver(self, request: PeerFrames) -> Reply:
        record = self.records.read(request.ve)
        if record.claim is Claim.OWNER and record.migration == request.migration:
            await self.registry.named(record.engine).deliver(request.ve, request.frames)
        return await (await self.keeper(request.ve, record.engine)).standing()

    async def _order(self, request: Order | PeerOrder) -> Reply:
        assert not isinstance(request, Reserve)
        ve = request.ve
        record = self.records.read(ve)
        try:
            keeper = await self.keeper(ve, record.engine)
        except FaultError as error:
            if error.fault.code is not FaultCode.UNKNOWN_VE or not isinstance(request, Undo | Release):
                raise
            self.records.write(judging.barred(request, record))
            return Stands(Standing(self.records.read(ve), VeState.ABSENT, False))
        return await keeper.order(request)

    async def _facts(self) -> HostFacts:
        tools: list[ToolFact] = []
        offers: list[str] = []
        for engine in self.registry.engines.values():
            found, offered = await engine.probe()
            tools += found
            offers += offered
        memory = _meminfo()
        return HostFacts(
            host=platform.node(),
            kernel=platform.release(),
            machine=platform.machine(),
            boot_id=boot_id(),
            python=platform.python_version(),
            clock_unix_s=time.time(),
            cpus=os.cpu_count() or 1,
            cpu_flags=_cpu_flags(),
            memory_total_bytes=memory["MemTotal"],
            memory_free_bytes=memory["MemAvailable"],
            disk_free_bytes=shutil.disk_usage(places.STATE).free,
            image_free_bytes=shutil.disk_usage(places.RUN).free,
            bridges=tuple(sorted(path.parent.name for path in Path("/sys/class/net").glob("*/bridge"))),
            addresses=links.addresses(),
            tools=tuple(tools),
            engines=tuple(offers),
        )


def boot_id() -> str:
    """Names the time since this host came up."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _meminfo() -> dict[str, int]:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}


def _cpu_flags() -> tuple[str, ...]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return tuple(sorted(line.split(":")[1].split()))
    return ()


async def converse(daemon: Daemon, stream: trio.SocketStream) -> None:
    """One connection, until it ends or says something that is no message."""
    reader, greeted = framing.FrameReader(), False
    sending = trio.Lock()

    async def reply(number: int, body: Reply | Hello | Progress) -> None:
        async with sending:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                # Who asked may have hung up; the record tells whoever asks next.
                await stream.send_all(encode(Envelope(number, body)))

    async def carry_out(number: int, request: Request | PeerRequest) -> None:
        try:
            body = await daemon.answer(request, lambda notice: daemon.nursery.start_soon(reply, number, notice))
        except Exception as error:  # a mistake of ours must not take the daemon, and others' VEs, with it
            body = fault_of(error)
        await reply(number, body)

    try:
        async for data in stream:
            for frame in reader.feed(bytes(data)):
                envelope = decode(frame)
                if not greeted:
                    greeted = True
                    await reply(envelope.number, greet(envelope.body))
                elif isinstance(envelope.body, Request | PeerRequest):
                    daemon.nursery.start_soon(carry_out, envelope.number, envelope.body)
                else:
                    raise fault_error(FaultCode.BAD_REQUEST, f"{type(envelope.body).__name__} is no request")
    except FaultError as error:
        await reply(0, error.fault)
    except trio.BrokenResourceError:
        return


def greet(body: object) -> Hello:
    """The answer to a greeting. Raises FaultError(VERSION) for another version, BAD_REQUEST for anything else."""
    if not isinstance(body, Hello):
        raise fault_error(FaultCode.BAD_REQUEST, "the first message must be a greeting")
    if body.version != PROTOCOL_VERSION:
        raise fault_error(
            FaultCode.VERSION,
            f"this agent speaks version {PROTOCOL_VERSION}, you speak {body.version}; "
            "`migrator host add` brings it up to date",
        )
    return Hello(PROTOCOL_VERSION, platform.node())


async def serve() -> None:
    """Listen until the process is ended."""
    places.RUN.mkdir(parents=True, exist_ok=True, mode=0o700)
    places.STATE.mkdir(parents=True, exist_ok=True, mode=0o700)
    places.SOCKET.unlink(missing_ok=True)
    listening = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await listening.bind(str(places.SOCKET))
    places.SOCKET.chmod(0o600)
    listening.listen(64)
    async with trio.open_nursery() as nursery:
        daemon = Daemon(nursery)
        await daemon.wake()
        nursery.start_soon(daemon.boot)

        async def handler(stream: trio.SocketStream) -> None:
            async with stream:
                await converse(daemon, stream)

        await trio.serve_listeners(handler, [trio.SocketListener(listening)], handler_nursery=nursery)
