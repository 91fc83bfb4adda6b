"""What an SSH link makes of an agent that talks nonsense, late, out of turn or another version: the right fault, at once."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from migrator.adapters import ssh
from migrator.adapters.ssh import Loop, SshLink
from migrator.core.inventory import Host
from migrator.wire.codec import decode, encode
from migrator.wire.facts import Mode
from migrator.wire.faults import Fault, FaultCode, FaultError
from migrator.wire.framing import FRAME_BYTES_MAX, FrameReader
from migrator.wire.messages import (
    PROTOCOL_VERSION,
    Envelope,
    Hello,
    HostInspected,
    InspectHost,
    ListVes,
    Progress,
    Reply,
    VesListed,
    Vet,
)
from tests.adapters.ssh_server import Process, Session, serve
from tests.stories import ALPHA, VE

LIMIT_S = 20.0
GREETING = encode(Envelope(0, Hello(PROTOCOL_VERSION, "one")))
OTHER_VERSION = Fault(FaultCode.VERSION, "this agent speaks version 2, you speak 1")


@pytest.fixture
def loop() -> Iterator[Loop]:
    """The loop that asyncssh needs."""
    made = Loop()
    yield made
    made.stop()


def agent(answer: Callable[[Envelope], bytes | None], after: bytes = b"") -> Session:
    """Greets, answers each request so (None: ends the session), and says `after` before it hangs up."""

    async def session(process: Process) -> None:
        frames = FrameReader()
        while data := await process.stdin.read(1 << 16):
            for frame in frames.feed(data):
                envelope = decode(frame)
                said = GREETING if envelope.number == 0 else answer(envelope)
                if said is None:
                    process.stderr.write(after)
                    process.exit(1)
                    return
                process.stdout.write(said)

    return session


async def ask(host: Host, loop: Loop, limit_s: float = LIMIT_S) -> Fault:
    """One question over a fresh link; a fault must come, and not by waiting for the limit."""
    link = SshLink(host, loop)
    try:
        with trio.fail_after(LIMIT_S / 2):
            reply = await link.ask(InspectHost(), limit_s)
    finally:
        await link.close()
    assert isinstance(reply, Fault), reply
    assert reply.host in ("one", "")
    return reply


NONSENSE = {
    "garbage": (b"\xff" * 64, "was announced"),
    "an oversized frame": ((FRAME_BYTES_MAX + 1).to_bytes(4, "big"), "was announced"),
    "no message": (b"\x00\x00\x00\x03abc", "is no message"),
    "an HTTP answer": (b"HTTP/1.1 200 OK\r\n\r\n", "was announced"),
}


@pytest.mark.parametrize("kind", NONSENSE)
async def test_nonsense_is_unknown_and_said(tmp_path: Path, loop: Loop, kind: str) -> None:
    """What is no message ends the session: the outcome is unknown, and the words say what came."""
    said, words = NONSENSE[kind]
    async with serve(tmp_path, loop, agent(lambda _: said)) as host:
        found = await ask(host, loop)

    assert (found.code, found.definite) == (FaultCode.UNREACHABLE, False)
    assert words in found.message


async def test_truncated_frame_is_unknown_at_once(tmp_path: Path, loop: Loop) -> None:
    """A session that ends in the middle of an answer is not waited for."""

    async def session(process: Process) -> None:
        await process.stdin.read(1)
        process.stdout.write(GREETING + b"\x00\x00\x01\x00abc")
        process.exit(0)

    async with serve(tmp_path, loop, session) as host:
        assert (await ask(host, loop)).code is FaultCode.UNREACHABLE


async def test_words_of_a_bridge_that_finds_no_agent(tmp_path: Path, loop: Loop) -> None:
    """What the host says on its standard error is what a person reads."""
    async with serve(tmp_path, loop, agent(lambda _: None, b"nothing answers at /run/migrator/agent.sock\n")) as host:
        found = await ask(host, loop)

    assert found.message == "no agent on one: nothing answers at /run/migrator/agent.sock"


async def test_another_version_is_a_fault_of_its_own(tmp_path: Path, loop: Loop) -> None:
    """An agent of another version refuses the greeting: that fault, in its own words, and definite."""

    async def session(process: Process) -> None:
        await process.stdin.read(1)
        process.stdout.write(encode(Envelope(0, OTHER_VERSION)))
        await process.stdin.read()

    async with serve(tmp_path, loop, session) as host:
        found = await ask(host, loop)

    assert (found.code, found.definite, "version 2" in found.message) == (FaultCode.VERSION, True, True)


async def test_answer_to_something_else_is_no_answer(tmp_path: Path, loop: Loop) -> None:
    """An answer under a number that was never given is passed over, and the limit says what it is: unknown."""
    stray = encode(Envelope(99, HostInspected(ALPHA)))
    async with serve(tmp_path, loop, agent(lambda _: stray)) as host:
        found = await ask(host, loop, 0.5)

    assert found.code is FaultCode.UNREACHABLE
    assert "within 0.5 s" in found.message


async def test_answers_find_their_questions(tmp_path: Path, loop: Loop) -> None:
    """Two questions at once, answered in the other order, each with its own progress."""
    held: list[Envelope] = []

    def answer(envelope: Envelope) -> bytes:
        held.append(envelope)
        if len(held) < 2:
            return b""
        bodies: dict[type, Reply] = {InspectHost: HostInspected(ALPHA), ListVes: VesListed((VE,), ())}
        said = [Envelope(each.number, Progress(type(each.body).__name__, 1, 2)) for each in held]
        said += [Envelope(each.number, bodies[type(each.body)]) for each in reversed(held)]
        return b"".join(encode(each) for each in said)

    replies: dict[str, Reply] = {}
    notices: dict[str, list[str]] = {"InspectHost": [], "ListVes": []}
    async with serve(tmp_path, loop, agent(answer)) as host:
        link = SshLink(host, loop)

        async def one(request: InspectHost | ListVes) -> None:
            name = type(request).__name__
            replies[name] = await link.ask(request, LIMIT_S, lambda notice: notices[name].append(notice.step))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, InspectHost())
            nursery.start_soon(one, ListVes())
        await link.close()

    assert replies == {"InspectHost": HostInspected(ALPHA), "ListVes": VesListed((VE,), ())}
    assert notices == {"InspectHost": ["InspectHost"], "ListVes": ["ListVes"]}


async def test_link_dials_anew_after_a_loss(tmp_path: Path, loop: Loop) -> None:
    """The next question after a lost session goes to a new one and is answered."""
    answers = [None, encode(Envelope(2, HostInspected(ALPHA)))]
    async with serve(tmp_path, loop, agent(lambda _: answers.pop(0))) as host:
        link = SshLink(host, loop)
        lost = await link.ask(InspectHost(), LIMIT_S)
        good = await link.ask(InspectHost(), LIMIT_S)
        await link.close()

    assert isinstance(lost, Fault)
    assert good == HostInspected(ALPHA)


async def test_end_of_an_old_session_disturbs_no_new_one(tmp_path: Path, loop: Loop) -> None:
    """A refused session that hangs up late takes no answer away from the one that came after it."""
    sessions: list[Process] = []
    second_asked = asyncio.Event()

    async def session(process: Process) -> None:
        sessions.append(process)
        if len(sessions) == 1:
            await process.stdin.read(1)
            process.stdout.write(encode(Envelope(0, OTHER_VERSION)))
            await second_asked.wait()
            process.exit(0)
            return
        process.stdout.write(GREETING)
        frames = FrameReader()
        while not [each for each in frames.feed(await process.stdin.read(1 << 16)) if decode(each).number]:
            pass
        second_asked.set()
        await sessions[0].wait_closed()
        await asyncio.sleep(0.2)  # the client hears of it on its own time
        process.stdout.write(encode(Envelope(2, HostInspected(ALPHA))))

    async with serve(tmp_path, loop, session) as host:
        link = SshLink(host, loop)
        first = await link.ask(InspectHost(), LIMIT_S)
        second = await link.ask(InspectHost(), LIMIT_S)
        await link.close()

    assert isinstance(first, Fault)
    assert first.code is FaultCode.VERSION
    assert second == HostInspected(ALPHA)


async def test_question_that_is_too_large_is_not_sent(tmp_path: Path, loop: Loop) -> None:
    """A message over the limit is refused here, for certain, and the session goes on."""
    asked: list[object] = []

    def answer(envelope: Envelope) -> bytes:
        asked.append(envelope.body)
        return encode(Envelope(envelope.number, HostInspected(ALPHA)))

    large = Vet(replace(VE, config=b"x" * FRAME_BYTES_MAX), "web", Mode.LIVE)
    async with serve(tmp_path, loop, agent(answer)) as host:
        link = SshLink(host, loop)
        refused = await link.ask(large, LIMIT_S)
        good = await link.ask(InspectHost(), LIMIT_S)
        await link.close()

    assert isinstance(refused, Fault)
    assert (refused.code, refused.definite) == (FaultCode.BAD_REQUEST, True)
    assert good == HostInspected(ALPHA)
    assert asked == [InspectHost()]


# --- what is not there, or not what it should be ---------------------------------------------------


def nobody(port: int) -> Host:
    """A host at a port of this machine."""
    return Host("one", "127.0.0.1", port)


async def test_nobody_listens(loop: Loop) -> None:
    """A port that nobody listens at: unreachable, with address and reason."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    found = await ask(nobody(port), loop)

    assert found.code is FaultCode.UNREACHABLE
    assert f"root@127.0.0.1:{port}" in found.message


async def test_host_that_never_greets(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is taken and then silent has its own, short limit, and the words say that one."""
    monkeypatch.setattr(ssh, "CONNECT_LIMIT_S", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        found = await ask(nobody(silent.getsockname()[1]), loop, 3600)

    assert found.code is FaultCode.UNREACHABLE
    assert "within 0.3 s" in found.message


@pytest.mark.parametrize(
    ("field", "content", "words"),
    [
        ("identity_file", None, "cannot be used as private key: No such file"),
        ("identity_file", "hello\n", "cannot be used as private key: Invalid private key"),
        ("known_hosts", None, "cannot be used as known hosts: No such file"),
        ("known_hosts", "hello\n", "cannot be used as known hosts: Invalid known hosts entry"),
    ],
)
async def test_file_of_ours_that_is_wrong(
    tmp_path: Path, loop: Loop, field: str, content: str | None, words: str
) -> None:
    """A key or known-hosts file that cannot be used is named; nobody is dialled, so it is definite."""
    file = tmp_path / "file"
    if content is not None:
        file.write_text(content)
        file.chmod(0o600)
    changed: dict[str, Any] = {field: str(file)}
    found = await ask(replace(nobody(1), **changed), loop)

    assert (found.code, found.step, found.definite) == (FaultCode.NOT_TRUSTED, "connect", True)
    assert f"{file} {words}" in found.message


async def test_key_that_is_another(tmp_path: Path, loop: Loop) -> None:
    """Another host key than the known one: not trusted, nothing sent, and the file that was asked is named."""
    asked: list[object] = []

    def answer(envelope: Envelope) -> bytes:
        asked.append(envelope)
        return b""

    async with serve(tmp_path, loop, agent(answer)) as host:
        other = (tmp_path / "id.pub").read_text()
        (tmp_path / "known").write_text(f"[127.0.0.1]:{host.port} {other}")
        found = await ask(host, loop)

    assert (found.code, found.definite) == (FaultCode.NOT_TRUSTED, True)
    assert str(tmp_path / "known") in found.message
    assert "nothing was sent" in found.message
    assert asked == []


async def test_plain_commands_have_the_same_faults(loop: Loop) -> None:
    """What `host add` runs before there is an agent fails with the same words."""
    link = SshLink(replace(nobody(1), identity_file="/none"), loop)
    with pytest.raises(FaultError, match="/none cannot be used"):
        await link.run("true")
    await link.close()
