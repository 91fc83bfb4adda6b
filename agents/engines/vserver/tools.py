"""Runs util-vserver's programs: always under LC_ALL=C, in a session of their own, with a time limit of ours.

Rule: output goes to a file, not to a pipe: what a guest's init leaves running may hold it for ever. A program over its
limit is ended with its whole process group and reported with status None, which means unknown; a guest's processes
are in sessions of their own and are not meant by that.
"""

import contextlib
import os
import signal
import tempfile

import trio

from agents.shell import Ran

LIMIT_S = 60.0
GRACE_S = 2.0
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


async def run(*words: str, limit_s: float = LIMIT_S, stdin: bytes = b"") -> Ran:
    """To the end or to the limit. Names in output that are no UTF-8 come through surrogateescape."""
    with contextlib.ExitStack() as files:
        given, out, err = (files.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        given.write(stdin)
        given.seek(0)
        try:
            process = await trio.lowlevel.open_process(
                words,
                stdin=given,
                stdout=out,
                stderr=err,
                start_new_session=True,
                env={**os.environ, "LC_ALL": "C", "PATH": SYSTEM_PATH},
            )
        except FileNotFoundError:
            return Ran(words, 127, "", f"{words[0]}: not found")
        status = await _wait(process, limit_s)
        out.seek(0)
        err.seek(0)
        said = _text(err.read())
        if status is None:
            said += f"\n{words[0]} was given up after {limit_s:g} s"
        return Ran(words, status, _text(out.read()), said)


async def _wait(process: trio.Process, limit_s: float) -> int | None:
    try:
        with trio.move_on_after(limit_s):
            status = await process.wait()
            return status if status >= 0 else None
    finally:
        if process.returncode is None:
            with trio.CancelScope(shield=True):
                await _end(process)
    return None


async def _end(process: trio.Process) -> None:
    """Politely, then by force; a leader that does not end even so (it sleeps in the kernel) is left behind."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with trio.move_on_after(GRACE_S):
            await process.wait()
            return


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
