"""A link to an agent says what it does not know at once, whatever happens to its SSH session."""

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from migrator.adapters.ssh import Loop, SshLink
from migrator.wire.faults import Fault, FaultCode
from migrator.wire.messages import InspectHost
from tests.adapters.ssh_server import Process, Session, serve

Deed = Callable[[Process], None]
ASKED_S, LIMIT_S = 5.0, 60.0


def after_a_request(deed: Deed) -> Session:
    """A session to which something is done as soon as a request has come in."""

    async def session(process: Process) -> None:
        await process.stdin.read(1)
        deed(process)
        await process.stdin.read()

    return session


def _cut(process: Process) -> None:
    process.channel.get_connection().abort()


def _nonsense(process: Process) -> None:
    process.stdout.write(b"\xff" * 64)


def _exit(process: Process) -> None:
    process.exit(1)


@pytest.mark.parametrize("deed", [_cut, _nonsense, _exit], ids=["connection cut", "nonsense", "session ended"])
async def test_a_session_that_dies_is_unknown_at_once(tmp_path: Path, deed: Deed) -> None:
    """A request under way when its session dies is answered UNREACHABLE at once, not when its limit has passed."""
    loop = Loop()
    try:
        async with serve(tmp_path, loop, after_a_request(deed)) as address:
            link = SshLink(address, loop)
            with trio.fail_after(ASKED_S):
                reply = await link.ask(InspectHost(), LIMIT_S)
            await link.close()
    finally:
        loop.stop()

    assert isinstance(reply, Fault)
    assert reply.code is FaultCode.UNREACHABLE
