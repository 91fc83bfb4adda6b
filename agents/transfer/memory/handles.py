"""The agent's ends of the two memory processes: what it says to them and hears from them, as calls that can be awaited.

Rule: a process that does not answer is named, with what its silence means for the VE.
"""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import trio

from agents import places, shell
from agents.shell import failed, program
from agents.transfer.memory.keeper import Phase, State
from agents.transfer.memory.page_server import Task as Loan
from agents.transfer.memory.port import RoundStats
from agents.transfer.memory.sender import Kind, Look, Task
from migrator.wire.facts import MemoryMethod
from migrator.wire.faults import FaultCode, FaultError, fault_error

T = TypeVar("T")
ANSWER_LIMIT_S = 10.0
FILL_LIMIT_S = 600.0
LENDER_LIMIT_S = 20.0
"""So long without anybody who lends what is owed (post-copy), and nobody waits for it any longer."""
RESTORED_LIMIT_S = 10.0
"""Between the end of the runtime and what CRIU told the keeper before that."""
END_LIMIT_S = 3.0


class NotSendable(Exception):
    """This memory cannot be moved while the VE runs; nobody was harmed, and the sender has ended."""


class _Lines:
    """Lines of JSON to a process and from it."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._received = b""

    async def say(self, words: Mapping[str, Any]) -> None:
        """Raises trio.BrokenResourceError when the process has gone."""
        assert self.process.stdin is not None
        await self.process.stdin.send_all(json.dumps(words).encode() + b"\n")

    async def hear(self) -> dict[str, Any] | None:
        """The next line; None: the process has ended."""
        assert self.process.stdout is not None
        while b"\n" not in self._received:
            data = await self.process.stdout.receive_some()
            if not data:
                return None
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        heard: dict[str, Any] = json.loads(line)
        return heard

    async def end(self) -> None:
        """Close its input, and wait for its end; kill it when that takes long. May be called again."""
        with trio.CancelScope(shield=True):
            assert self.process.stdin is not None
            await self.process.stdin.aclose()
            with trio.move_on_after(END_LIMIT_S):
                await self.process.wait()
                return
            self.process.kill()
            await self.process.wait()

    async def end_at_once(self) -> None:
        """Kill it with all that it started. May be called again."""
        with trio.CancelScope(shield=True):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            await self.process.wait()


class MemorySender:
    """The source's sender of one VE's memory. Made by ``start``; ``end`` in every case."""

    def __init__(self, lines: _Lines, method: MemoryMethod) -> None:
        self._lines = lines
        self.method = method

    @classmethod
    async def start(cls, task: Task, argv: Sequence[str] = ()) -> "MemorySender":
        """Raises NotSendable."""
        lines = _Lines(await _open(argv or program("memory-sender")))
        try:
            await lines.say(asdict(task))
            heard = await lines.hear()
        except BaseException:
            await lines.end()  # nobody has it yet who would end it
            raise
        if heard is None or heard["did"] != "started":
            await lines.end()
            raise NotSendable(heard["why"] if heard else "the memory sender did not start")
        return cls(lines, task.method)

    async def round(self, moving: Callable[[int, int], None] = lambda done, total: None) -> RoundStats:
        """One round while the VE runs. Raises NotSendable; FaultError(PEER_LOST) when the stream broke: then `resume` or `end`.

        Called off, it hangs up as well.
        """
        return _made(RoundStats, await self._order({"do": "round"}, "round", moving))

    async def resume(self, stream: Sequence[str], strand: Sequence[str]) -> None:
        """After a round that broke: the next goes over this connection, and sends what the target lacks.

        Raises NotSendable: what came is lost, and the sender has ended; FaultError(PEER_LOST).
        """
        try:
            await self._order({"do": "resume", "stream": list(stream), "strand": list(strand)}, "resumed")
        except FaultError:
            if self._lines.process.poll() is not None:
                raise NotSendable("the memory sender has ended") from None
            raise

    async def limit(self, bytes_per_s: float | None) -> None:
        """The cap from now on."""
        await self._lines.say({"do": "rate", "bytes_per_s": bytes_per_s})

    async def look(self, veils: Path, *, post_copy: bool = False) -> Look:
        """Of the frozen VE; the dump may begin, and the rest is being sent, or told by post-copy. Raises as ``round`` does."""
        order = {"do": "last", "veils": str(veils), "post_copy": post_copy}
        return _made(Look, await self._order(order, "look", frozen=True))

    async def sent(self) -> tuple[RoundStats, str]:
        """After ``look``: the target holds everything; the name of its seal. Raises as ``round`` does."""
        heard = await self._await("sent", frozen=True)
        return _made(RoundStats, heard), heard["seal"]

    async def end(self) -> None:
        """Nothing of it is left in the VE. May be called again."""
        await self._lines.end()

    async def _order(
        self,
        order: Mapping[str, Any],
        did: str,
        moving: Callable[[int, int], None] = lambda done, total: None,
        *,
        frozen: bool = False,
    ) -> dict[str, Any]:
        try:
            with trio.CancelScope(shield=True):  # a line of some bytes: said whole or not at all
                await self._lines.say(order)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await self.end()
            raise _lost("the memory sender has ended") from None
        return await self._await(did, moving, frozen=frozen)

    async def _await(
        self, did: str, moving: Callable[[int, int], None] = lambda done, total: None, *, frozen: bool = False
    ) -> dict[str, Any]:
        try:
            while (heard := await self._lines.hear()) is not None:
                if heard["did"] == did:
                    return heard
                if heard["did"] == "moving":
                    moving(heard["done_bytes"], heard["total_bytes"])
                elif heard["did"] == "not":
                    if heard["kind"] == Kind.REFUSED:
                        await self.end()
                        raise NotSendable(heard["why"])
                    raise _lost(heard["why"])
        except trio.Cancelled:
            # Half an order: what it says next would answer nobody. The VE that stands still waits for its thaw, and no code
            # of ours is in it then; one that runs may have some, which has to come out in order.
            await (self._lines.end_at_once() if frozen else self._hang_up(did))
            raise
        await self.end()
        raise _lost("the memory sender has ended")

    async def _hang_up(self, did: str) -> None:
        """It waits for `resume` or `end`, and has answered what it was asked."""
        with trio.CancelScope(shield=True), contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            with trio.move_on_after(END_LIMIT_S):
                await self._lines.say({"do": "hang up"})
                while (heard := await self._lines.hear()) is not None:
                    if heard["did"] in {did, "not"}:
                        return
        await self.end()


class PageServer:
    """The source's giver of what is owed. Made by ``start``; ``end`` in every case."""

    def __init__(self, lines: _Lines) -> None:
        self._lines = lines

    @classmethod
    async def start(cls, loan: Loan) -> "PageServer":
        """It lends from then on."""
        lines = _Lines(await _open(program("page-server")))
        with contextlib.suppress(trio.BrokenResourceError):  # it has ended; `filled` tells
            await lines.say(asdict(loan))
        return cls(lines)

    async def filled(self) -> str:
        """Returns when it ends: empty if the target has everything, else why it does not lend any more."""
        heard = await self._lines.hear()
        await self.end()
        if heard is None:
            return "the page server has ended"
        return "" if heard["did"] == "filled" else str(heard["why"])

    async def end(self) -> None:
        """It lends no more. May be called again."""
        await self._lines.end()


class Veiled:
    """A process that waits to become the runtime that dumps, where pagemaps can be covered for it. Made by ``start``."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self.waits = True
        """It has become nothing yet."""

    @classmethod
    async def start(cls, directory: Path) -> "Veiled":
        """Waits from then on, and costs nothing but its memory; `directory` is for its files. Raises NotSendable."""
        process = await _open(program("veil", str(directory)), stderr=subprocess.STDOUT)
        assert process.stdout is not None
        said = bytearray()
        try:
            while not said.endswith(b"\n") and (data := await process.stdout.receive_some()):
                said += data
        except BaseException:
            await cls(process).end()  # nobody has it yet who would end it
            raise
        if said != b"\n":
            await cls(process).end()
            raise NotSendable(f"CRIU cannot be made to leave pages out: {said.decode(errors='replace').strip()[-300:]}")
        return cls(process)

    async def become(self, argv: Sequence[str], environment: Mapping[str, str], cwd: Path | None) -> trio.Process:
        """A `Start`; once. The program belongs to the caller."""
        order = {"argv": list(argv), "environment": dict(environment), "directory": str(cwd or "")}
        assert self._process.stdin is not None
        self.waits = False
        with contextlib.suppress(trio.BrokenResourceError):  # it has ended; who waits for it will see
            await self._process.stdin.send_all(json.dumps(order).encode() + b"\n")
        return self._process

    async def end(self) -> None:
        """It waits no longer, or what it became ends. May be called again."""
        await shell.end_family(self._process)


class MemoryKeeper:
    """The target's keeper of one VE's memory; any agent of this host may talk to it, also one that started later."""

    def __init__(self, migration: str) -> None:
        self.path = places.memory_socket(migration)
        self._log = self.path.with_suffix(".log")

    async def start(self, cap_bytes: int, argv: Sequence[str] = ()) -> None:
        """Start it; listens when this returns. Raises FaultError(TOOL_FAILED)."""
        await self.end()
        words = (*(argv or program("memory-keeper")), str(self.path), str(cap_bytes), str(self._log))
        ran = await shell.run(words, limit_s=ANSWER_LIMIT_S)
        if not ran.ok:
            raise failed(ran, "start the memory keeper")

    async def state(self) -> State | None:
        """What it holds; None: there is none."""
        try:
            return await self._ask({"do": "state"})
        except (OSError, trio.BrokenResourceError):
            return None

    async def listen(self, work: Path) -> None:
        """A restore with lazy pages may begin in the directory `work`; it waits until `serve`. Raises FaultError(CORRUPT)."""
        try:
            state = await self._ask({"do": "listen", "work": str(work)})
        except (OSError, trio.BrokenResourceError) as error:
            raise _corrupt(f"the memory keeper does not answer: {error}") from error
        if state.phase is not Phase.SEALED or state.why:
            raise _corrupt(f"the memory here cannot be restored: {state.why or state.phase}")

    async def serve(self, work: Path, images: Path, group: Path | None) -> None:
        """The restore may begin, with lazy pages, in the directory `work`. Raises FaultError(CORRUPT)."""
        order = {"do": "serve", "work": str(work), "images": str(images), "group": str(group or "")}
        try:
            state = await self._ask(order)
        except (OSError, trio.BrokenResourceError) as error:
            raise _corrupt(f"the memory keeper does not answer: {error}") from error
        if state.phase is not Phase.SERVING:
            raise _corrupt(f"the memory here cannot be restored: {state.why or state.phase}")

    async def restored(self) -> None:
        """After the restore: its end was heard, and every page will come. Raises FaultError(CORRUPT)."""
        state = await self.state()
        with trio.move_on_after(RESTORED_LIMIT_S):
            while state is not None and state.phase is Phase.SERVING and not state.restored:
                state = await self._wait("restored")
        if state is not None and state.phase is Phase.SERVING and not state.restored:
            raise _corrupt("the VE was restored without asking for its memory, and has none")
        if state is None or state.phase not in {Phase.SERVING, Phase.FILLED}:
            raise _corrupt(f"the memory of the restored VE cannot be completed: {state.why if state else 'no keeper'}")

    async def filled(self) -> State | None:
        """Returns when the VE waits for no page any more; None: there never was a keeper.

        Raises FaultError(CORRUPT) when its memory cannot be completed, PEER_LOST when the source does not lend what it owes.
        """
        before = state = await self.state()
        if state is None and not self._log.exists():
            return None
        while state is not None and state.phase is Phase.SERVING:
            state = await self._wait("filled", LENDER_LIMIT_S if state.owes else FILL_LIMIT_S)
            if before is not None and state is not None and state.phase is Phase.SERVING and _stalls(before, state):
                raise _lost_lender()
            before = state
        if state is None or state.phase is Phase.BROKEN:
            why = state.why if state else "the memory keeper and its guardian were killed while pages were missing"
            raise _corrupt(f"the VE's memory here is not complete: {why}; see {self._log}")
        return state

    async def end(self) -> None:
        """End it and give everything back; only of a VE that is complete, or is not to run here."""
        try:
            await self._ask({"do": "end"})
        except (OSError, trio.BrokenResourceError):
            self.path.unlink(missing_ok=True)
        self._log.unlink(missing_ok=True)

    async def _wait(self, until: str, limit_s: float = FILL_LIMIT_S) -> State | None:
        try:
            return await self._ask({"do": until}, limit_s)
        except (OSError, trio.BrokenResourceError):
            return await self.state()  # the guardian ended; whoever took over answers

    async def _ask(self, order: Mapping[str, Any], limit_s: float = ANSWER_LIMIT_S) -> State:
        with trio.move_on_after(limit_s):
            async with await trio.open_unix_socket(str(self.path)) as stream:
                await stream.send_all(json.dumps(order).encode() + b"\n")
                said = bytearray()
                while not said.endswith(b"\n"):
                    data = await stream.receive_some()
                    if not data:
                        raise ConnectionResetError("it hung up")
                    said += data
            plain = json.loads(said)
            return State(**{**plain, "phase": Phase(plain["phase"])})
        raise TimeoutError(f"no answer within {limit_s:g} s")


async def _open(argv: Sequence[str], stderr: int | None = None) -> trio.Process:
    return await trio.lowlevel.open_process(
        list(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True
    )


def _made(kind: type[T], heard: Mapping[str, Any]) -> T:
    """The value a line of JSON speaks of; lists of it are tuples."""
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    plain = {name: value for name, value in heard.items() if name in names}
    return kind(**{name: _tuples(value) for name, value in plain.items()})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _lost(why: str) -> FaultError:
    return fault_error(FaultCode.PEER_LOST, f"memory cannot reach the target: {why}", step="send memory")


def _stalls(before: State, after: State) -> bool:
    """Whether nobody lent anything in between."""
    return after.owes and not before.lends and not after.lends and after.placed_bytes == before.placed_bytes


def _lost_lender() -> FaultError:
    why = "a part of the VE's memory is on the source yet, and the source does not send it"
    return fault_error(FaultCode.PEER_LOST, why, step="fill memory")


def _corrupt(why: str) -> FaultError:
    return fault_error(FaultCode.CORRUPT, why, step="hold memory")
