"""What one migration asks of its hosts, told as conversations."""

from dataclasses import replace

import pytest

from migrator.core.machine import Migration
from migrator.core.phases import Phase
from migrator.core.vocabulary import (
    AbortRequested,
    Command,
    Fenced,
    Finish,
    MigrationRequest,
    Replied,
    Resumed,
    Role,
    Send,
    Started,
)
from migrator.wire.facts import Claim, HostFacts, Interface, Record, Standing, VeFacts, VeState
from migrator.wire.faults import Fault, FaultCode
from migrator.wire.messages import (
    Adopt,
    Confirm,
    Copied,
    Departing,
    HandedOver,
    PreCopy,
    Reply,
    Request,
    Reserved,
    Stands,
    TakeBack,
    Undo,
)

LINK = Interface("eth0", "02:00:00:00:00:01", "ve-web", "br0", 1500, ("10.0.0.9/24",))
VE = VeFacts("web", "oci", VeState.RUNNING, runtime="crun", interfaces=(LINK,))
GIB8 = 1 << 33
HOST = HostFacts(
    "alpha", "6.12", "x86_64", "boot-a", "3.11", 0.0, 2, ("sse2",), GIB8, GIB8, GIB8, GIB8, ("br0",), (), (), ("oci/crun",)
)  # fmt: skip
REQUEST = MigrationRequest("m1", "web", "alpha", "beta", "10.0.0.2")
STARTED = Started(0.0, HOST, replace(HOST, host="beta", boot_id="boot-b"), (VE,), (), 4)
BROKEN = Fault(FaultCode.TOOL_FAILED, "rsync ended with 12", host="alpha", step="copy files", tool="rsync")
LOST = Fault(FaultCode.UNREACHABLE, "no answer", host="alpha")


def stands(claim: Claim, migration: str = "m1") -> Stands:
    """A host's word on the VE, with nothing left to do there."""
    return Stands(Standing(Record("web", claim, 9, migration, settled=True), VeState.RUNNING, False))


GOOD: list[tuple[Role, Reply]] = [
    (Role.SOURCE, Departing("key")),
    (Role.TARGET, Reserved(("host key",))),
    (Role.SOURCE, Copied(1, 1.0, 5, 0.1)),
    (Role.SOURCE, Copied(2, 0.1, 5, 0.1)),
    (Role.SOURCE, HandedOver(0.3)),
    (Role.TARGET, stands(Claim.OWNER)),
    (Role.SOURCE, stands(Claim.GONE)),
]


def asked_after(reached: int) -> Role:
    """Who is asked next after so many good replies."""
    return GOOD[reached][0]


def play(replies: list[tuple[Role, Reply]]) -> tuple[Migration, list[Command]]:
    """Start a migration and give it these replies; the machine and its last commands."""
    migration = Migration(REQUEST)
    commands = migration.handle(STARTED)
    for role, reply in replies:
        commands = migration.handle(Replied(1.0, role, reply))
    return migration, commands


def test_good_way_ends_done() -> None:
    """With every host answering well, the migration is done and reports the blackout."""
    migration, commands = play(GOOD)

    assert commands == [Finish(Phase.DONE, None)]
    assert migration.handed_over == HandedOver(0.3)


def test_take_back_that_came_too_late() -> None:
    """The source had heard from the target before: it will never take the VE back, and the move goes on forward."""
    broken: list[tuple[Role, Reply]] = [*GOOD[:4], (Role.SOURCE, LOST)]
    migration, _ = play(broken)
    migration.handle(Replied(2.0, Role.SOURCE, stands(Claim.GIVEN)))
    migration.handle(Replied(2.0, Role.TARGET, LOST))
    migration.handle(Fenced(3.0, Role.TARGET, "somebody", "smoke"))
    migration.handle(Replied(4.0, Role.SOURCE, stands(Claim.GIVEN)))
    [command] = migration.handle(Replied(4.0, Role.TARGET, LOST))
    assert isinstance(command, Send)
    assert isinstance(command.request, TakeBack)
    migration.handle(Replied(5.0, Role.SOURCE, Fault(FaultCode.TOO_LATE, "the target has confirmed")))
    migration.handle(Replied(6.0, Role.SOURCE, stands(Claim.GONE)))
    [command] = migration.handle(Replied(6.0, Role.TARGET, stands(Claim.OWNER)))

    assert isinstance(command, Send)
    assert isinstance(command.request, Confirm)


def test_orders_rise() -> None:
    """Every request that changes something carries a higher order than any before it, and than any obeyed before."""
    migration, orders = Migration(REQUEST), [4]
    commands = migration.handle(STARTED)
    for role, reply in GOOD:
        orders += [command.request.order for command in commands if isinstance(command, Send)]  # type: ignore[union-attr]
        commands = migration.handle(Replied(1.0, role, reply))

    assert orders == sorted(set(orders))


@pytest.mark.parametrize("reached", [0, 1, 2, 3, 4])
def test_definite_fault_undoes_both_hosts(reached: int) -> None:
    """A certain failure before the point of no return is undone, on the source first, and the first fault is reported."""
    broken: list[tuple[Role, Reply]] = [*GOOD[:reached], (asked_after(reached), BROKEN)]
    _, commands = play(broken)
    assert [type(command.request).__name__ for command in commands if isinstance(command, Send)] == ["Undo"]

    _, commands = play([*broken, (Role.SOURCE, stands(Claim.HOME))])
    assert [type(command.request).__name__ for command in commands if isinstance(command, Send)] == ["Release"]

    _, commands = play([*broken, (Role.SOURCE, stands(Claim.HOME)), (Role.TARGET, stands(Claim.REFUSED))])
    assert commands == [Finish(Phase.UNDONE, BROKEN)]


@pytest.mark.parametrize("reached", range(7))
def test_lost_answer_is_asked_about(reached: int) -> None:
    """An answer that did not come leads to asking both hosts, in every phase."""
    migration, commands = play([*GOOD[:reached], (asked_after(reached), LOST)])

    assert migration.phase is Phase.SETTLING
    assert [type(command.request).__name__ for command in commands if isinstance(command, Send)] == ["Ask", "Ask"]


def test_lost_hand_over_that_happened_goes_forward() -> None:
    """The answer to the hand-over was lost, but the target owns the VE: the migration goes on."""
    words: list[tuple[Role, Reply]] = [(Role.SOURCE, stands(Claim.GIVEN)), (Role.TARGET, stands(Claim.OWNER))]
    migration, _ = play([*GOOD[:4], (Role.SOURCE, LOST), *words])

    assert migration.phase is Phase.VERIFYING


def test_silent_target_after_given_blocks() -> None:
    """Given to a target that does not answer: nothing is started anywhere."""
    words: list[tuple[Role, Reply]] = [(Role.SOURCE, stands(Claim.GIVEN)), (Role.TARGET, LOST)]
    migration, commands = play([*GOOD[:4], (Role.SOURCE, LOST), *words])

    assert migration.phase is Phase.BLOCKED
    assert commands == []


def test_all_refusals_at_once() -> None:
    """Every reason against a migration is told, not the first one only."""
    migration = Migration(REQUEST)
    poor = replace(STARTED.target, engines=(), disk_free_bytes=0, bridges=(), memory_free_bytes=0)
    ve = replace(VE, disk_bytes=1)

    migration.handle(replace(STARTED, target=poor, source_ves=(ve,)))

    assert migration.phase is Phase.REFUSED
    assert migration.plan is not None
    assert {each.name for each in migration.plan.refusals} == {"engine-missing", "disk", "bridge", "memory"}


def test_abort_before_the_blackout_undoes() -> None:
    """An operator's abort while files are copied is an undo."""
    migration, _ = play(GOOD[:2])

    migration.handle(AbortRequested(2.0, "ops"))

    assert migration.phase is Phase.UNDOING


def asked(commands: list[Command]) -> list[Request]:
    """The requests among commands."""
    return [command.request for command in commands if isinstance(command, Send)]


def test_late_answer_is_not_taken_for_anothers() -> None:
    """An answer to an earlier request, that comes after an abort, does not count as the answer to the undo."""
    migration = Migration(REQUEST)
    [depart] = migration.handle(STARTED)
    assert isinstance(depart, Send)
    migration.handle(AbortRequested(2.0, "ops"))

    assert migration.handle(Replied(3.0, Role.SOURCE, Departing("key"), depart.number)) == []
    assert migration.phase is Phase.UNDOING


def test_orders_go_on_above_what_hosts_have_obeyed() -> None:
    """After settling, orders are higher than any that a host says it has obeyed."""
    words: list[tuple[Role, Reply]] = [(Role.SOURCE, stands(Claim.LEAVING)), (Role.TARGET, LOST)]
    _, commands = play([*GOOD[:2], (Role.SOURCE, LOST), *words])

    [undo] = asked(commands)
    assert isinstance(undo, Undo)
    assert undo.order > 9


def test_interrupted_copy_goes_on() -> None:
    """A connection lost while copying costs a round, not the migration."""
    words: list[tuple[Role, Reply]] = [(Role.SOURCE, stands(Claim.LEAVING)), (Role.TARGET, stands(Claim.ARRIVING))]
    migration, commands = play([*GOOD[:3], (Role.SOURCE, LOST), *words])

    assert migration.phase is Phase.COPYING
    assert isinstance(asked(commands)[0], PreCopy)


def test_given_to_a_silent_target_waits_for_the_fence() -> None:
    """What was given comes back without the target's word only after the operator's."""
    words: list[tuple[Role, Reply]] = [(Role.SOURCE, stands(Claim.GIVEN)), (Role.TARGET, LOST)]
    migration, _ = play([*GOOD[:4], (Role.SOURCE, LOST), *words])
    assert migration.blocked_on is Role.TARGET

    migration.handle(Fenced(5.0, Role.TARGET, "ops", "power is off"))
    commands: list[Command] = []
    for role, reply in words:
        commands = migration.handle(Replied(6.0, role, reply))

    assert [type(each) for each in asked(commands)] == [TakeBack]


def test_fence_ends_when_the_host_speaks() -> None:
    """A host that was declared off and answers is not off: that word does not count any more."""
    words: list[tuple[Role, Reply]] = [(Role.SOURCE, stands(Claim.GIVEN)), (Role.TARGET, LOST)]
    migration, _ = play([*GOOD[:4], (Role.SOURCE, LOST)])
    migration.handle(Fenced(5.0, Role.TARGET, "ops", "power is off"))
    for role, now in ((Role.SOURCE, stands(Claim.GIVEN)), (Role.TARGET, held())):
        migration.handle(Replied(6.0, role, now))

    migration.handle(Resumed(7.0))
    commands: list[Command] = []
    for role, reply in words:
        commands = migration.handle(Replied(8.0, role, reply))

    assert asked(commands) == []
    assert migration.blocked_on is Role.TARGET


def held() -> Stands:
    """A target with a complete image."""
    return Stands(Standing(Record("web", Claim.ARRIVING, 9, "m1", image_complete=True), VeState.FROZEN, True))


@pytest.mark.parametrize("fenced", [False, True])
def test_dead_source_is_adopted_after_the_fence(fenced: bool) -> None:
    """A source that died while the target holds the VE: run there, on the operator's word only."""
    migration, _ = play([*GOOD[:4], (Role.SOURCE, LOST)])
    if fenced:
        migration.handle(Fenced(5.0, Role.SOURCE, "ops", "power is off"))
    commands: list[Command] = []
    for role, reply in ((Role.SOURCE, LOST), (Role.TARGET, held())):
        commands = migration.handle(Replied(6.0, role, reply))

    assert [type(each) for each in asked(commands)] == ([Adopt] if fenced else [])
    assert fenced or migration.blocked_on is Role.SOURCE


def test_no_adopt_after_an_undo() -> None:
    """A source that was told to undo may have run since: what the target holds is older, and is not run."""
    migration, _ = play(GOOD[:4])
    migration.handle(AbortRequested(4.0, "ops"))
    migration.handle(Replied(5.0, Role.SOURCE, LOST))
    migration.handle(Fenced(5.0, Role.SOURCE, "ops", "power is off"))
    commands: list[Command] = []
    for role, reply in ((Role.SOURCE, LOST), (Role.TARGET, held())):
        commands = migration.handle(Replied(6.0, role, reply))

    assert asked(commands) == []
    assert migration.blocked_on is Role.SOURCE


@pytest.mark.parametrize("reached", range(8))
def test_abort_has_an_answer_in_every_phase(reached: int) -> None:
    """Before the VE is the target's an abort is done or noted; after that it is refused, with the way back."""
    migration, _ = play(GOOD[:reached])
    refused = migration.abort_refused

    assert (refused is not None) == (reached >= 5)
    assert refused is None or "migrator migrate web alpha" in refused.message


@pytest.mark.parametrize("reached", range(8))
def test_replay_makes_the_same_machine(reached: int) -> None:
    """The events alone make the machine that was there before, down to the orders it has given."""
    first, _ = play(GOOD[:reached])
    second, _ = play(GOOD[:reached])

    assert vars(first) == vars(second)
