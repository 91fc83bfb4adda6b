"""A runtime's call that is started ahead of the blackout and waits in its last step before CRIU's work.

To start a runtime and CRIU takes some 30 ms on each host, as long as CRIU's own work for a small VE; none of that needs the VE
to stand still. What waits is `door.py`, in CRIU's place.

Rule: what waits holds nothing of the VE, and ends when it is not wanted or when this agent ends.
"""

import contextlib
import fcntl
import importlib.resources
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from agents import shell
from agents.engines.port import Covers, Start
from agents.shell import Ran
from migrator.wire.faults import FaultCode, fault_error

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
READY_LIMIT_S = 10.0
POLL_S = 0.002
WORD_BYTES_MAX = 1 << 20
"""The word names each process of a VE, in some 100 bytes."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a runtime is called with, and what CRIU is to be."""

    argv: Sequence[str]
    config: Path
    """CRIU's configuration file."""
    criu: Sequence[str] = ()
    """The command that becomes CRIU; empty: the host's."""
    cwd: Path | None = None
    outside: str = ""
    """A cgroup for who waits: runc puts it into the VE's."""
    group: str = ""
    """The cgroup that CRIU enters before it begins."""
    on_failure: str = ""
    """A file that gets a `1` when CRIU has failed."""
    described: str = ""
    """The bundle's configuration, which the runtime reads at once."""


def criu() -> str:
    """The host's CRIU."""
    return shutil.which("criu") or "/usr/sbin/criu"


class Waiting:
    """One call under way. Made by `begin`; then `go` or `end`."""

    def __init__(self, call: Call, process: trio.Process, pipe: int, ready: Path) -> None:
        self.call, self._process, self._pipe, self._ready = call, process, pipe, ready
        self.entered = False
        """CRIU is in the VE's cgroup, or on its way into it; nothing of the VE is there yet."""

    @classmethod
    async def begin(cls, call: Call, directory: Path, start: Start) -> "Waiting":
        """Start the runtime by `start`; `directory` is for the door's files. Raises FaultError: there is no such runtime."""
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        pipe_path, ready = directory / "pipe", directory / "ready"
        os.mkfifo(pipe_path, 0o600)
        pipe = os.open(pipe_path, os.O_RDWR | os.O_NONBLOCK)  # its end tells the door that we have ended
        with contextlib.suppress(OSError):  # then a VE of more than 600 processes has to do without
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, WORD_BYTES_MAX)
        try:
            settings = {
                "criu": list(call.criu or [criu()]),
                "pipe": str(pipe_path),
                "ready": str(ready),
                "outside": call.outside,
            }
            (directory / "settings.json").write_text(json.dumps(settings))
            environment = {"CRIU_CONFIG_FILE": str(call.config), "PATH": f"{_door(directory)}:{SYSTEM_PATH}"}
            return cls(call, await start(call.argv, environment, call.cwd), pipe, ready)
        except FileNotFoundError as error:
            os.close(pipe)
            tool = call.argv[0]
            raise fault_error(FaultCode.TOOL_FAILED, f"{tool} is not found", step="start it", tool=tool) from error
        except BaseException:
            os.close(pipe)
            raise

    async def ready(self) -> bool:
        """Returns when only the word is missing; False: it has ended, or takes too long."""
        with trio.move_on_after(READY_LIMIT_S):
            while self.alive and not self._ready.exists():
                await trio.sleep(POLL_S)
        return self.alive and self._ready.exists()

    @property
    def alive(self) -> bool:
        """Whether it still waits, or works."""
        return self._process.poll() is None

    def fits(self, call: Call) -> bool:
        """Whether it is the call that would be made now, and can go on."""
        return self.call == call and self.alive

    def enter(self) -> None:
        """Let CRIU enter the VE's cgroup now: the kernel may let it wait 20 ms for that (`door`)."""
        if not self.entered:
            self.entered = True
            self._say(go=False)

    async def go(self, covers: Covers, *, limit_s: float) -> Ran:
        """Let it do its work, to the end. Killed with all that it started when the wait is cancelled or over its limit.

        Raises FaultError when it cannot be told, and it ends.
        """
        try:
            self._say(go=True, covers=covers)
            ran = await shell.finish(self._process, limit_s=limit_s)
            return Ran(tuple(self.call.argv), ran.status, "", ran.stderr + ran.stdout)
        finally:
            self._let_go()

    def _say(self, *, go: bool, covers: Covers = ()) -> None:
        group = "" if go and self.entered else self.call.group
        word = {"go": go, "covers": list(covers), "group": group, "on_failure": self.call.on_failure}
        line = json.dumps(word).encode() + b"\n"
        if os.write(self._pipe, line) < len(line):
            raise fault_error(FaultCode.TOOL_FAILED, "the VE has too many processes for the pipe to CRIU", step="dump")

    async def end(self) -> None:
        """It is not wanted any more. May be called again."""
        if self._pipe >= 0:
            self._let_go()
            await shell.end_family(self._process)

    def _let_go(self) -> None:
        pipe, self._pipe = self._pipe, -1
        if pipe >= 0:
            os.close(pipe)


def _door(directory: Path) -> Path:
    """A directory whose `criu` is the door."""
    program, bin_ = directory / "door.py", directory / "bin"
    program.write_text(importlib.resources.files(__package__ or "").joinpath("door.py").read_text())
    bin_.mkdir()
    script = bin_ / "criu"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {program} {directory}/settings.json "$@"\n')
    script.chmod(0o755)
    return bin_


async def start(argv: Sequence[str], environment: Mapping[str, str], cwd: Path | None) -> trio.Process:
    """`Start` without a veil. Raises FileNotFoundError."""
    return await shell.start(argv, env=environment, cwd=cwd, capture=False, family=True)
