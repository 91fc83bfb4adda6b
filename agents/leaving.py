"""Does the acts of one VE at its source: engine, files, memory, images, the key, and the talk with the other agent.

Rule: this file knows how, never whether; what is opened for a migration is closed when it is over or undone.
"""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import trio

from agents import places
from agents.blackout import Blackout
from agents.engines.port import Dump, Engine, PagesApart
from agents.handover.vocabulary import Act, PeerOrder
from agents.peer import Peer
from agents.transfer import channel
from agents.transfer.channel import Channel
from agents.transfer.file_copy import FileCopy
from agents.transfer.image_sending import ImageSender
from agents.transfer.memory import moving
from agents.transfer.memory.handles import NotSendable
from agents.transfer.memory.moving import LeavingMemory, Lending
from agents.transfer.rounds import Round
from migrator.wire.facts import Claim, MemoryMethod, Mode, Record, Standing, VeState
from migrator.wire.faults import FaultCode, FaultError, fault_error
from migrator.wire.messages import (
    Copied,
    Departing,
    HandedOver,
    PeerAnew,
    PeerAsk,
    PeerDrop,
    PeerExpect,
    PeerFrames,
    PeerGive,
    PeerHolds,
    PeerRestore,
    PeerRuns,
    PeerSoon,
    PreCopy,
    Progress,
    Reply,
    Stands,
)

PEER_PARTS: dict[type[PeerOrder], str] = {
    PeerRestore: "restore and hold",
    PeerGive: "give and run",
    PeerAsk: "ask the target",
    PeerDrop: "tell the target to drop",
}
"""What the report calls the time spent waiting for the other agent."""
IN_BLACKOUT = frozenset({Act.FREEZE, Act.DUMP, Act.SEND})
RESUME_AFTER_S = 2.0
"""So long a line that broke gets before it is used again."""
SOON_LIMIT_S = 0.5
"""Longer than a dump of a small VE takes, and no reason to wait when the target does not answer."""


class Leaving:
    """The acts at the source of one VE."""

    def __init__(self, ve: str, engine: Engine) -> None:
        self._ve, self._engine = ve, engine
        self._channel: Channel | None = None
        self._peer: Peer | None = None
        self._files: FileCopy | None = None
        self._memory: LeavingMemory | None = None
        self._lending: Lending | None = None
        self._images: ImageSender | None = None
        self._blackout = Blackout()
        self._line_bytes_per_s = 0.0
        """As measured before the first round, if there is to be compression where it pays."""
        self._begun = False
        """Files have gone to this target before."""
        self._broken = False
        """A round has not come to its end: what it used may have ended."""
        self.round: PreCopy | None = None
        """The order that the next act `copy` obeys."""
        self.listener: Callable[[Progress], None] = lambda _: None
        """Who wants to hear how a round gets on."""

    async def act(self, act: Act, record: Record) -> Reply | dict[str, str] | None:
        """Carry out one act. Raises FaultError."""
        began_s = trio.current_time()
        if act is Act.FREEZE:
            self._blackout = Blackout(began_s)
        result = await self._do(act, record)
        if act in IN_BLACKOUT:
            self._blackout.parts_s[str(act)] = trio.current_time() - began_s
        return result

    async def _do(self, act: Act, record: Record) -> Reply | dict[str, str] | None:
        engine, ve, migration = self._engine, self._ve, record.migration
        match act:
            case Act.PREPARE:
                if isinstance(engine, PagesApart):
                    await moving.complete(engine, ve)
                await engine.fence(ve)
                return Departing(await channel.make_key(migration))
            case Act.UNPREPARE:
                await engine.unfence(ve)
                await self._close(migration)
            case Act.COPY:
                assert self.round is not None
                return await self._copy(self.round, record)
            case Act.FREEZE:
                await self._freeze(record)
            case Act.DUMP:
                await self._dump(record)
            case Act.SEND:
                return await self._send(record)
            case Act.THAW:
                await self._thaw(record)
            case Act.LEND:
                await self._lend(migration)
            case Act.DISCARD:
                await self._end_lending()
                await engine.discard(ve)
                await self._close_memory()
            case Act.DESTROY:
                if not record.keep:
                    await engine.destroy(ve)
                await self._close(migration)
            case _:
                raise ValueError(f"{act} is no act of a source")
        return None

    async def _copy(self, order: PreCopy, record: Record) -> Copied:
        """One round while the VE runs. The first opens the channel and greets the other agent; after any of them what takes the
        images is ready on the target."""
        anew, self._broken = self._broken, True
        if anew:
            await trio.sleep(RESUME_AFTER_S)
        if anew or self._files is None or order.round == 1:
            await self._open(order, anew=anew)
        await self._peer_of(order.migration).greet()
        if anew:
            its_name = record.peer_ve or record.ve
            await self._peer_of(order.migration).ask(PeerAnew(order.migration, its_name))
        if order.round == 1 and order.compress:
            its_name = record.peer_ve or record.ve
            self._line_bytes_per_s = await self._peer_of(order.migration).line_bytes_per_s(order.migration, its_name)
        assert self._files is not None
        copied = await Round(order, self._files, self._memory, self.listener).run(self._line_bytes_per_s, anew=anew)
        self._broken = False
        if record.mode is Mode.LIVE:
            self._image_sender().wait()
            await self._ahead(record)
        return copied

    async def _ahead(self, record: Record) -> None:
        """What dumps the VE, and at the target what restores it, is started now and waits: in the blackout it would take longer
        than its work. If it cannot, it is started there, and its errors are heard there."""
        if self._memory is None or self._memory.method is MemoryMethod.DUMP:
            return
        images, its_name = places.images(record.migration), record.peer_ve or record.ve
        with contextlib.suppress(FaultError, NotSendable, OSError):
            await self._memory.ahead(images)
            early = {path.name: path.read_bytes() for path in images.iterdir()}
            await self._peer_of(record.migration).ask(PeerExpect(record.migration, its_name, early))

    async def _open(self, order: PreCopy, *, anew: bool) -> None:
        """The channel, and what copies over it; `anew`: memory goes on with what has come, and files always do."""
        if not anew:
            await self._close_files()
            await self._close_memory()
        self._close_images()
        await self._close_channel()
        self._channel = channel.open_to(order.migration, order.address, order.port, order.host_keys)
        if self._files is not None:
            await self._files.go_on(self._channel)
        else:
            fresh, self._begun = order.round == 1 and not self._begun, True
            self._files = FileCopy(self._channel, self._engine.trees(self._ve), order.places, fresh)
        ahead = order.memory_method is not MemoryMethod.DUMP
        if self._memory is not None:
            self._memory.go_on(self._channel)
        elif ahead and isinstance(self._engine, PagesApart) and await self._engine.look(self._ve) is VeState.RUNNING:
            self._memory = LeavingMemory(
                self._engine,
                self._ve,
                self._channel,
                order.memory_method,
                order.compare_bytes,
                compress=order.compress,
            )

    async def _freeze(self, record: Record) -> None:
        if record.mode is Mode.LIVE:
            await self._engine.freeze(self._ve)
        elif record.rest is VeState.RUNNING:
            await self._engine.stop(self._ve)

    async def _thaw(self, record: Record) -> None:
        if record.rest is not VeState.RUNNING:
            return
        if await self._engine.look(self._ve) is VeState.STOPPED:
            await self._engine.start(self._ve)
        else:
            await self._engine.thaw(self._ve)

    async def _dump(self, record: Record) -> None:
        """The dump and the last file pass side by side: no process runs, neither disturbs the other."""
        await self._engine.note(self._ve)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._last_pass)
            if record.mode is Mode.LIVE:
                nursery.start_soon(self._tell_soon, record)
                dump = await self._checkpoint(places.images(record.migration), post_copy=record.post_copy)
                self._blackout.parts_s["criu dump"] = dump.criu_s
                self._blackout.criu_s += dump.criu_s
                self._blackout.image_bytes = dump.bytes

    async def _tell_soon(self, record: Record) -> None:
        with contextlib.suppress(FaultError), trio.move_on_after(SOON_LIMIT_S):
            await self._peer_of(record.migration).ask(PeerSoon(record.migration, record.peer_ve or record.ve))

    async def _checkpoint(self, directory: Path, *, post_copy: bool) -> Dump:
        """With the rest of the memory beside it, where that was sent ahead; by post-copy that stays here and is lent."""
        began_s = trio.current_time()
        method = self._memory.method if self._memory is not None else MemoryMethod.DUMP
        if post_copy and method not in moving.TRACKING:
            why = f"post-copy needs to know what was written, and this memory moves by {method}"
            raise fault_error(FaultCode.CONFLICT, why, step="memory")
        if self._memory is not None and method is not MemoryMethod.DUMP:
            dump, parts = await self._memory.dump(directory, post_copy=post_copy)
            self._blackout.parts_s |= parts.parts_s
            self._blackout.memory_bytes, self._blackout.owed_bytes = parts.bytes, parts.owed_bytes
            if post_copy:
                assert self._channel is not None
                bandwidth = self.round.bandwidth_bytes_per_s if self.round is not None else 0
                self._lending = Lending(self._engine, self._ve, self._channel, bandwidth)
                await self._lending.begin()
            return dump
        dump = await self._engine.dump(self._ve, directory)
        self._blackout.parts_s["checkpoint"] = trio.current_time() - began_s
        return dump

    async def _lend(self, migration: str) -> None:
        """Until the target has all of the memory; also by an agent that started since."""
        if self._lending is None:
            self._channel = self._channel or channel.known(migration)
            if self._channel is None:
                raise fault_error(FaultCode.PEER_LOST, "no channel to the target is known", step="lend")
            self._lending = Lending(self._engine, self._ve, self._channel)
        await self._lending.to_the_end()

    async def _end_lending(self) -> None:
        if self._lending is not None:
            await self._lending.end()
            self._lending = None

    async def _last_pass(self) -> None:
        began_s = trio.current_time()
        assert self._files is not None
        self._blackout.file_bytes = await self._files.last(self._engine.pids(self._ve))
        self._blackout.parts_s["last file pass"] = trio.current_time() - began_s

    async def _send(self, record: Record) -> dict[str, str]:
        """The images; and nothing goes on before it is certain that the files have arrived."""
        manifest: dict[str, str] = {}
        assert self._files is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._files.confirm)
            if record.mode is Mode.LIVE:
                directory = places.images(record.migration)
                manifest = await self._image_sender().send(directory)
                await trio.to_thread.run_sync(lambda: shutil.rmtree(directory, ignore_errors=True))
        return manifest

    def _image_sender(self) -> ImageSender:
        assert self._channel is not None
        self._images = self._images or ImageSender(self._channel.ssh("images"))
        return self._images

    async def tell_peer(self, message: PeerOrder) -> Reply:
        """Ask the other agent. Raises FaultError(PEER_LOST) when it does not answer."""
        began_s = trio.current_time()
        reply = await self._peer_of(message.migration).ask(message)
        self._blackout.parts_s[PEER_PARTS[type(message)]] = trio.current_time() - began_s
        if isinstance(reply, PeerHolds):
            self._blackout.parts_s["criu restore"] = reply.criu_restore_s
            self._blackout.criu_s += reply.criu_restore_s
        if isinstance(reply, PeerRuns):
            self._blackout.ended_s = trio.current_time() - reply.run_to_reply_s
        if _runs_there(reply, message.migration):
            await self._bring_frames(message)
        return reply

    async def _bring_frames(self, given: PeerOrder) -> None:
        """What clients sent in the blackout; they would send it again, but later."""
        if frames := await self._engine.missed(self._ve):
            with contextlib.suppress(FaultError):
                message = PeerFrames(given.migration, given.ve, tuple(frames))
                await self._peer_of(given.migration).ask(message)

    def measured(self) -> HandedOver:
        """What the blackout was made of; called when the target has said that the VE runs."""
        return self._blackout.handed_over()

    def _peer_of(self, migration: str) -> Peer:
        self._channel = self._channel or channel.known(migration)
        if self._channel is None:
            raise fault_error(FaultCode.PEER_LOST, "no channel to the target is known", step="talk")
        self._peer = self._peer or Peer(self._channel)
        return self._peer

    def _close_images(self) -> None:
        if self._images is not None:
            self._images.end()
            self._images = None

    async def _close_files(self) -> None:
        if self._files is not None:
            await self._files.close()
            self._files = None

    async def _close_memory(self) -> None:
        await self._end_lending()
        if self._memory is not None:
            await self._memory.close()
            self._memory = None

    async def _close_channel(self) -> None:
        if self._peer is not None:
            await self._peer.close()
            self._peer = None
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def _close(self, migration: str) -> None:
        await self._close_files()
        await self._close_memory()
        self._close_images()
        # An earlier process of this agent may have opened it.
        self._channel = self._channel or channel.known(migration)
        await self._close_channel()
        self._begun = self._broken = False
        moving.forget(migration)
        channel.remove_key(migration)
        shutil.rmtree(places.images(migration), ignore_errors=True)


def _runs_there(reply: Reply, migration: str) -> bool:
    """Whether the target says that it lets the VE run: the answer to a gift, or, where that was lost, to a question."""
    match reply:
        case PeerRuns():
            return True
        case Stands(
            standing=Standing(record=Record(claim=Claim.OWNER) as record, state=VeState.RUNNING, working=False)
        ):
            return record.migration == migration
        case _:
            return False
