"""Drives one engine's acts on a lab host, one at a time, as the agent there would; for tests of a single act.

Rule: the code that runs on the host is the agent's own program file; nothing of the engine is replaced. What it is asked
and what it answers goes as lines of base64 that hold pickles: both ends are the same checkout.
"""

import base64
import pickle
import subprocess
from collections.abc import Callable
from typing import Any, Self

from migrator.adapters import program
from migrator.wire.faults import Fault, FaultError
from scenarios.lab.hosts import Host

PROGRAM = "/root/agent-under-test.pyz"
LOOP = f"""
import sys
sys.path.insert(0, {PROGRAM!r})
import base64, pathlib, pickle, traceback, trio
pathlib.Path.__module__ = pathlib.PosixPath.__module__ = "pathlib"  # as older Pythons call them
from agents import remarks
from agents.engines.registry import Registry
from migrator.wire.faults import FaultError
engine = Registry().named(sys.argv[1])

def say(value):
    print(base64.b64encode(pickle.dumps(value)).decode(), flush=True)

async def main():
    say("ready")
    while line := await trio.to_thread.run_sync(sys.stdin.readline):
        act, words, limit_s = pickle.loads(base64.b64decode(line))
        try:
            with trio.fail_after(limit_s):
                result = remarks.take(*words) if act == "remarks" else getattr(engine, act)(*words)
                say(("did", await result if hasattr(result, "__await__") else result))
        except FaultError as error:
            say(("fault", error.fault))
        except trio.TooSlowError:
            say(("slow", None))
        except BaseException:
            say(("crash", traceback.format_exc()))

trio.run(main)
"""


class Acts:
    """One engine on one host, in a process there that lasts until `close`."""

    def __init__(self, host: Host, engine: str) -> None:
        _, data = program.build()
        host.path(PROGRAM).write_bytes(data)
        self._process = host.popen("python3", "-I", "-c", LOOP, engine, stdin=subprocess.PIPE, stderr=None)
        assert self._read() == "ready"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it; like an agent that is killed."""
        self._process.kill()
        self._process.communicate()

    def __getattr__(self, act: str) -> Callable[..., Any]:
        """An act by its name: `acts.start("web1")`."""
        return lambda *words: self.within(600.0, act, *words)

    def within(self, limit_s: float, act: str, *words: Any) -> Any:
        """Do it; cancelled after the limit: TimeoutError. Raises FaultError as the engine did."""
        assert self._process.stdin is not None
        line = base64.b64encode(pickle.dumps((act, words, limit_s))).decode()
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        how, value = self._read()
        match how:
            case "did":
                return value
            case "fault":
                raise FaultError(value)
            case "slow":
                raise TimeoutError(f"{act} did not end within {limit_s:g} s")
            case _:
                raise RuntimeError(value)

    def fault(self, act: str, *words: Any) -> Fault:
        """The fault that the act ends with. Raises AssertionError when it ends without one."""
        try:
            value = self.within(600.0, act, *words)
        except FaultError as error:
            return error.fault
        raise AssertionError(f"{act}{words} did not fail: {value!r}")

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process on the host ended with {self._process.wait()}")
        return pickle.loads(base64.b64decode(line))
