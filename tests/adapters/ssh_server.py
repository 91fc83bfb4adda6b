"""An SSH server of a test's own: one process speaks for the host's sshd and for its agent."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh

from migrator.adapters.ssh import Loop
from migrator.core.inventory import Host

Process = asyncssh.SSHServerProcess[bytes]
Session = Callable[[Process], Awaitable[None]]
"""What happens on the host when somebody runs the agent's bridge; runs in the asyncio loop."""


@asynccontextmanager
async def serve(directory: Path, loop: Loop, session: Session) -> AsyncIterator[Host]:
    """The host, as an inventory would have it."""
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
