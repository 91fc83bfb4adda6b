"""The source's conversation with the agent on the target, over the migration's own SSH channel.

Rule: a conversation that breaks says PEER_LOST, which is indefinite: what was asked may have been done.
"""

import os
import subprocess

import trio

from agents.transfer.channel import Channel
from migrator.wire import framing
from migrator.wire.codec import decode, encode
from migrator.wire.faults import Fault, FaultCode, FaultError, fault_error
from migrator.wire.messages import PROTOCOL_VERSION, Envelope, Hello, PeerMeasure, PeerRequest, Reply

ANSWER_LIMIT_S = 900.0
MEASURED_BYTES = 1 << 20
SHORTEST_S = 0.001
"""A line on which a MiB takes less is quick enough for any decision."""


class Peer:
    """One conversation; dialled when it is first needed, and again after it broke."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._process: trio.Process | None = None
        self._frames = framing.FrameReader()
        self._turn = trio.Lock()

    async def greet(self) -> None:
        """Dial now, so that nothing is dialled in the blackout. Raises FaultError."""
        async with self._turn:
            await self._dial()

    async def ask(self, message: PeerRequest) -> Reply:
        """The answer. Raises FaultError(PEER_LOST) when none comes."""
        async with self._turn:
            await self._dial()
            try:
                with trio.fail_after(ANSWER_LIMIT_S):
                    return await self._exchange(message)
            except FaultError:
                raise
            except (OSError, trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
                await self._hang_up()
                raise fault_error(FaultCode.PEER_LOST, f"the target does not answer: {error!r}", step="talk") from error

    async def line_bytes_per_s(self, migration: str, ve: str) -> float:
        """How quick the line is now, by one message of a MiB; what goes beside it is not known. Raises FaultError."""
        took_s = []
        for data in (b"", os.urandom(MEASURED_BYTES)):
            began_s = trio.current_time()
            await self.ask(PeerMeasure(migration, ve, data))
            took_s.append(trio.current_time() - began_s)
        return MEASURED_BYTES / max(took_s[1] - took_s[0], SHORTEST_S)

    async def close(self) -> None:
        """End it. May be called again."""
        with trio.CancelScope(shield=True):
            await self._hang_up()

    async def _dial(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._process = await trio.lowlevel.open_process(
            self._channel.ssh("peer"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._frames = framing.FrameReader()
        reply = await self._exchange(Hello(PROTOCOL_VERSION, "source"))
        if isinstance(reply, Fault):
            await self._hang_up()
            raise FaultError(reply)

    async def _exchange(self, body: Hello | PeerRequest) -> Reply:
        process = self._process  # `close` may take it away meanwhile; then its output ends
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            await process.stdin.send_all(encode(Envelope(1, body)))
            while data := await process.stdout.receive_some():
                for frame in self._frames.feed(bytes(data)):
                    return decode(frame).body  # type: ignore[return-value]  # an agent answers with replies
        except trio.Cancelled:
            # Half an exchange: whatever comes next on this stream belongs to nobody.
            process.kill()
            raise
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # ssh has gone: the same as the end of its output
        await self._hang_up()
        raise fault_error(FaultCode.PEER_LOST, "the connection to the target ended", step="talk", tool="ssh")

    async def _hang_up(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await process.wait()
