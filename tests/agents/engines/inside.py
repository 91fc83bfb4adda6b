"""Runs one engine inside a lab host for tests outside it: each connection to its socket is one call.

`python3 inside.py PROGRAM MODULE:CLASS SOCKET`: PROGRAM is the agent's program file, from which everything is imported. A caller
that hangs up cancels its call, and is told when that is done. Values travel by pickle; only tests do such a thing.
"""

import importlib
import pickle
import struct
import sys
from pathlib import Path, PosixPath
from typing import Any

sys.path.insert(0, sys.argv[1])

import trio

from migrator.wire.faults import FaultError

Path.__module__ = PosixPath.__module__ = "pathlib"  # by which every Python finds them


async def serve(engine: Any, path: str) -> None:
    """Answer calls for ever."""
    listening = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await listening.bind(path)
    listening.listen(16)
    print("ready", flush=True)

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            name, arguments = pickle.loads(await _frame(stream))
            reply = pickle.dumps(await _call(engine, name, arguments, stream))
            with trio.CancelScope(shield=True):
                try:
                    await stream.send_all(struct.pack("!I", len(reply)) + reply)
                except trio.BrokenResourceError:
                    return

    await trio.serve_listeners(answer, [trio.SocketListener(listening)])


async def _call(engine: Any, name: str, arguments: tuple[Any, ...], stream: trio.SocketStream) -> tuple[str, Any]:
    outcome: tuple[str, Any] = ("cancelled", None)
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            if not await stream.receive_some(1):
                nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        try:
            value = getattr(engine, name)(*arguments)
            outcome = ("value", await value if hasattr(value, "__await__") else value)
        except FaultError as error:
            outcome = ("fault", error.fault)
        except Exception as error:  # the test is to see what went wrong
            outcome = ("error", f"{type(error).__name__}: {error}")
        nursery.cancel_scope.cancel()
    return outcome


async def _frame(stream: trio.SocketStream) -> bytes:
    data = b""
    while len(data) < 4 or len(data) < 4 + struct.unpack("!I", data[:4])[0]:
        data += await stream.receive_some(1 << 16)
    return data[4:]


module, _, kind = sys.argv[2].partition(":")
trio.run(serve, getattr(importlib.import_module(module), kind)(), sys.argv[3])
