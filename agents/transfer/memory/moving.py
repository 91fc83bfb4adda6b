"""The memory of one VE from source to target, as the acts of a hand-over need it: what `works` calls on each side.

Rules: images whose pages were sent apart carry a file that names the seal, and are restored with exactly the memory of that
seal or not at all. A memory that cannot be sent ahead goes into the images, in the blackout, and the report says why.
"""

import contextlib
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

from agents import places
from agents.engines.port import Dump, Engine, Hold, MemoryAccess, PagesApart
from agents.transfer.channel import Channel
from agents.transfer.memory import areas
from agents.transfer.memory import images as image_files
from agents.transfer.memory.handles import MemoryKeeper, MemorySender, NotSendable, PageServer, Veiled
from agents.transfer.memory.keeper import Phase
from agents.transfer.memory.page_server import Task as Loan
from agents.transfer.memory.pagemap import scan_works
from agents.transfer.memory.port import RoundStats
from agents.transfer.memory.sender import Task
from agents.transfer.memory.soft_dirty import soft_dirty_works
from migrator.wire.facts import MemoryMethod, MemoryOffer, VeState
from migrator.wire.faults import FaultCode, fault_error

TRACKING = frozenset({MemoryMethod.TRACKED, MemoryMethod.SOFT_DIRTY})
"""By these it is known, without reading, what the target lacks; that can be left for later."""
LEND_AGAIN_S = 1.0
SEAL = "memory.seal"
"""Beside the images: the name of the memory that belongs to them."""


@dataclass(slots=True)
class Parts:
    """What the memory cost in the blackout; seconds by name, and bytes sent."""

    parts_s: dict[str, float] = field(default_factory=dict)
    bytes: int = 0
    owed_bytes: int = 0
    """What stays on the source until the VE runs (post-copy)."""


class LeavingMemory:
    """At the source. One round after the other, then the dump, then `close` in every case."""

    def __init__(
        self,
        engine: PagesApart,
        ve: str,
        channel: Channel,
        method: MemoryMethod,
        compare_bytes: int,
        *,
        compress: bool = True,
    ) -> None:
        """Of a VE that runs; `compare_bytes` and `compress` see `PreCopy`. Not for the method `dump`."""
        self._engine, self._ve, self._channel = engine, ve, channel
        self._wanted, self._compare_bytes, self._compress = method, compare_bytes, compress
        self._sender: MemorySender | None = None
        self._broke = False
        """The sender's line, while a round was under way."""
        self.begun_again = ""
        """Why what had come was of no use after the line broke, and was sent again; empty: it was not."""
        self._veiled: Veiled | None = None
        self._name = ""
        """Of the stream."""
        self._veils = _veils(channel.migration)
        self.why_not = next((each.why_not for each in offers(engine) if each.method is method), "")
        """Why the memory moves in the images after all; empty as long as it is sent ahead."""

    @property
    def method(self) -> MemoryMethod:
        """How the memory moves as far as is known now."""
        return self._sender.method if self._sender is not None and not self.why_not else MemoryMethod.DUMP

    async def round(
        self, bandwidth_bytes_per_s: int, moving: Callable[[int, int], None] = lambda done, total: None
    ) -> RoundStats | None:
        """One round; None: this memory cannot be sent ahead. Raises FaultError(PEER_LOST): then `go_on`, or `close`."""
        if self.why_not:
            return None
        try:
            self._sender = await self._ready()
            await self._sender.limit(bandwidth_bytes_per_s or None)
            return await self._sender.round(moving)
        except (NotSendable, areas.Gone) as error:
            await self.close()
            self.why_not = f"memory moves in the blackout: {error}"
            return None

    async def _ready(self) -> MemorySender:
        """A sender whose line is whole, the one that there was if it can go on. Raises NotSendable, FaultError(PEER_LOST)."""
        if self._sender is not None and self._broke:
            try:
                await self._sender.resume(*self._line())
            except NotSendable as error:
                self.begun_again = f"memory was sent again from its beginning: {error}"
                self._sender = None
            self._broke = False
        if self._sender is None:
            self._veiled = self._veiled or await Veiled.start(self._veils)
            self._name = secrets.token_hex(8)
            self._sender = await MemorySender.start(self._task())
        return self._sender

    def go_on(self, channel: Channel) -> None:
        """The line broke, whoever noticed: the next round goes over this channel, and sends what has not come."""
        self._channel, self._broke = channel, True

    async def limit(self, bandwidth_bytes_per_s: int) -> None:
        """The cap from now on, also in the midst of a round; 0: none."""
        if self._sender is not None and not self.why_not:
            await self._sender.limit(bandwidth_bytes_per_s or None)

    async def ahead(self, images: Path) -> None:
        """After a round: what will dump the VE to `images` is started, unless it waits already. Raises NotSendable."""
        await self._engine.dump_ahead(self._ve, images, self._start_veiled)

    async def _start_veiled(
        self, argv: Sequence[str], environment: Mapping[str, str], cwd: Path | None
    ) -> trio.Process:
        if self._veiled is None or not self._veiled.waits:
            self._veiled = await Veiled.start(self._veils)  # what the one before became has ended
        return await self._veiled.become(argv, environment, cwd)

    async def dump(self, images: Path, *, post_copy: bool = False) -> tuple[Dump, Parts]:
        """Of the frozen VE: the images without what is sent ahead, and the rest of that beside it, unless it is to come when the
        VE runs (`post_copy`). Raises FaultError."""
        assert self._sender is not None
        began_s, parts = trio.current_time(), Parts()
        dumped: list[Dump] = []
        seal = ""

        async def checkpoint() -> None:
            dumped.append(await self._engine.dump_covered(self._ve, images, look.veils))
            parts.parts_s["checkpoint"] = trio.current_time() - began_s

        with _in_words():
            await self.ahead(images)
        async with trio.open_nursery() as nursery:
            # It may trace the threads: the look asks again those that tell no stack pointer (`areas.stack_pages`).
            nursery.start_soon(self._engine.note_frozen, self._ve)
            with _in_words():
                look = await self._sender.look(self._veils, post_copy=post_copy)
        parts.parts_s["memory look"] = trio.current_time() - began_s
        async with trio.open_nursery() as nursery:
            nursery.start_soon(checkpoint)
            with _in_words():
                last, seal = await self._sender.sent()
            parts.parts_s["memory sent"] = trio.current_time() - began_s
        parts.bytes, parts.owed_bytes = last.wire_bytes, look.changed_bytes if post_copy else 0
        for pid, guards in look.guards:
            image_files.add_guards(images, pid, list(guards))
        (images / SEAL).write_text(seal)
        return dumped[0], parts

    async def close(self) -> None:
        """Nothing of it stays in the VE or here. May be called again."""
        await self._engine.end_ahead(self._ve)
        if self._veiled is not None:
            await self._veiled.end()
        if self._sender is not None:
            await self._sender.end()
        self._veiled = self._sender = None
        forget(self._channel.migration)

    def _task(self) -> Task:
        group = self._engine.memory(self._ve).group
        stream, strand = self._line()
        return Task(
            areas.init_of(areas.members(group)),
            str(group),
            stream,
            str(self._channel.use),
            self._wanted,
            strand,
            self._compare_bytes,
            compress=self._compress,
        )

    def _line(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The programs that reach the target's keeper, with what it knows the stream by."""
        return (
            self._channel.ssh("memory", self._name),
            self._channel.ssh("memory-strand", self._name, shared=False),
        )


class Lending:
    """At the source, by post-copy: the frozen VE's pages are given as the target asks for them, whoever dies in between.

    It needs nothing but the migration's channel: any agent of this host may go on with it.
    """

    def __init__(self, engine: Engine, ve: str, channel: Channel, bandwidth_bytes_per_s: int = 0) -> None:
        """Raises FaultError(CONFLICT) for an engine that has no pages apart."""
        if not isinstance(engine, PagesApart):
            raise fault_error(FaultCode.CONFLICT, f"the memory of {ve} cannot be lent", step="lend")
        self._look, self._ve = engine.look, ve
        self._loan = Loan(str(engine.memory(ve).group), channel.ssh("memory"), float(bandwidth_bytes_per_s) or None)
        self._server: PageServer | None = None

    async def begin(self) -> None:
        """It lends from now on."""
        self._server = self._server or await PageServer.start(self._loan)

    async def to_the_end(self) -> None:
        """Returns when the target has everything. Raises FaultError(CONFLICT) if the memory is not here any more."""
        while True:
            if await self._look(self._ve) is not VeState.FROZEN:
                raise fault_error(FaultCode.CONFLICT, f"the memory of {self._ve} is not here any more", step="lend")
            await self.begin()
            assert self._server is not None
            if not await self._server.filled():
                return
            self._server = None
            await trio.sleep(LEND_AGAIN_S)

    async def end(self) -> None:
        """It lends no more. May be called again."""
        if self._server is not None:
            await self._server.end()
            self._server = None


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    """What the sender raises, as the fault that is told; inside of whatever would put it in a group."""
    try:
        yield
    except NotSendable as error:
        raise fault_error(FaultCode.TOOL_FAILED, f"the rest of the memory: {error}", step="memory") from error


def offers(engine: object) -> tuple[MemoryOffer, ...]:
    """How the memory of a VE of this engine that runs here can move live, best first."""
    if not isinstance(engine, PagesApart):
        return ()
    untold = "" if scan_works() else "this kernel does not tell which pages are written (Linux before 6.7)"
    without = "" if soft_dirty_works() else "this kernel was built without soft-dirty bits"
    return (
        MemoryOffer(MemoryMethod.TRACKED, untold),
        MemoryOffer(MemoryMethod.SOFT_DIRTY, without),
        MemoryOffer(MemoryMethod.CONTENT),
        MemoryOffer(MemoryMethod.DUMP),
    )


def forget(migration: str) -> None:
    """At the source: remove what lies on disk of a migration's memory, also of an earlier process of this agent."""
    veils = _veils(migration)
    shutil.rmtree(veils, ignore_errors=True)
    with contextlib.suppress(OSError):  # not there, or another migration's are in it
        veils.parent.rmdir()


def _veils(migration: str) -> Path:
    return places.RUN / "veils" / migration


class ComingMemory:
    """At the target. It needs nothing but the migration's name: any agent of this host may go on with it."""

    def __init__(self, migration: str) -> None:
        self._keeper = MemoryKeeper(migration)

    async def expect(self, image_bytes: int) -> None:
        """From now on it is taken in; `image_bytes` of it at most (0: as much as is free). Raises FaultError."""
        await self._keeper.start(image_bytes or _free_bytes())

    async def hold(self, engine: PagesApart, ve: str, images: Path) -> Hold:
        """Restore and hold the VE, its pages coming after it. Raises FaultError, CORRUPT if this is another memory."""
        access: MemoryAccess = engine.memory(ve)
        wanted = (images / SEAL).read_text()
        state = await self._keeper.state()
        if state is None or not wanted or state.seal != wanted:
            why = "no memory keeper is there" if state is None else state.why or f"it is {state.phase}"
            raise fault_error(
                FaultCode.CORRUPT, f"the memory that belongs to these images is not here: {why}", step="hold memory"
            )
        await self._keeper.listen(access.work)
        held: list[Hold] = []

        async def restore() -> None:
            held.append(await engine.hold_lazily(ve, images))

        async with trio.open_nursery() as nursery:
            # The keeper reads the images while the runtime and CRIU start; a restore that is quicker waits for it.
            nursery.start_soon(restore)
            await self._keeper.serve(access.work, images, access.group)
        await self._keeper.restored()
        return held[0]

    async def filled(self) -> None:
        """Returns when the VE waits for no page any more. Raises FaultError(CORRUPT) if it never will, PEER_LOST if the
        source does not lend what it owes."""
        await self._keeper.filled()

    async def owes(self) -> bool:
        """Whether the VE waits for pages that the source has."""
        state = await self._keeper.state()
        return state is not None and state.owes and state.phase in {Phase.SERVING, Phase.BROKEN}

    async def end(self) -> None:
        """Give everything back; only when the VE is complete, or has no process here."""
        await self._keeper.end()


async def complete(engine: PagesApart, ve: str) -> None:
    """Wait until a VE that came here has all its memory: before that nobody may take its memory for what it is.

    Raises FaultError(CORRUPT).
    """
    group = str(engine.memory(ve).group)
    for path in places.RUN.glob(places.memory_socket("*").name):
        keeper = MemoryKeeper(path.stem.removeprefix("memory-"))
        state = await keeper.state()
        if state is not None and state.group == group and state.phase in {Phase.SERVING, Phase.BROKEN}:
            await keeper.filled()


def _free_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no MemAvailable")
