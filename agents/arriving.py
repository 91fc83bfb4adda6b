"""Does the acts of one VE at its target: engine, images, memory and the key that lets the source in.

Rule: this file knows how, never whether; it needs nothing of an earlier process of this agent but what is on disk.
"""

import shutil
import sys

import trio

from agents import places, remarks
from agents.engines.port import Coming, Engine, PagesApart
from agents.handover.vocabulary import Act
from agents.transfer import channel, images, receivers
from agents.transfer.memory import moving
from agents.transfer.memory.moving import ComingMemory
from migrator.wire.facts import Mode, Record, VeState
from migrator.wire.faults import FaultCode, fault_error
from migrator.wire.messages import PeerExpect, PeerHolds, PeerRuns, Reply, Reserve, Reserved

ANNOUNCE_AFTER_S = (0.0, 1.0, 2.0, 4.0)


class Arriving:
    """The acts at the target of one VE."""

    def __init__(self, ve: str, engine: Engine) -> None:
        self._ve, self._engine = ve, engine
        self._ahead_turn = trio.Lock()
        """Held while what restores the VE is started ahead, and by what ends it."""
        self.reservation: Reserve | None = None
        """The order that the act `accept` obeys."""
        self.held = False
        """Its processes were here, and none ran, when it was looked at last."""
        self.alone = False
        """The source was declared off or has been down: what it owes (post-copy) will not come."""
        self.manifest: dict[str, str] = {}
        """What the images are to be that the act `hold` restores."""

    async def act(self, act: Act, record: Record) -> Reply | dict[str, str] | None:
        """Carry out one act. Raises FaultError."""
        engine, ve, migration = self._engine, self._ve, record.migration
        match act:
            case Act.ACCEPT:
                return await self._accept()
            case Act.HOLD:
                return await self._hold(record)
            case Act.RUN:
                await self._run(record)
                return PeerRuns(0.0)
            case Act.HALT:
                await self._halt(record)
            case Act.ANNOUNCE:
                await self._announce(record)
            case Act.DROP:
                async with self._ahead_turn:
                    self.held = False
                    places.forbid(migration)
                    await self.end_receivers(migration)
                    await trio.to_thread.run_sync(places.forget_partial, migration)
                    await engine.drop(ve)
                await ComingMemory(migration).end()
                _forget_images(migration)
            case Act.FORBID:
                channel.forbid(migration)
            case Act.LIFT:
                await self._complete(record)
                await engine.unfence(ve)
                places.forbid(migration)
                await self.end_receivers(migration)
                await trio.to_thread.run_sync(places.forget_partial, migration)
                _forget_images(migration)
                channel.forbid(migration)
            case _:
                raise ValueError(f"{act} is no act of a target")
        return None

    async def _accept(self) -> Reserved:
        order, self.held = self.reservation, False
        assert order is not None
        ve = order.ve or order.facts.ve
        trees = await self._engine.accept(Coming(order.facts, ve, order.mode, order.names))
        places.permit(order.migration, [tree.path for tree in trees])
        if order.mode is Mode.LIVE and isinstance(self._engine, PagesApart):
            await ComingMemory(order.migration).expect(order.image_bytes)
        gate = ("python3", "-I", sys.argv[0], "gate", order.migration)
        channel.permit(order.migration, order.public_key, order.key_expires_unix_s, gate)
        return Reserved(channel.host_keys(), {tree.name: str(tree.path) for tree in trees})

    @staticmethod
    async def end_receivers(migration: str) -> None:
        """Nobody writes files or images for this migration any more. Raises FaultError."""
        try:
            await trio.to_thread.run_sync(receivers.end, migration)
        except TimeoutError as error:
            raise fault_error(FaultCode.TOOL_FAILED, str(error), step="end receivers", tool="rsync") from error

    async def hold_ahead(self, message: PeerExpect) -> None:
        """What will restore the VE is started, and waits. Raises FaultError."""
        if isinstance(self._engine, PagesApart):
            async with self._ahead_turn:
                directory = places.images(message.migration)
                directory.mkdir(parents=True, exist_ok=True, mode=0o700)
                for name, content in message.files.items():
                    (directory / images.plain(name)).write_bytes(content)
                await self._engine.hold_ahead(self._ve, directory)

    async def hold_soon(self) -> None:
        """The images are about to come."""
        if isinstance(self._engine, PagesApart):
            async with self._ahead_turn:
                await self._engine.hold_soon(self._ve)

    async def _hold(self, record: Record) -> PeerHolds:
        began_s = trio.current_time()
        if record.mode is not Mode.LIVE:
            await self._engine.arrange(self._ve)
            return PeerHolds(trio.current_time() - began_s, 0.0)
        directory = places.images(record.migration)
        await trio.to_thread.run_sync(images.verify, directory, self.manifest)
        if isinstance(self._engine, PagesApart) and (directory / moving.SEAL).exists():
            hold = await ComingMemory(record.migration).hold(self._engine, self._ve, directory)
        else:
            hold = await self._engine.hold(self._ve, directory)
        # An engine whose restore cannot hold keeps the dump until `run`, and has no processes before.
        self.held = await self._engine.look(self._ve) is VeState.FROZEN
        return PeerHolds(trio.current_time() - began_s, hold.criu_s)

    async def _run(self, record: Record) -> None:
        if await self._engine.look(self._ve) is VeState.FROZEN:
            await self._engine.run(self._ve)
        elif self.held:
            # The source has it yet, memory and all: to start it from its disk would throw that away. Asked again, by a controller
            # that knows better, it is started.
            self.held = False
            raise fault_error(FaultCode.CONFLICT, f"processes of {self._ve} ended while it was held here", step="run")
        elif record.rest is VeState.RUNNING:
            await self._engine.start(self._ve)
        self.held = False

    async def _complete(self, record: Record) -> None:
        """All of its memory is here; or never will be, and it is started anew."""
        memory = ComingMemory(record.migration)
        if self.alone and await memory.owes():
            await self._engine.stop(self._ve)
            await memory.end()
            await self._engine.start(self._ve)
            remarks.add(self._ve, f"it was started anew: a part of its memory was lost with {record.peer}")
            return
        await memory.filled()
        await memory.end()

    async def _halt(self, record: Record) -> None:
        state = await self._engine.look(self._ve)
        if record.mode is Mode.STOP_COPY:
            await self._engine.stop(self._ve)
        elif state not in (VeState.FROZEN, VeState.SUSPENDED, VeState.STOPPED):
            raise fault_error(FaultCode.TOO_LATE, f"{self._ve} may have run here: it is {state}", step="halt")

    async def _announce(self, record: Record) -> None:
        if record.rest is not VeState.RUNNING:
            return
        for after_s in ANNOUNCE_AFTER_S:
            await trio.sleep(after_s)
            await self._engine.announce(self._ve)


def _forget_images(migration: str) -> None:
    shutil.rmtree(places.images(migration), ignore_errors=True)
