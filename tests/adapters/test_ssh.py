"""A link to an agent says what it does not know at once, whatever happens to its SSH session."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
import pytest
import trio

from migrator.adapters.ssh import Loop, SshLink
from migrator.core.inventory import Host
from migrator.wire.faults import Fault, FaultCode
from migrator.wire.messages import InspectHost

Deed = Callable[["asyncssh.SSHServerProcess[bytes]"], None]
ASKED_S, LIMIT_S = 5.0, 60.0


@asynccontextmanager
async def host(directory: Path, loop: Loop, deed: Deed) -> AsyncIterator[Host]:
    """An SSH server that does something to a session as soon as a request has come in."""

    async def session(process: "asyncssh.SSHServerProcess[bytes]") -> None:
        await process.stdin.read(1)
        deed(process)
        await process.stdin.read()

    server_key, client_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    client_key.write_private_key(directory / "id")
    client_key.write_public_key(directory / "id.pub")

    async def listen() -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[server_key],
            authorized_client_keys=str(directory / "id.pub"),
            process_factory=session,
            encoding=None,
        )

    server = await loop.run(listen())
    port = server.get_port()
    public = server_key.export_public_key().decode()
    (directory / "known").write_text(f"[127.0.0.1]:{port} {public}")
    try:
        yield Host(
            "one", "127.0.0.1", port, "root", identity_file=str(directory / "id"), known_hosts=str(directory / "known")
        )
    finally:
        await loop.run(_end(server))


async def _end(server: asyncssh.SSHAcceptor) -> None:
    server.close()
    await server.wait_closed()


def _cut(process: "asyncssh.SSHServerProcess[bytes]") -> None:
    process.channel.get_connection().abort()


def _nonsense(process: "asyncssh.SSHServerProcess[bytes]") -> None:
    process.stdout.write(b"\xff" * 64)


def _exit(process: "asyncssh.SSHServerProcess[bytes]") -> None:
    process.exit(1)


@pytest.mark.parametrize("deed", [_cut, _nonsense, _exit], ids=["connection cut", "nonsense", "session ended"])
async def test_a_session_that_dies_is_unknown_at_once(tmp_path: Path, deed: Deed) -> None:
    """A request under way when its session dies is answered UNREACHABLE at once, not when its limit has passed."""
    loop = Loop()
    try:
        async with host(tmp_path, loop, deed) as address:
            link = SshLink(address, loop)
            with trio.fail_after(ASKED_S):
                reply = await link.ask(InspectHost(), LIMIT_S)
            await link.close()
    finally:
        loop.stop()

    assert isinstance(reply, Fault)
    assert reply.code is FaultCode.UNREACHABLE
