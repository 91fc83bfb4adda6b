"""The rule of one running copy, checked on the two machines talking to each other."""

import itertools
from dataclasses import replace

import pytest

from agents.handover.roles import machine_after, undoing
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
    PeerOrder,
    PeerSaid,
    TellPeer,
    Write,
)
from migrator.wire.facts import Claim, Mode, Record, Standing, VeFacts, VeState
from migrator.wire.faults import Fault, FaultCode
from migrator.wire.messages import (
    Adopt,
    Depart,
    HandedOver,
    HandOver,
    PeerAsk,
    PeerDrop,
    PeerGive,
    PeerHolds,
    PeerRestore,
    PeerRuns,
    Release,
    Reserve,
    Retire,
    Stands,
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


RESTORE = PeerRestore("m", 2, "web", {})
GIVE = PeerGive("m", 2, "web")
ASK = PeerAsk("m", "web", 2)
DROP = PeerDrop("m", 2, "web")


def given() -> Source:
    """A source past the point of no return."""
    source = in_blackout(Act.FREEZE, Act.DUMP, Act.SEND)
    source.handle(PeerSaid(PeerHolds(0.1, 0.1), RESTORE))
    return source


def stands(claim: Claim, state: VeState = VeState.FROZEN) -> Stands:
    """The target's word on the VE."""
    return Stands(Standing(Record("web", claim, 2, "m", image_complete=True), state, False))


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


def told(commands: list[Command]) -> list[PeerOrder]:
    """What the other agent is told."""
    return [command.message for command in commands if isinstance(command, TellPeer)]


def test_source_writes_given_before_it_tells() -> None:
    """The point of no return is on disk before the target hears of it."""
    source = in_blackout(Act.FREEZE, Act.DUMP, Act.SEND)

    commands = source.handle(PeerSaid(PeerHolds(0.1, 0.1), RESTORE))

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
    commands = source.handle(Did(Act.THAW))

    assert source.record.claim is Claim.HOME
    assert Answer(2, FAULT) in commands


def test_undone_is_settled_when_the_target_has_refused() -> None:
    """The autostart stays fenced until the target has let go: it may hold an image that an operator lets run."""
    source = in_blackout(Act.FREEZE)
    source.handle(DidNot(Act.DUMP, FAULT))
    assert acts(source.handle(Did(Act.THAW))) == []
    assert source.record.handing_over
    assert source.handle(PeerSaid(Fault(FaultCode.PEER_LOST, "gone"), DROP)) == [TellPeer(ASK, 1.0)]

    assert acts(source.handle(PeerSaid(stands(Claim.REFUSED), ASK))) == [Act.UNPREPARE]
    source.handle(Did(Act.UNPREPARE))

    assert source.record.settled
    assert not source.record.handing_over


def test_controller_answers_for_the_target() -> None:
    """An undo by the controller does not wait for a target that does not answer."""
    source = in_blackout(Act.FREEZE)
    source.handle(DidNot(Act.DUMP, FAULT))
    source.handle(Did(Act.THAW))

    assert acts(source.handle(Ordered(Undo("m", 3, "web"), 9))) == [Act.UNPREPARE]
    assert Answer(9, None) in source.handle(Did(Act.UNPREPARE))


def test_thaw_is_tried_until_it_runs() -> None:
    """A thaw that fails is tried again without anybody's order."""
    source = in_blackout(Act.FREEZE)
    source.handle(DidNot(Act.DUMP, FAULT))

    assert Answer(2, FAULT) in source.handle(DidNot(Act.THAW, FAULT))
    assert acts(source.handle(DeadlinePassed())) == [Act.THAW]


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
    commands = given().handle(PeerSaid(Fault(FaultCode.PEER_LOST, "gone"), GIVE))

    assert acts(commands) == []
    assert any(isinstance(command, TellPeer) for command in commands)


@pytest.mark.parametrize(
    "late", [Ordered(Release("m", 5, "web"), 7), Ordered(PeerDrop("m", 2, "web"), 7), Booted(VeState.STOPPED, True)]
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

    assert acts(source.handle(PeerSaid(PeerRuns(0.0), GIVE))) == [Act.DISCARD]
    [answer] = [command for command in source.handle(Did(Act.DISCARD)) if isinstance(command, Answer)]

    assert source.record.claim is Claim.GONE
    assert isinstance(answer.reply, HandedOver)


@pytest.mark.parametrize("state", [VeState.FROZEN, VeState.STOPPED])
def test_source_keeps_its_copy_until_the_target_runs(state: VeState) -> None:
    """A target that owns the VE and does not run it yet may still fail to, and give it back."""
    source = given()
    source.handle(PeerSaid(Fault(FaultCode.PEER_LOST, "gone"), GIVE))

    assert acts(source.handle(PeerSaid(stands(Claim.OWNER, state), ASK))) == []
    assert acts(source.handle(PeerSaid(stands(Claim.OWNER, VeState.RUNNING), ASK))) == [Act.DISCARD]


def test_answer_of_an_earlier_attempt_is_not_taken() -> None:
    """A `holds` that answers the live attempt does not give the VE away in the stop-copy that follows it."""
    source = in_blackout(Act.FREEZE, Act.DUMP, Act.SEND)

    assert source.handle(PeerSaid(PeerHolds(0.1, 0.1), PeerRestore("m", 1, "web", {}))) == []
    assert source.record.claim is Claim.LEAVING


def test_held_is_kept_past_the_deadline() -> None:
    """What is held may be the only copy: no deadline drops it."""
    target = held()

    assert target.handle(DeadlinePassed()) == []
    assert target.record.claim is Claim.ARRIVING
    assert acts(target.handle(Ordered(Adopt("m", 9, "web"), 5))) == [Act.RUN]


def test_deadline_before_the_hold_refuses() -> None:
    """A restore that takes too long is refused, so that the source can go on."""
    target = Target(Record("web", Claim.HOME, 0))
    target.handle(Ordered(Reserve("m", 1, "alpha", FACTS, "key", 0, 30.0), 1))
    target.handle(Did(Act.ACCEPT))
    target.handle(Ordered(RESTORE, 2))

    target.handle(DeadlinePassed())

    assert target.record.claim is Claim.REFUSED


def test_failed_run_is_given_back_only_when_certain() -> None:
    """After a failed run the VE is refused if it has certainly not run, and kept if that is not certain."""
    certain, uncertain = held(), held()
    for target in (certain, uncertain):
        target.handle(Ordered(GIVE, 3))
        assert acts(target.handle(DidNot(Act.RUN, FAULT))) == [Act.HALT]

    assert Answer(3, FAULT) in certain.handle(Did(Act.HALT))
    [answer, _] = uncertain.handle(DidNot(Act.HALT, FAULT))

    assert certain.record.claim is Claim.REFUSED
    assert uncertain.record.claim is Claim.OWNER
    assert isinstance(answer, Answer)
    assert isinstance(answer.reply, Fault)
    assert not answer.reply.definite


def test_halt_is_tried_until_it_is_certain() -> None:
    """A source that waits with its frozen copy gets it back as soon as the target can say that it has not run."""
    target = held()
    target.handle(Ordered(GIVE, 3))
    target.handle(DidNot(Act.RUN, FAULT))
    target.handle(DidNot(Act.HALT, FAULT))

    assert acts(target.handle(DeadlinePassed())) == [Act.HALT]
    target.handle(Did(Act.HALT))

    assert target.record.claim is Claim.REFUSED


def test_it_ran_after_all() -> None:
    """A halt that finds the VE running is not tried again: it is the target's."""
    target = held()
    target.handle(Ordered(GIVE, 3))
    target.handle(DidNot(Act.RUN, FAULT))
    target.handle(DidNot(Act.HALT, Fault(FaultCode.TOO_LATE, "it is running")))

    assert acts(target.handle(DeadlinePassed())) == []
    assert target.record.claim is Claim.OWNER


@pytest.mark.parametrize(
    ("fault", "again"), [(FAULT, [Act.RUN]), (Fault(FaultCode.CONFLICT, "its processes ended"), [])]
)
def test_owner_runs_it_until_it_runs(fault: Fault, again: list[Act]) -> None:
    """An agent that was started anew lets the VE run, and goes on trying; but what ended is not started from its files."""
    target = Target(replace(held().record, claim=Claim.OWNER))
    assert acts(target.handle(Booted(VeState.FROZEN))) == [Act.RUN]
    target.handle(DidNot(Act.RUN, fault))

    assert acts(target.handle(DeadlinePassed())) == again


def test_adopted_ve_is_never_refused() -> None:
    """The source is off: what is held is the only copy, and a failed run does not drop it."""
    target = held()
    target.handle(Ordered(Adopt("m", 9, "web"), 5))

    assert acts(target.handle(DidNot(Act.RUN, FAULT))) == []
    assert target.record.claim is Claim.OWNER


def test_cold_source_asks_before_it_starts() -> None:
    """A host that went down in the hand-over gives what the target holds, and starts only what the target refused."""
    cold = in_blackout(Act.FREEZE).record
    holding, refusing = Source(cold), Source(cold)
    for source in (holding, refusing):
        commands = source.handle(Booted(VeState.STOPPED, True))
        assert acts(commands) == []
        asked = [command.message for command in commands if isinstance(command, TellPeer)]
        claim = Claim.ARRIVING if source is holding else Claim.REFUSED
        answer = source.handle(PeerSaid(stands(claim), asked[0]))
        assert acts(answer) == ([] if source is holding else [Act.THAW])

    assert holding.record.claim is Claim.GIVEN


def test_cold_source_waits_for_a_restore_under_way() -> None:
    """What the target is restoring is all that is left of the memory: it is not dropped, it is asked after again."""
    source = Source(in_blackout(Act.FREEZE).record)
    [asked] = [each.message for each in source.handle(Booted(VeState.STOPPED, True)) if isinstance(each, TellPeer)]
    restoring = Stands(Standing(Record("web", Claim.ARRIVING, 2, "m"), VeState.STOPPED, True))

    commands = source.handle(PeerSaid(restoring, asked))

    assert acts(commands) == []
    assert [type(each.message) for each in commands if isinstance(each, TellPeer)] == [PeerAsk]


def test_cold_target_takes_the_controllers_word_only() -> None:
    """A target that has been down does not run on the source's word: the source may have taken the VE back."""
    complete = replace(held().record, mode=Mode.STOP_COPY)
    target = Target(complete)
    target.handle(Booted(VeState.STOPPED, True))

    assert acts(target.handle(Ordered(PeerGive("m", target.record.order, "web"), 4))) == []
    assert acts(target.handle(Ordered(Adopt("m", target.record.order + 1, "web"), 5))) == [Act.RUN]


def test_owner_that_was_down_waits_and_can_be_released() -> None:
    """An owner whose host went down unconfirmed starts nothing, and lets go when the source has taken the VE back."""
    target = held()
    target.handle(Ordered(GIVE, 3))
    back = Target(target.record)

    assert acts(back.handle(Booted(VeState.STOPPED, True))) == []
    assert acts(back.handle(Ordered(Release("m", back.record.order + 1, "web", taken_back=True), 4))) == [Act.DROP]


def test_order_from_before_a_reboot_is_late() -> None:
    """Who has not heard from a host since it came up does not order it about."""
    source = Source(in_blackout().record)
    source.handle(Booted(VeState.STOPPED, True))

    commands = source.handle(Ordered(Undo("m", 20, "web"), 4))

    assert acts(commands) == []


def test_late_orders_change_no_machine() -> None:
    """A late Depart or Reserve, or one that finds a move under way, does not replace a machine."""
    source = given()
    for late in (Depart("m", 1, "web", "beta"), Reserve("n", 99, "alpha", FACTS, "key", 0, 30.0)):
        assert machine_after(source, late, VeState.FROZEN) is source


def test_undo_overtakes_its_depart() -> None:
    """An undo that comes before the order that it undoes leaves that order late."""
    source = Source(Record("web", Claim.HOME, 0))
    source.handle(Ordered(Undo("m", 2, "web"), 1))

    commands = source.handle(Ordered(Depart("m", 1, "web", "beta"), 2))

    assert acts(commands) == []


def test_boot_never_makes_two() -> None:
    """For every pair of records on disk and every state, booting both hosts starts the VE on one of them at most."""
    for left, right, state in itertools.product(Claim, Claim, VeState):
        for rebooted in (False, True):
            source = Source(Record("web", left, 3, "m", handing_over=True))
            target = Target(Record("web", right, 3, "m"))
            source_runs = Act.THAW in acts(source.handle(Booted(state, rebooted)))
            target_runs = Act.RUN in acts(target.handle(Booted(state, rebooted)))
            # `owner` beside a source that may run cannot be reached without a reboot: `given` is on disk before it.
            if (left, right) not in ((Claim.LEAVING, Claim.OWNER), (Claim.HOME, Claim.OWNER)) or rebooted:
                assert not (source_runs and target_runs), (left, right, state)


# --- post-copy -----------------------------------------------------------------------------------


def lending() -> Source:
    """A source whose VE runs on the target, with a part of its memory here."""
    source = departed()
    source.handle(Ordered(HandOver("m", 2, "web", 10.0, post_copy=True), 2))
    for act in (Act.FREEZE, Act.DUMP, Act.SEND):
        source.handle(Did(act, {} if act is Act.SEND else None))
    source.handle(PeerSaid(PeerHolds(0.1, 0.1), replace(RESTORE, post_copy=True)))
    assert source.record.claim is Claim.GIVEN
    return source


def test_post_copy_lends_before_it_discards() -> None:
    """The controller hears at once that the VE runs; the frozen copy is kept until the target has all of its memory."""
    source = lending()

    commands = source.handle(PeerSaid(PeerRuns(0.0), GIVE))

    assert acts(commands) == [Act.LEND]
    assert [type(each.reply) for each in commands if isinstance(each, Answer)] == [HandedOver]
    assert source.record.claim is Claim.GONE
    assert acts(source.handle(Did(Act.LEND))) == [Act.DISCARD]


def test_retired_while_it_lends() -> None:
    """The target has everything and its word to the source was lost: the controller's ends the lending."""
    source = lending()
    source.handle(PeerSaid(PeerRuns(0.0), GIVE))

    assert acts(source.handle(Ordered(Retire("m", 3, "web"), 3))) == []
    assert undoing(source)
    assert acts(source.handle(DidNot(Act.LEND, FAULT))) == [Act.DISCARD]
    assert not undoing(source)
    assert acts(source.handle(Did(Act.DISCARD))) == [Act.DESTROY]


def test_retired_while_it_discards() -> None:
    """What is being ended is not ended twice."""
    source = lending()
    source.handle(PeerSaid(PeerRuns(0.0), GIVE))
    source.handle(Did(Act.LEND))

    assert acts(source.handle(Ordered(Retire("m", 3, "web"), 3))) == []
    assert acts(source.handle(Did(Act.DISCARD))) == [Act.DESTROY]


@pytest.mark.parametrize(("state", "act"), [(VeState.FROZEN, [Act.LEND]), (VeState.STOPPED, [])])
def test_new_agent_goes_on_lending(state: VeState, act: list[Act]) -> None:
    """As long as the memory is there, whichever process of the agent it is."""
    source = lending()
    source.handle(PeerSaid(PeerRuns(0.0), GIVE))

    assert acts(Source(source.record).handle(Booted(state, state is not VeState.FROZEN))) == act


def test_memory_that_cannot_be_lent_is_not_discarded() -> None:
    """Nobody but the controller, who knows what the target has, ends a copy that could not be lent to its end."""
    source = lending()
    source.handle(PeerSaid(PeerRuns(0.0), GIVE))

    assert acts(source.handle(DidNot(Act.LEND, FAULT))) == []
    assert acts(source.handle(DeadlinePassed())) == [Act.LEND]
    source.handle(DidNot(Act.LEND, FAULT))
    assert acts(source.handle(Ordered(Retire("m", 3, "web"), 3))) == [Act.DISCARD]


def test_source_that_was_down_takes_back_what_cannot_be_completed() -> None:
    """Given and not run yet, and half of the memory lost with this host: the target drops it, and it starts here."""
    source = Source(lending().record)
    [ask] = told(source.handle(Booted(VeState.STOPPED, rebooted=True)))

    [drop] = told(source.handle(PeerSaid(stands(Claim.ARRIVING), ask)))

    assert isinstance(drop, PeerDrop)
    assert acts(source.handle(PeerSaid(stands(Claim.REFUSED), drop))) == [Act.THAW]


def test_source_that_was_down_before_it_gave_starts_the_ve() -> None:
    """The target cannot run what it holds in part."""
    source = departed()
    source.handle(Ordered(HandOver("m", 2, "web", 10.0, post_copy=True), 2))

    assert acts(Source(source.record).handle(Booted(VeState.STOPPED, rebooted=True))) == [Act.THAW]
