"""Run one program: argument list in, typed result out. The only place that starts programs and waits for them.

Rule: never a shell; output never to a terminal; a program that was ended or that we gave up has status None,
which means unknown, not failed.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from migrator.wire.faults import FaultCode, FaultError, fault_error

LINGER_S = 0.5
"""So long what a program left behind may keep its output open."""
TAIL_LINES = 12


def program(*words: str) -> tuple[str, ...]:
    """Argument list that runs another mode of the program file this agent runs from."""
    return (sys.executable, "-I", sys.argv[0], *words)


@dataclass(frozen=True, slots=True)
class Ran:
    """A program that ended."""

    argv: tuple[str, ...]
    status: int | None
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        """Whether it certainly succeeded."""
        return self.status == 0


async def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    limit_s: float = 60.0,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    cwd: Path | None = None,
    capture: bool = True,
    hear: Callable[[str], None] | None = None,
    family: bool = False,
) -> Ran:
    """Run to the end. A program over its limit is killed and reported with status None.

    `capture=False` gives it /dev/null for input and output: for programs whose children live on and would keep a pipe.
    `hear` is told of its standard output as it comes. `family=True`: when it is killed, so is all that it started.
    """
    words = tuple(os.fspath(word) for word in argv)
    try:
        process = await start(words, env=env, cwd=cwd, capture=capture, family=family)
    except FileNotFoundError:
        return Ran(words, 127, "", f"{words[0]}: not found")
    return await finish(process, stdin, limit_s=limit_s, hear=hear)


async def start(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    capture: bool = True,
    family: bool = False,
) -> trio.Process:
    """Start a program for `finish`; with `family` as the leader of a session. Raises FileNotFoundError."""
    output = subprocess.PIPE if capture else subprocess.DEVNULL
    surroundings = None if env is None else {**os.environ, **env}
    return await trio.lowlevel.open_process(
        argv,
        stdin=output,
        stdout=output,
        stderr=output,
        env=surroundings,
        cwd=cwd,
        start_new_session=family,
    )


async def finish(
    process: trio.Process,
    stdin: bytes = b"",
    *,
    limit_s: float = 60.0,
    hear: Callable[[str], None] | None = None,
    linger_s: float = LINGER_S,
) -> Ran:
    """Let a started program go to its end, with this input. Killed when the wait is cancelled or over its limit.

    `linger_s`: so long may what it left behind say something yet, when it ended with 0.
    """
    words = _words(process.args)
    leads = process.poll() is None and os.getpgid(process.pid) == process.pid
    parts: dict[str, bytearray] = {"out": bytearray(), "err": bytearray()}

    async def feed() -> None:
        if process.stdin is not None:
            with contextlib.suppress(trio.BrokenResourceError):
                await process.stdin.send_all(stdin)
            await process.stdin.aclose()

    async def collect(stream: trio.abc.ReceiveStream | None, name: str) -> None:
        while stream is not None and (data := await stream.receive_some(1 << 16)):
            parts[name] += data
            if hear is not None and name == "out":
                hear(data.decode(errors="replace"))

    try:
        with trio.move_on_after(limit_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(feed)
                nursery.start_soon(collect, process.stdout, "out")
                nursery.start_soon(collect, process.stderr, "err")
                await process.wait()
                # What it said is in the pipes; somebody whom it has started may hold them open for ever.
                lingers_s = LINGER_S if process.returncode else linger_s
                nursery.cancel_scope.deadline = trio.current_time() + lingers_s
    finally:
        given_up = process.poll() is None
        if given_up or (leads and process.returncode != 0):
            with trio.CancelScope(shield=True):
                await _end(process, leads=leads)
    parts["out"] += _there(process.stdout)
    parts["err"] += _there(process.stderr)
    said = _text(parts["err"]) + (f"\ngave up after {limit_s:g} s" if given_up else "")
    status = process.returncode if not given_up and process.returncode is not None else -1
    return Ran(words, status if status >= 0 else None, _text(parts["out"]), said)


async def rest(process: trio.Process, limit_s: float) -> str:
    """After `finish`: what those whom it left behind say yet on its standard error, until they have ended or the limit is over."""
    said = bytearray()
    assert process.stderr is not None
    with trio.move_on_after(limit_s):
        while data := await process.stderr.receive_some(1 << 16):
            said += data
    return _text(said)


def _there(stream: trio.abc.ReceiveStream | None) -> bytes:
    """What a pipe holds."""
    data = bytearray()
    if isinstance(stream, trio.lowlevel.FdStream):
        with contextlib.suppress(OSError):
            while got := os.read(stream.fileno(), 1 << 16):
                data += got
    return bytes(data)


def _words(args: object) -> tuple[str, ...]:
    return tuple(os.fsdecode(word) for word in args) if isinstance(args, list | tuple) else (str(args),)


async def _end(process: trio.Process, *, leads: bool) -> None:
    """Kill it; one that leads a session, with everything that it started and that stayed in its process group.

    Also after it ended badly by itself: what it had started may not know yet.
    """
    if not leads:
        process.kill()
        await process.wait()
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.killpg(process.pid, 0)
            await trio.sleep(0.001)


async def end_family(process: trio.Process) -> None:
    """Kill a program that was started with `family`, and all that it started. May be called again."""
    with trio.CancelScope(shield=True):
        await _end(process, leads=True)


def _text(data: bytes | bytearray) -> str:
    return data.decode(errors="replace")


def failed(ran: Ran, step: str, log: str = "") -> FaultError:
    """The fault of a program that did not succeed, with the lines of its log that matter."""
    tool = os.path.basename(ran.argv[0])
    status = "ended without a status" if ran.status is None else f"ended with {ran.status}"
    code = FaultCode.NO_SPACE if "No space left on device" in log + ran.stderr else FaultCode.TOOL_FAILED
    return fault_error(code, f"{tool} {status}", step=step, tool=tool, log_tail=tail(log or ran.stderr))


def tail(log: str) -> str:
    """The errors of a log first, else its last lines."""
    lines = [line for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if "rror" in line]
    return "\n".join((errors or lines)[-TAIL_LINES:])
