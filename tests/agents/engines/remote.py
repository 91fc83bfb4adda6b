"""An engine inside a lab host, used by a test outside as if it were here.

Rule: nothing of the engine runs on this machine; a cancelled call is cancelled there, and is over only when it is over there.
"""

import pickle
import socket
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import trio

from agents.engines.port import Coming, Dump, Hold, Tree
from migrator.adapters import program
from migrator.wire.facts import Objection, ToolFact, VeFacts, VeState
from migrator.wire.faults import FaultError
from scenarios.lab.hosts import Host

SOCKET = "/run/engine-under-test.sock"
SHIMS = "/run/engine-under-test"
"""First on the engine's PATH: whatever is put here stands in front of the host's tools."""


class RemoteEngine:
    """The engine `agents.MODULE:CLASS` in a process of its own on a host. Close it."""

    def __init__(self, host: Host, what: str, name: str, *, live: bool = True) -> None:
        self.name, self.live = name, live
        self._path = str(host.path(SOCKET))
        host.path(SHIMS).mkdir(exist_ok=True)
        host.path(f"{SHIMS}.pyz").write_bytes(program.build()[1])
        host.path(f"{SHIMS}.py").write_bytes((Path(__file__).parent / "inside.py").read_bytes())
        host.path(SOCKET).unlink(missing_ok=True)
        path = f"PATH={SHIMS}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        words = ("env", path, "python3", "-I", f"{SHIMS}.py", f"{SHIMS}.pyz", what, SOCKET)
        self._process = host.popen(*words, stderr=subprocess.PIPE)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError(f"the engine did not start: {self._process.communicate()[1]}")

    def close(self) -> None:
        """End it there; what it did stays."""
        self._process.terminate()
        self._process.communicate()

    async def _call(self, name: str, *arguments: Any) -> Any:
        stream = await trio.open_unix_socket(self._path)
        async with stream:
            await stream.send_all(_framed(name, arguments))
            try:
                data = await _all(stream)
            except trio.Cancelled:
                with trio.CancelScope(shield=True):
                    await stream.send_eof()
                    await _all(stream)
                raise
        return _opened(data)

    def _call_now(self, name: str, *arguments: Any) -> Any:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(self._path)
            stream.sendall(_framed(name, arguments))
            data = b""
            while more := stream.recv(1 << 16):
                data += more
        return _opened(data)

    async def probe(self) -> tuple[Sequence[ToolFact], Sequence[str]]:
        found: tuple[Sequence[ToolFact], Sequence[str]] = await self._call("probe")
        return found

    async def discover(self) -> Sequence[VeFacts]:
        found: Sequence[VeFacts] = await self._call("discover")
        return found

    async def inspect(self, ve: str) -> VeFacts | None:
        found: VeFacts | None = await self._call("inspect", ve)
        return found

    async def look(self, ve: str) -> VeState:
        return VeState(await self._call("look", ve))

    def trees(self, ve: str) -> Sequence[Tree]:
        found: Sequence[Tree] = self._call_now("trees", ve)
        return found

    def pids(self, ve: str) -> Sequence[int]:
        found: Sequence[int] = self._call_now("pids", ve)
        return found

    async def missed(self, ve: str) -> Sequence[bytes]:
        found: Sequence[bytes] = await self._call("missed", ve)
        return found

    async def deliver(self, ve: str, frames: Sequence[bytes]) -> None:
        await self._call("deliver", ve, frames)

    async def dump(self, ve: str, images: Path) -> Dump:
        found: Dump = await self._call("dump", ve, images)
        return found

    async def vet(self, coming: Coming) -> Sequence[Objection]:
        found: Sequence[Objection] = await self._call("vet", coming)
        return found

    async def accept(self, coming: Coming) -> Sequence[Tree]:
        found: Sequence[Tree] = await self._call("accept", coming)
        return found

    async def hold(self, ve: str, images: Path) -> Hold:
        found: Hold = await self._call("hold", ve, images)
        return found

    async def hold_ahead(self, ve: str, images: Path) -> None:
        await self._call("hold_ahead", ve, images)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """The acts that take a VE and answer nothing."""
        if name.startswith("_"):
            raise AttributeError(name)

        async def act(ve: str) -> None:
            await self._call(name, ve)

        return act


def _framed(name: str, arguments: tuple[Any, ...]) -> bytes:
    data = pickle.dumps((name, arguments))
    return struct.pack("!I", len(data)) + data


async def _all(stream: trio.SocketStream) -> bytes:
    data = b""
    try:
        while more := await stream.receive_some(1 << 16):
            data += more
    except trio.BrokenResourceError:
        pass
    return data


def _opened(data: bytes) -> Any:
    kind, value = pickle.loads(data[4:])
    if kind == "fault":
        raise FaultError(value)
    if kind == "error":
        raise AssertionError(f"inside the host: {value}")
    return value
