"""Does the acts of one VE: engine, files, images, keys and the other agent, put together.

Rule: this file knows how, never whether; it is called by the keeper only.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from agents import places
from agents.engines.port import Engine
from agents.handover.vocabulary import Act, PeerOrder
from agents.transfer import channel, files, images
from agents.transfer.channel import Channel
from migrator.wire import framing
from migrator.wire.codec import decode, encode
from migrator.wire.facts import Record, VeFacts, VeState
from migrator.wire.faults import FaultCode, fault_error
from migrator.wire.messages import (
    PROTOCOL_VERSION,
    Copied,
    CopyFiles,
    Departing,
    Envelope,
    HandedOver,
    Hello,
    PeerAsk,
    PeerDrop,
    PeerGive,
    PeerHolds,
    PeerRestore,
    PeerRuns,
    Reply,
    Reserve,
    Reserved,
)

PEER_PARTS: dict[type[PeerOrder], str] = {
    PeerRestore: "restore and hold",
    PeerGive: "give and run",
    PeerAsk: "ask the target",
    PeerDrop: "tell the target to drop",
}
"""What the report calls the time spent waiting for the other agent."""
ANNOUNCE_AFTER_S = (0.0, 1.0, 2.0, 4.0)


@dataclass(slots=True)
class Blackout:
    """What the source measures of one blackout, on its own monotonic clock."""

    began_s: float = 0.0
    ended_s: float = 0.0
    parts_s: dict[str, float] = field(default_factory=dict)
    image_bytes: int = 0
    file_bytes: int = 0


class VeWorks:
    """The acts of one VE on this host."""

    def __init__(self, ve: str, engine: Engine) -> None:
        self._ve, self._engine = ve, engine
        self._channel: Channel | None = None
        self._peer: trio.Process | None = None
        self._frames = framing.FrameReader()
        self._blackout = Blackout()
        self.reservation: Reserve | None = None
        self.manifest: dict[str, str] = {}

    async def look(self) -> VeState:
        """The state now."""
        return await self._engine.look(self._ve)

    async def act(self, act: Act, record: Record) -> Reply | dict[str, str] | None:
        """Carry out one act. Raises FaultError."""
        began_s = trio.current_time()
        if act is Act.FREEZE:
            self._blackout = Blackout(began_s)
        result = await self._do(act, record)
        self._blackout.parts_s[str(act)] = trio.current_time() - began_s
        return result

    async def _do(self, act: Act, record: Record) -> Reply | dict[str, str] | None:
        engine, ve, migration = self._engine, self._ve, record.migration
        match act:
            case Act.PREPARE:
                await engine.fence(ve)
                return Departing(await channel.make_key(migration))
            case Act.UNPREPARE:
                await engine.unfence(ve)
                await self._close(migration)
            case Act.FREEZE:
                await engine.freeze(ve)
            case Act.DUMP:
                await self._dump(migration)
            case Act.SEND:
                return await self._send(migration)
            case Act.THAW:
                await engine.thaw(ve)
            case Act.DISCARD:
                await engine.discard(ve)
            case Act.DESTROY:
                await engine.destroy(ve)
                await self._close(migration)
            case Act.ACCEPT:
                return await self._accept()
            case Act.HOLD:
                return await self._hold(migration)
            case Act.RUN:
                await engine.run(ve)
                return PeerRuns(0.0)
            case Act.ANNOUNCE:
                for after_s in ANNOUNCE_AFTER_S:
                    await trio.sleep(after_s)
                    await engine.announce(ve)
            case Act.DROP:
                await engine.drop(ve)
                _forget_target(migration)
            case Act.LIFT:
                await engine.unfence(ve)
                _forget_target(migration)
        return None

    # --- source ----------------------------------------------------------------------------------

    async def copy(self, order: CopyFiles) -> Copied:
        """File passes while the VE runs, until one sends little; leaves the channel open and the peer greeted."""
        self._channel = Channel(order.migration, order.address, order.port)
        channel.trust(order.migration, order.host_keys)
        root = self._engine.transfer_root(self._ve)
        total, last_s, passes = 0, 0.0, 0
        for passes in range(1, order.passes_max + 1):
            began_s = trio.current_time()
            sent = await files.copy_pass(
                self._channel, root, running=True, bandwidth_bytes_per_s=order.bandwidth_bytes_per_s
            )
            last_s, total = trio.current_time() - began_s, total + sent
            if sent < 4 << 20:
                break
        await self._greet()
        return Copied(passes, total, last_s)

    async def _dump(self, migration: str) -> None:
        """The dump and the last file pass side by side: the VE is frozen, neither disturbs the other."""
        assert self._channel is not None
        root, target = self._engine.transfer_root(self._ve), self._channel

        async def last_pass() -> None:
            self._blackout.file_bytes = await files.copy_pass(target, root, running=False)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(last_pass)
            dump = await self._engine.dump(self._ve, places.images(migration))
            self._blackout.parts_s["criu dump"] = dump.criu_s
            self._blackout.image_bytes = dump.bytes

    async def _send(self, migration: str) -> dict[str, str]:
        assert self._channel is not None
        argv = self._channel.ssh("images")
        directory = places.images(migration)

        def work() -> dict[str, str]:
            with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as ssh:
                assert ssh.stdin is not None
                assert ssh.stdout is not None
                sent = images.send(directory, ssh.stdin, lambda _: None)
                ssh.stdin.close()
                ssh.stdout.read()
            if ssh.returncode:
                raise fault_error(FaultCode.PEER_LOST, f"ssh ended with {ssh.returncode}", step="send", tool="ssh")
            return sent

        manifest = await trio.to_thread.run_sync(work)
        await trio.to_thread.run_sync(lambda: shutil.rmtree(directory, ignore_errors=True))
        return manifest

    async def tell_peer(self, message: PeerOrder) -> Reply:
        """Ask the other agent. Raises FaultError(PEER_LOST) when it does not answer."""
        try:
            if self._peer is None:
                await self._greet()
            began_s = trio.current_time()
            reply = await self._exchange(message)
            self._blackout.parts_s[PEER_PARTS[type(message)]] = trio.current_time() - began_s
            if isinstance(reply, PeerRuns):
                self._blackout.ended_s = trio.current_time() - reply.run_to_reply_s
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._peer = None
            raise fault_error(FaultCode.PEER_LOST, f"the target does not answer: {error}", step="talk") from error
        return reply

    def measured(self) -> HandedOver:
        """What the blackout was made of; called when the target has said that the VE runs."""
        seen = self._blackout
        return HandedOver(seen.ended_s - seen.began_s, dict(seen.parts_s), seen.image_bytes, seen.file_bytes)

    async def _greet(self) -> None:
        if self._channel is None:
            raise fault_error(FaultCode.PEER_LOST, "no channel to the target is known any more", step="talk")
        self._peer = await trio.lowlevel.open_process(
            self._channel.ssh("peer"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._frames = framing.FrameReader()
        await self._exchange(Hello(PROTOCOL_VERSION, "source"))

    async def _exchange(self, body: Hello | PeerOrder) -> Reply:
        peer = self._peer
        assert peer is not None
        assert peer.stdin is not None
        assert peer.stdout is not None
        await peer.stdin.send_all(encode(Envelope(1, body)))
        while True:
            data = await peer.stdout.receive_some()
            if not data:
                self._peer = None
                raise fault_error(FaultCode.PEER_LOST, "the connection to the target ended", step="talk")
            for frame in self._frames.feed(bytes(data)):
                reply = decode(frame).body
                return reply  # type: ignore[return-value]

    async def _close(self, migration: str) -> None:
        if self._peer is not None:
            self._peer.kill()
            await self._peer.wait()
            self._peer = None
        if self._channel is not None:
            await self._channel.close()
            self._channel = None
        channel.remove_key(migration)
        shutil.rmtree(places.images(migration), ignore_errors=True)

    # --- target ----------------------------------------------------------------------------------

    async def _accept(self) -> Reserved:
        order = self.reservation
        assert order is not None
        await self._engine.accept(order.facts)
        channel.permit(order.migration, order.public_key, order.key_expires_unix_s, self._gate(order.facts, order))
        return Reserved(channel.host_keys())

    def _gate(self, facts: VeFacts, order: Reserve) -> Sequence[str]:
        root = self._engine.transfer_root(facts.ve)
        return ("python3", "-I", sys.argv[0], "gate", order.migration, str(root))

    async def _hold(self, migration: str) -> PeerHolds:
        began_s = trio.current_time()
        directory = places.images(migration)
        await trio.to_thread.run_sync(images.verify, directory, self.manifest)
        hold = await self._engine.hold(self._ve, directory)
        return PeerHolds(trio.current_time() - began_s, hold.criu_s)

    def expect(self, order: Reserve | PeerRestore) -> None:
        """What the next act needs to know of an order."""
        if isinstance(order, Reserve):
            self.reservation = order
        else:
            self.manifest = order.manifest


def _forget_target(migration: str) -> None:
    channel.forbid(migration)
    shutil.rmtree(places.images(migration), ignore_errors=True)
