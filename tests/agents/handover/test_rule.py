"""The rule of one running copy, checked on the two machines talking to each other."""

import itertools

import pytest

from agents.handover.source import Source
from agents.handover.target import Target
from agents.handover.vocabulary import (
    Act,
    Answer,
    Booted,
    Command,
    DeadlinePassed,
    Did,
    DidNot,
    Do,
    Event,
    Ordered,
    PeerSaid,
    TellPeer,
    Write,
)
from migrator.wire.facts import Claim, Record, VeFacts, VeState
from migrator.wire.faults import Fault, FaultCode
from migrator.wire.messages import (
    Depart,
    HandedOver,
    HandOver,
    PeerDrop,
    PeerGive,
    PeerHolds,
    PeerRestore,
    PeerRuns,
    Release,
    Reserve,
    Undo,
)

FAULT = Fault(FaultCode.TOOL_FAILED, "it broke")
FACTS = VeFacts("web", "oci", VeState.RUNNING)


def departed() -> Source:
    """A source that has prepared the VE's leaving under order 1."""
    source = Source(Record("web", Claim.HOME, 0))
    source.handle(Ordered(Depart("m", 1, "web", "beta"), 1))
    source.handle(Did(Act.PREPARE))
    return source


def in_blackout(*acts: Act) -> Source:
    """A source in the hand-over under order 2, these acts done."""
    source = departed()
    source.handle(Ordered(HandOver("m", 2, "web", 10.0), 2))
    for act in acts:
        source.handle(Did(act, {} if act is Act.SEND else None))
    return source


def given() -> Source:
    """A source past the point of no return."""
    source = in_blackout(Act.FREEZE, Act.DUMP, Act.SEND)
    source.handle(PeerSaid(PeerHolds(0.1, 0.1)))
    return source


def held() -> Target:
    """A target that holds the VE."""
    target = Target(Record("web", Claim.HOME, 0))
    target.handle(Ordered(Reserve("m", 1, "alpha", FACTS, "key", 0, 30.0), 1))
    target.handle(Did(Act.ACCEPT))
    target.handle(Ordered(PeerRestore("m", 2, "web", {}), 2))
    target.handle(Did(Act.HOLD))
    return target


def acts(commands: list[Command]) -> list[Act]:
    """The acts among commands."""
    return [command.act for command in commands if isinstance(command, Do)]


def test_source_writes_given_before_it_tells() -> None:
    """The point of no return is on disk before the target hears of it."""
    source = in_blackout(Act.FREEZE, Act.DUMP, Act.SEND)

    commands = source.handle(PeerSaid(PeerHolds(0.1, 0.1)))

    kinds = [type(command).__name__ for command in commands]
    assert kinds.index("Write") < kinds.index("TellPeer")
    assert source.record.claim is Claim.GIVEN


def test_target_writes_owner_before_it_runs() -> None:
    """The target owns the VE on disk before a process of it runs."""
    target = held()

    commands = target.handle(Ordered(PeerGive("m", 2, "web"), 3))

    writes = [at for at, command in enumerate(commands) if isinstance(command, Write)]
    runs = [at for at, command in enumerate(commands) if command == Do(Act.RUN)]
    assert writes
    assert runs
    assert writes[-1] < runs[0]


@pytest.mark.parametrize("done", [(), (Act.FREEZE,), (Act.FREEZE, Act.DUMP)])
def test_failed_act_thaws(done: tuple[Act, ...]) -> None:
    """Whatever fails before the point of no return, the source runs the VE again and says why."""
    source = in_blackout(*done)
    failing = (Act.FREEZE, Act.DUMP, Act.SEND)[len(done)]

    assert acts(source.handle(DidNot(failing, FAULT))) == [Act.THAW]
    commands = source.handle(Did(Act.THAW)) + source.handle(Did(Act.UNPREPARE))

    assert source.record.claim is Claim.HOME
    assert Answer(2, FAULT) in commands


def test_undo_during_an_act_waits_for_its_end() -> None:
    """An act that is under way is over before the VE is thawed, so that it cannot freeze it again."""
    source = in_blackout(Act.FREEZE)

    assert acts(source.handle(DeadlinePassed())) == []
    assert acts(source.handle(DidNot(Act.DUMP, FAULT))) == [Act.THAW]


def test_no_undo_after_given() -> None:
    """After the point of no return an abort is refused and the VE stays frozen."""
    source = given()

    commands = source.handle(Ordered(Undo("m", 9, "web"), 5))

    [answer] = [command for command in commands if isinstance(command, Answer)]
    assert isinstance(answer.reply, Fault)
    assert answer.reply.code is FaultCode.TOO_LATE
    assert acts(commands) == []


def test_silence_after_given_is_asked_not_judged() -> None:
    """A lost answer after the point of no return leads to a question, never to a thaw."""
    commands = given().handle(PeerSaid(Fault(FaultCode.PEER_LOST, "gone")))

    assert acts(commands) == []
    assert any(isinstance(command, TellPeer) for command in commands)


@pytest.mark.parametrize(
    "late", [DeadlinePassed(), Ordered(Release("m", 5, "web"), 7), Ordered(PeerDrop("m", 2, "web"), 7)]
)
def test_refused_stays_refused(late: Event) -> None:
    """What a target has refused it never runs, however late the source's word comes."""
    target = held()
    target.handle(late)
    assert target.record.claim is Claim.REFUSED

    commands = target.handle(Ordered(PeerGive("m", 2, "web"), 8))

    assert acts(commands) == []
    assert target.record.claim is Claim.REFUSED


def test_stale_orders_are_refused() -> None:
    """An order that is not newer than what was obeyed changes nothing."""
    source = in_blackout()
    before = source.record

    commands = source.handle(Ordered(HandOver("m", 2, "web", 1.0), 9))

    assert acts(commands) == []
    assert source.record == before


def test_repeated_give_runs_once() -> None:
    """The source may say `given` again; the VE is run once."""
    target = held()
    target.handle(Ordered(PeerGive("m", 2, "web"), 3))
    target.handle(Did(Act.RUN))

    commands = target.handle(Ordered(PeerGive("m", 2, "web"), 4))

    assert acts(commands) == []
    assert any(isinstance(command, Answer) and isinstance(command.reply, PeerRuns) for command in commands)


def test_source_finishes_when_target_runs() -> None:
    """The frozen copy is ended only after the target has confirmed, and the controller hears of it."""
    source = given()

    assert acts(source.handle(PeerSaid(PeerRuns(0.0)))) == [Act.DISCARD]
    [answer] = [command for command in source.handle(Did(Act.DISCARD)) if isinstance(command, Answer)]

    assert source.record.claim is Claim.GONE
    assert isinstance(answer.reply, HandedOver)


def test_boot_never_makes_two() -> None:
    """For every pair of records on disk and every state, booting both hosts starts the VE on one of them at most."""
    for left, right, state in itertools.product(Claim, Claim, VeState):
        source, target = Source(Record("web", left, 3, "m")), Target(Record("web", right, 3, "m"))
        source_runs = Act.THAW in acts(source.handle(Booted(state)))
        target_runs = Act.RUN in acts(target.handle(Booted(state)))
        # `leaving` and `owner` together cannot be reached: `given` is on disk before `owner` can be.
        if (left, right) != (Claim.LEAVING, Claim.OWNER):
            assert not (source_runs and target_runs), (left, right, state)
