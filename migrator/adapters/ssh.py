"""AgentLink over SSH, and the few plain commands that `host add` needs. The only asyncio code in the program.

asyncssh needs an asyncio loop; it gets one in a thread of its own, shared by all hosts, and trio tasks wait for what is
run there. Functions that run in that loop end in `_aio`. Rule: a host's key is checked against the known-hosts file the
operator named, always; a channel that ends without an answer means unknown, never failed.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

import asyncssh
import trio

from migrator.core.inventory import Host
from migrator.wire import framing
from migrator.wire.codec import decode, encode
from migrator.wire.faults import Fault, FaultCode, FaultError, fault_error
from migrator.wire.messages import PROTOCOL_VERSION, Envelope, Hello, Progress, Reply, Request

T = TypeVar("T")
AGENT = "/var/lib/migrator/agent/current"
CONNECT_LIMIT_S = 15.0


class Loop:
    """The asyncio loop and its thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ssh", daemon=True)
        self._thread.start()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the loop from trio; cancelling the wait cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        done, token = trio.Event(), trio.lowlevel.current_trio_token()
        future.add_done_callback(lambda _: _tell(token, done))
        try:
            await done.wait()
        except trio.Cancelled:
            future.cancel()
            raise
        return future.result()

    def stop(self) -> None:
        """End the loop and its thread, and whatever runs in it."""
        asyncio.run_coroutine_threadsafe(_end_all(), self._loop).result(CONNECT_LIMIT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _end_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _pass_on(token: trio.lowlevel.TrioToken, progress: Callable[[Progress], None], notice: Progress) -> None:
    with contextlib.suppress(trio.RunFinishedError):
        token.run_sync_soon(progress, notice)


def _tell(token: trio.lowlevel.TrioToken, done: trio.Event) -> None:
    with contextlib.suppress(trio.RunFinishedError):  # who waited was given up together with the whole run
        token.run_sync_soon(done.set)


class SshLink:
    """See `migrator.ports.agents.AgentLink`."""

    def __init__(self, address: Host, loop: Loop) -> None:
        self._address, self._loop = address, loop
        self._connection: asyncssh.SSHClientConnection | None = None
        self._process: asyncssh.SSHClientProcess[bytes] | None = None
        self._waiting: dict[int, tuple[asyncio.Future[Reply], Callable[[Progress], None] | None]] = {}
        self._number = 0
        self._dialling: asyncio.Lock | None = None
        self._reading: asyncio.Task[None] | None = None

    async def ask(self, request: Request, limit_s: float, progress: Callable[[Progress], None] | None = None) -> Reply:
        """The agent's answer, or Fault UNREACHABLE."""
        token = trio.lowlevel.current_trio_token()
        tell = None if progress is None else partial(_pass_on, token, progress)
        try:
            return await self._loop.run(self._ask_aio(request, limit_s, tell))
        except FaultError as error:
            return error.fault
        except (TimeoutError, OSError, asyncssh.Error, EOFError) as error:
            return self._fault(error, limit_s)

    def _fault(self, error: Exception, limit_s: float) -> Fault:
        where = self._address
        name, at = where.name, f"{where.user}@{where.address}:{where.port}"
        match error:
            case asyncssh.HostKeyNotVerifiable():
                file = where.known_hosts or "~/.ssh/known_hosts"
                said = (
                    f"the SSH host key of {at} is not one that {file} has for it: either it is new here, or it changed"
                )
                return Fault(FaultCode.NOT_TRUSTED, f"{said} ({error}); nothing was sent", name, "connect", "ssh")
            case asyncssh.PermissionDenied():
                by = where.identity_file or "the keys of your SSH agent and of ~/.ssh (the inventory names none)"
                return Fault(
                    FaultCode.NOT_TRUSTED, f"{at} does not let us in with {by}: {error}", name, "connect", "ssh"
                )
            case TimeoutError():
                return Fault(FaultCode.UNREACHABLE, f"no answer from {at} within {limit_s:g} s", name, tool="ssh")
            case _:
                return Fault(FaultCode.UNREACHABLE, f"{at}: {error or type(error).__name__}", name, tool="ssh")

    async def run(self, command: str, stdin: bytes = b"") -> tuple[int | None, str, str]:
        """Run a plain command: (exit status, output, errors). Raises FaultError."""
        try:
            return await self._loop.run(self._run_aio(command, stdin))
        except (TimeoutError, OSError, asyncssh.Error, EOFError) as error:
            raise FaultError(self._fault(error, CONNECT_LIMIT_S)) from error

    async def close(self) -> None:
        """Hang up."""
        await self._loop.run(self._close_aio())

    # --- inside the asyncio loop -----------------------------------------------------------------

    async def _ask_aio(self, request: Request, limit_s: float, progress: Callable[[Progress], None] | None) -> Reply:
        async with asyncio.timeout(limit_s or None):
            await self._dial_aio()
            self._number += 1
            answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            self._waiting[self._number] = (answer, progress)
            assert self._process is not None
            self._process.stdin.write(encode(Envelope(self._number, request)))
            return await answer

    async def _dial_aio(self) -> None:
        self._dialling = self._dialling or asyncio.Lock()
        async with self._dialling:
            if self._process is not None:
                return
            process = await self._bridge_aio()
            process.stdin.write(encode(Envelope(0, Hello(PROTOCOL_VERSION, "controller"))))
            self._process = process
            self._reading = asyncio.create_task(self._read_aio(process))

    async def _bridge_aio(self) -> "asyncssh.SSHClientProcess[bytes]":
        """A session at the agent; over the connection there is, or over a new one if that has died unnoticed."""
        command = f"python3 -I {AGENT} bridge"
        old = self._connection
        try:
            return await (await self._connect_aio()).create_process(command, encoding=None)
        except (OSError, asyncssh.Error):
            if old is None:
                raise
            old.abort()
            self._connection = None
            return await (await self._connect_aio()).create_process(command, encoding=None)

    async def _connect_aio(self) -> asyncssh.SSHClientConnection:
        if self._connection is None:
            where = self._address
            key = self._read("private key", where.identity_file, asyncssh.read_private_key)
            known = self._read("known hosts", where.known_hosts, asyncssh.read_known_hosts)
            try:
                self._connection = await asyncssh.connect(
                    where.address,
                    port=where.port,
                    username=where.user,
                    client_keys=() if key is None else [key],
                    known_hosts=() if known is None else known,
                    connect_timeout=CONNECT_LIMIT_S,
                    keepalive_interval=5,
                    keepalive_count_max=3,
                    config=None,
                )
            except TimeoutError as error:  # not that of a request, which cancels
                raise FaultError(self._fault(error, CONNECT_LIMIT_S)) from error
        return self._connection

    def _read(self, what: str, file: str, read: Callable[[str], T]) -> T | None:
        """A file of ours that the inventory names; None: it names none. Raises FaultError(NOT_TRUSTED)."""
        if not file:
            return None
        try:
            return read(file)
        except (OSError, ValueError) as error:  # what asyncssh raises for a file that is not what it should be
            reason = error.strerror if isinstance(error, OSError) else str(error)
            said = f"{file} cannot be used as {what}: {reason}; nothing was sent"
            raise fault_error(
                FaultCode.NOT_TRUSTED, said, host=self._address.name, step="connect", tool="ssh"
            ) from error

    async def _read_aio(self, process: "asyncssh.SSHClientProcess[bytes]") -> None:
        try:
            said = await self._hear_all_aio(process)
        except (OSError, asyncssh.Error, FaultError) as error:
            said = str(error) or type(error).__name__  # the session died, or talks nonsense: no answer will come
        name = self._address.name
        self._lost(process, Fault(FaultCode.UNREACHABLE, f"no agent on {name}: {said}", name))

    async def _hear_all_aio(self, process: "asyncssh.SSHClientProcess[bytes]") -> str:
        """Until the session ends; its last words."""
        frames = framing.FrameReader()
        while data := await process.stdout.read(1 << 16):
            for frame in frames.feed(data):
                self._hear(process, decode(frame))
        errors = (await process.stderr.read()).decode(errors="replace").strip()
        return errors or "the agent hung up"

    def _hear(self, process: "asyncssh.SSHClientProcess[bytes]", envelope: Envelope) -> None:
        if envelope.number == 0:
            if isinstance(envelope.body, Fault):
                self._lost(process, envelope.body)
            return
        answer, progress = self._waiting.get(envelope.number, (None, None))
        if isinstance(envelope.body, Progress):
            if progress is not None:
                progress(envelope.body)
        elif answer is not None and not answer.done():
            del self._waiting[envelope.number]
            answer.set_result(envelope.body)  # type: ignore[arg-type]  # an agent answers with replies

    def _lost(self, process: "asyncssh.SSHClientProcess[bytes]", fault: Fault) -> None:
        if process is not self._process:
            return  # an earlier session: nobody waits for it any more
        waiting, self._waiting = self._waiting, {}
        self._process = None  # the connection stays: plain commands may be under way on it
        for answer, _ in waiting.values():
            if not answer.done():
                answer.set_result(fault)

    async def _run_aio(self, command: str, stdin: bytes) -> tuple[int | None, str, str]:
        connection = await self._connect_aio()
        done = await connection.run(command, input=stdin, encoding=None, check=False)
        return done.exit_status, _text(done.stdout), _text(done.stderr)

    async def _close_aio(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        if self._connection is not None:
            self._connection.close()
            await self._connection.wait_closed()
        self._connection = self._process = None


def _text(data: object) -> str:
    return data.decode(errors="replace") if isinstance(data, bytes) else str(data or "")
