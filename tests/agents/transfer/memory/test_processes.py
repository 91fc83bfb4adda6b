"""Sender and keeper as the processes they are: what passes between them, and what is left when one of them dies."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from agents import places
from agents.transfer.lines import streams
from agents.transfer.lines.strands import READY, Spread
from agents.transfer.memory import frames, handles
from agents.transfer.memory.extents import PAGE_BYTES
from agents.transfer.memory.frames import FrameReader, ReadInto, write_frame
from agents.transfer.memory.handles import MemoryKeeper, MemorySender, NotSendable
from agents.transfer.memory.keeper import Phase, State
from agents.transfer.memory.sender import Task
from agents.transfer.memory.source import fingerprint
from migrator.wire.facts import MemoryMethod
from migrator.wire.faults import FaultCode, FaultError
from tests.agents.transfer.memory.memory_ve import Ve

pytestmark = pytest.mark.lab

CAP = 1 << 30
LEND = "import sys; from pathlib import Path; from agents import bridge; bridge.lend(Path(sys.argv[1]), sys.argv[2])"
JOIN = f"{LEND[:-1]}, joins=True)"
PUMP = """
import os, subprocess, sys, threading
inner = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def pump(source, sink):
    while data := os.read(source, 1 << 16):
        while data:
            data = data[os.write(sink, data):]
threading.Thread(target=pump, args=(inner.stdout.fileno(), 1), daemon=True).start()
pump(0, inner.stdin.fileno())
"""
NAME = "of-this-try"


class Hosts:
    """A sender's and a keeper's programs, with a place of their own, and the stream between them without SSH."""

    def __init__(self, agent: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(places, "RUN", run)
        monkeypatch.setattr(handles, "program", lambda *words: (sys.executable, "-I", str(agent), *words))
        self.keeper = MemoryKeeper("m")
        self.stream = self.stream_named(NAME)
        self.use = str(run / "use")
        self.strand = (sys.executable, "-c", JOIN, str(self.keeper.path))

    def stream_named(self, name: str) -> tuple[str, ...]:
        """The program of a stream of this name."""
        return (sys.executable, "-c", LEND, str(self.keeper.path), name)

    @property
    def fragile(self) -> tuple[str, ...]:
        """The same over something that can be killed, as a line can be."""
        return (sys.executable, "-c", PUMP, *self.stream)

    def task(self, ve: Ve, method: MemoryMethod = MemoryMethod.TRACKED, **more: object) -> Task:
        """To send this VE."""
        return Task(ve.processes()[0], str(ve.group), self.stream, self.use, method, **more)  # type: ignore[arg-type]

    async def phase(self, wanted: Phase) -> State:
        """The keeper's state when it is in this phase."""
        with trio.fail_after(20):
            while True:
                state = await self.keeper.state()
                if state is not None and state.phase is wanted:
                    return state
                await trio.sleep(0.01)


@pytest.fixture
async def hosts(agent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    """See Hosts; the keeper listens."""
    made = Hosts(agent, tmp_path, monkeypatch)
    await made.keeper.start(CAP)
    return made


def tracked(pid: int) -> bool:
    """Whether the kernel write-protects memory of the process for somebody's userfaultfd."""
    flags = [line for line in Path(f"/proc/{pid}/smaps").read_text().splitlines() if line.startswith("VmFlags:")]
    return any(" uw" in line for line in flags)


@pytest.mark.parametrize("method", [MemoryMethod.TRACKED, MemoryMethod.CONTENT])
async def test_rounds_and_seal(hosts: Hosts, ve: Ve, churn: Path, tmp_path: Path, method: MemoryMethod) -> None:
    """Rounds shrink, the last is sealed, both sides name the seal alike, and nothing is left in the VE afterwards."""
    init = ve.start(str(churn), "calm", "1", "x")
    sender = await MemorySender.start(hosts.task(ve, method))
    first = await sender.round()
    second = await sender.round()
    ve.freeze()
    look = await sender.look(tmp_path)
    last, seal = await sender.sent()
    state = await hosts.phase(Phase.SEALED)
    await sender.end()
    ve.thaw()

    assert (sender.method, look.veils[0][1]) == (method, f"/proc/{init.pid}/pagemap")
    assert first.pages > 1500 > second.pages > 0
    assert last.pages < 1500
    assert second.dirty_bytes_per_s
    assert state.seal == seal != ""
    assert state.held_bytes >= first.pages * 4000
    assert not tracked(init.pid)
    assert init.poll() is None
    await hosts.keeper.end()
    assert await hosts.keeper.state() is None


async def test_sender_killed(hosts: Hosts, ve: Ve, churn: Path) -> None:
    """The VE runs on without tracking, and the keeper gives back what came when the next sender begins."""
    init = ve.start(str(churn), "calm", "1", "x")
    sender = await MemorySender.start(hosts.task(ve))
    await sender.round()
    assert tracked(init.pid)
    sender._lines.process.send_signal(signal.SIGKILL)

    with pytest.raises(FaultError) as caught:
        await sender.round()

    assert caught.value.fault.code is FaultCode.PEER_LOST
    with pytest.raises(NotSendable, match="has ended"):
        await sender.resume(hosts.stream, ())
    await sender.end()
    state = await hosts.phase(Phase.INTERRUPTED)
    assert state.why == "the stream ended before it was complete"
    assert state.held_bytes > 1500 * PAGE_BYTES
    assert not tracked(init.pid)
    assert init.poll() is None
    again = await MemorySender.start(replace(hosts.task(ve), stream=hosts.stream_named("another")))
    assert (await again.round()).pages > 1500
    assert (await hosts.phase(Phase.RECEIVING)).held_bytes < 1.5 * state.held_bytes
    await again.end()
    await hosts.keeper.end()


async def test_goes_on(hosts: Hosts, ve: Ve, churn: Path, tmp_path: Path) -> None:
    """After its line was killed in a round, the sender goes on over another: what had come is not sent again, and it is sealed."""
    init = ve.start(str(churn), "calm", "1", "x")
    sender = await MemorySender.start(replace(hosts.task(ve, rate_bytes_per_s=5e6), stream=hosts.fragile))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broken, sender)
        while (state := await hosts.keeper.state()) is None or state.held_bytes < 1000 * PAGE_BYTES:
            await trio.sleep(0.001)
        os.kill(line_of(sender), signal.SIGKILL)
    await hosts.phase(Phase.INTERRUPTED)
    assert tracked(init.pid)

    await sender.resume(hosts.stream, ())
    await sender.limit(None)
    following = await sender.round()
    ve.freeze()
    await sender.look(tmp_path)
    _, seal = await sender.sent()
    state = await hosts.phase(Phase.SEALED)
    await sender.end()
    ve.thaw()

    assert following.pages * PAGE_BYTES < following.content_bytes - 500 * PAGE_BYTES
    assert state.seal == seal
    assert not tracked(init.pid)
    await hosts.keeper.end()


async def test_goes_on_although_the_old_line_is_silent(hosts: Hosts) -> None:
    """A line that died without a word does not hold up the next, and what had come over it is kept and counted."""
    silent = piped(hosts.stream)
    assert silent.stdin is not None
    spread = Spread(silent.stdin.fileno())
    for page in range(1, 4):
        extent = (page * PAGE_BYTES, (page + 1) * PAGE_BYTES)
        write_frame(spread.write, frames.Kind.PAGES, 1, [extent], os.urandom(PAGE_BYTES))
    silent.stdin.write(b"half a")
    silent.stdin.flush()
    await held(hosts, 3 * PAGE_BYTES)

    following = piped(hosts.stream)
    assert following.stdin is not None
    write_frame(Spread(following.stdin.fileno()).write, frames.Kind.RESUME)
    answer = await trio.to_thread.run_sync(FrameReader(reader(following)).next)

    assert answer is not None
    assert int.from_bytes(answer.payload, "big") == 3
    await ends(silent)
    await held(hosts, 3 * PAGE_BYTES)
    await ends(following)
    await hosts.keeper.end()


async def test_what_came_is_lost(hosts: Hosts, ve: Ve, churn: Path) -> None:
    """A keeper that has not what it had is found out: the sender says so, and ends, and the VE is left alone."""
    init = ve.start(str(churn), "calm", "1", "x")
    sender = await MemorySender.start(hosts.task(ve))
    await sender.round()
    await hosts.keeper.start(CAP)
    with pytest.raises(FaultError):
        await sender.round()

    with pytest.raises(NotSendable, match="does not hold any more"):
        await sender.resume(hosts.stream, ())

    assert not tracked(init.pid)
    await sender.end()
    await hosts.keeper.end()


async def broken(sender: MemorySender) -> None:
    """A round that fails because its stream broke."""
    with pytest.raises(FaultError) as caught:
        await sender.round()
    assert caught.value.fault.code is FaultCode.PEER_LOST


def line_of(sender: MemorySender) -> int:
    """The process of its line."""
    pid = sender._lines.process.pid
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


async def test_keeper_gone(hosts: Hosts, ve: Ve, churn: Path) -> None:
    """A stream that breaks is an indefinite fault, told once, and the VE is left alone."""
    init = ve.start(str(churn), "calm", "1", "x")
    sender = await MemorySender.start(hosts.task(ve))
    await sender.round()
    await hosts.keeper.end()

    with pytest.raises(FaultError) as caught:
        await sender.round()

    assert not caught.value.fault.definite
    await sender.end()
    assert not tracked(init.pid)


async def test_cap(hosts: Hosts, ve: Ve, churn: Path) -> None:
    """More memory than was set aside is refused with the reason, and not kept."""
    ve.start(str(churn), "calm", "1", "x")
    await hosts.keeper.start(1 << 20)
    sender = await MemorySender.start(hosts.task(ve))
    with pytest.raises(NotSendable, match="exceeds the 1 MiB"):
        await sender.round()
    await sender.end()

    state = await hosts.phase(Phase.EMPTY)
    assert state.why == "the VE's memory exceeds the 1 MiB set aside for it"
    await hosts.keeper.end()


async def test_no_such_process(hosts: Hosts, ve: Ve, churn: Path) -> None:
    """A VE that is not there is refused before anything is sent."""
    ve.start(str(churn), "calm", "1", "x")
    gone = Task(1 << 22, str(ve.group), hosts.stream, hosts.use, MemoryMethod.TRACKED)
    with pytest.raises(NotSendable, match="4194304"):
        await MemorySender.start(gone)
    await hosts.keeper.end()


async def test_rate(hosts: Hosts, ve: Ve, churn: Path) -> None:
    """The cap on bandwidth holds over a round, and can be lifted in the midst of one."""
    ve.start(str(churn), "calm", "1", "x")
    sender = await MemorySender.start(hosts.task(ve, rate_bytes_per_s=20e6))
    held_back = await sender.round()
    assert held_back.wire_bytes / held_back.duration_s < 25e6
    await sender.end()
    sender = await MemorySender.start(hosts.task(ve, rate_bytes_per_s=1e5))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.round)
        await hosts.phase(Phase.RECEIVING)
        await sender.limit(None)
    await sender.end()
    await hosts.keeper.end()


async def test_serves_only_what_is_sealed(hosts: Hosts, ve: Ve, churn: Path, tmp_path: Path) -> None:
    """Before the seal nothing is served, whoever asks."""
    ve.start(str(churn), "calm", "1", "x")
    sender = await MemorySender.start(hosts.task(ve))
    await sender.round()
    with pytest.raises(FaultError) as caught:
        await hosts.keeper.serve(tmp_path, tmp_path, None)
    assert caught.value.fault.code is FaultCode.CORRUPT
    await sender.end()
    await hosts.keeper.end()


def reader(program: "subprocess.Popen[bytes]") -> ReadInto:
    """Of what it says."""
    assert program.stdout is not None
    return streams.reader(program.stdout.fileno())


async def held(hosts: Hosts, held_bytes: int) -> None:
    """Returns when the keeper holds this."""
    with trio.fail_after(20):
        while (state := await hosts.keeper.state()) is None or state.held_bytes != held_bytes:
            await trio.sleep(0.01)


@contextmanager
def sealed(hosts: Hosts) -> Iterator[None]:
    """The memory of a VE without processes comes."""
    with subprocess.Popen(hosts.stream, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as stream:
        assert stream.stdin is not None
        write_frame(Spread(stream.stdin.fileno()).write, frames.Kind.SEAL, payload=b"[]")
        yield
        stream.kill()


def piped(argv: Sequence[str], *words: str) -> "subprocess.Popen[bytes]":
    """A program with pipes."""
    return subprocess.Popen([*argv, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


async def test_strands_join(hosts: Hosts) -> None:
    """A further connection joins the stream of its name and no other; the memory comes over both, and both are told of the end."""
    assert await ends(piped(hosts.strand, NAME)) == b"", "nothing is received yet"
    first = piped(hosts.stream)
    await hosts.phase(Phase.RECEIVING)
    assert await ends(piped(hosts.strand, "other")) == b""
    second = piped(hosts.strand, NAME)
    assert first.stdin is not None
    assert second.stdin is not None
    assert second.stdout is not None
    assert await trio.to_thread.run_sync(second.stdout.read, 1) == READY
    spread = Spread(first.stdin.fileno())
    spread.join(os.dup(second.stdin.fileno()))

    extents = [(PAGE_BYTES, 101 * PAGE_BYTES)]
    claim = {"space": 1, "pid": 1, "bytes": 100 * PAGE_BYTES, "map": fingerprint(extents), "owed": fingerprint([])}

    def send() -> None:
        for page in range(1, 101):
            extent = (page * PAGE_BYTES, (page + 1) * PAGE_BYTES)
            write_frame(spread.write, frames.Kind.PAGES, 1, [extent], os.urandom(PAGE_BYTES))
        write_frame(spread.write, frames.Kind.SEAL, payload=json.dumps([claim]).encode())

    await trio.to_thread.run_sync(send)
    state = await hosts.phase(Phase.SEALED)

    assert state.held_bytes == 100 * PAGE_BYTES
    await ends(first)
    await ends(second)
    await hosts.keeper.end()


async def ends(program: "subprocess.Popen[bytes]") -> bytes:
    """What it says until it ends, well."""
    said, _ = await trio.to_thread.run_sync(program.communicate)
    assert program.returncode == 0
    return said


async def test_a_restore_that_asks_for_nothing(hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime that restored without lazy pages is found out: its VE has no memory, and is not to run."""
    monkeypatch.setattr(handles, "RESTORED_LIMIT_S", 0.2)
    with sealed(hosts):
        await hosts.phase(Phase.SEALED)
    await hosts.keeper.serve(tmp_path, tmp_path, None)

    with pytest.raises(FaultError) as found:
        await hosts.keeper.restored()

    assert found.value.fault.code is FaultCode.CORRUPT
    assert "without asking for its memory" in found.value.fault.message
    await hosts.keeper.end()
