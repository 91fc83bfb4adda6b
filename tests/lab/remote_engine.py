"""An engine on a lab host, called from a test on this machine as if it were here.

Rule: the host runs what a real one runs, the agent's program file; only the daemon around the engine is left out.
"""

import base64
import importlib
import pickle
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import PurePath
from typing import Any

import trio

from migrator.adapters import program
from migrator.wire.faults import Fault, FaultError
from scenarios.lab.hosts import Host

SERVER = r"""
import base64, importlib, pathlib, pickle, sys, copyreg, os
archive, module, name = sys.argv[1:]
sys.path.insert(0, archive)
import trio
from migrator.wire.faults import FaultError
copyreg.pickle(pathlib.PosixPath, lambda path: (eval, ("__import__('pathlib').Path(%r)" % str(path),)))
engine = getattr(importlib.import_module(module), name)()
calls = {}

def say(number, kind, value):
    os.write(1, base64.b64encode(pickle.dumps((number, kind, value))) + b"\n")

async def call(number, method, args):
    with trio.CancelScope() as calls[number]:
        try:
            result = getattr(engine, method)(*args)
            say(number, "result", await result if hasattr(result, "__await__") else result)
            return
        except FaultError as error:
            say(number, "fault", error.fault)
            return
        except Exception as error:
            import traceback
            say(number, "error", traceback.format_exc())
            return
    say(number, "cancelled", None)

async def main():
    async with trio.open_nursery() as nursery:
        stdin = trio.lowlevel.FdStream(os.dup(0))
        buffer = b""
        async for chunk in stdin:
            buffer += chunk
            while b"\n" in buffer:
                line, _, buffer = buffer.partition(b"\n")
                number, method, args = pickle.loads(base64.b64decode(line))
                if method == "":
                    calls[number].cancel()
                else:
                    nursery.start_soon(call, number, method, args)
        nursery.cancel_scope.cancel()

trio.run(main)
"""


class RemoteEngine:
    """Has every method of the engine on the host."""

    def __init__(self, host: Host, module: str, name: str) -> None:
        kind = getattr(importlib.import_module(module), name)
        self.name, self.live, self.booted_by_agent = kind.name, kind.live, kind.booted_by_agent
        path = host.path("/root/engine.pyz")
        path.write_bytes(program.build()[1])
        argv = host.argv(["python3", "-I", "-W", "error", "-c", SERVER, "/root/engine.pyz", module, name])
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._numbers = 0
        self._answers: dict[int, tuple[str, Any]] = {}
        self._lock = trio.Lock()

    @property
    def pid(self) -> int:
        """The process that leads to it, as this machine numbers it."""
        return self._process.pid

    def kill(self) -> None:
        """End it at once, as a crash of the agent would."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it in order."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()

    def __getattr__(self, method: str) -> Any:
        if method in ("trees", "pids"):
            return lambda *args: self._blocking(method, args)
        return lambda *args: self._call(method, args)

    def _send(self, number: int, method: str, args: tuple[Any, ...]) -> None:
        assert self._process.stdin is not None
        plain = tuple(_Plain(str(arg)) if isinstance(arg, PurePath) else arg for arg in args)
        self._process.stdin.write(base64.b64encode(pickle.dumps((number, method, plain))) + b"\n")
        self._process.stdin.flush()

    def _receive(self, number: int) -> Any:
        assert self._process.stdout is not None
        while number not in self._answers:
            line = self._process.stdout.readline()
            if not line:
                raise ConnectionError("the engine's process has ended")
            came, kind, value = pickle.loads(base64.b64decode(line))
            self._answers[came] = (kind, value)
        kind, value = self._answers.pop(number)
        if kind == "fault":
            assert isinstance(value, Fault)
            raise FaultError(value)
        if kind == "error":
            raise AssertionError(value)
        return _Cancelled if kind == "cancelled" else value

    def _blocking(self, method: str, args: tuple[Any, ...]) -> Any:
        self._numbers += 1
        self._send(self._numbers, method, args)
        return self._receive(self._numbers)

    async def _call(self, method: str, args: tuple[Any, ...]) -> Any:
        async with self._lock:
            self._numbers += 1
            number = self._numbers
            self._send(number, method, args)
            done = trio.Event()
            result: list[Any] = []

            def wait() -> None:
                try:
                    result.append(self._receive(number))
                except BaseException as error:
                    result.append(error)
                trio.from_thread.run_sync(done.set)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._waiting, wait, done, number)
                await done.wait()
        [value] = result
        if isinstance(value, BaseException):
            raise value
        return value

    async def _waiting(self, wait: Any, done: trio.Event, number: int) -> None:
        """Wait in a thread; when the test gives up, tell the engine so and wait for its last word."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._shielded, wait)
            try:
                await done.wait()
            except trio.Cancelled:
                self._send(number, "", ())
                raise

    async def _shielded(self, wait: Any) -> None:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(wait)


class _Cancelled:
    """What a call that was given up answers."""


class _Plain:
    """A path on its way: pathlib's classes live in other modules in other versions of Python."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"__import__('pathlib').Path({self.text!r})",)


@asynccontextmanager
async def remote(host: Host, module: str, name: str) -> AsyncIterator[RemoteEngine]:
    """The engine, as long as the block lasts."""
    engine = RemoteEngine(host, module, name)
    try:
        yield engine
    finally:
        engine.close()
