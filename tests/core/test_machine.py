"""What one migration asks of its hosts, told as conversations."""

from dataclasses import replace

import pytest

from migrator.core.machine import Migration
from migrator.core.phases import Phase
from migrator.core.vocabulary import AbortRequested, Command, Finish, MigrationRequest, Replied, Role, Send, Started
from migrator.wire.facts import Claim, HostFacts, Interface, Record, Standing, VeFacts, VeState
from migrator.wire.faults import Fault, FaultCode
from migrator.wire.messages import Copied, Departing, HandedOver, Reply, Reserved, Stands

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
    """A host's word on the VE."""
    return Stands(Standing(Record("web", claim, 9, migration), VeState.RUNNING, False))


GOOD: list[tuple[Role, Reply]] = [
    (Role.SOURCE, Departing("key")),
    (Role.TARGET, Reserved(("host key",))),
    (Role.SOURCE, Copied(1, 1.0, 5, 0.1)),
    (Role.SOURCE, Copied(2, 0.1, 5, 0.1)),
    (Role.SOURCE, HandedOver(0.3)),
    (Role.TARGET, stands(Claim.OWNER)),
    (Role.SOURCE, stands(Claim.GONE)),
]


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
    """A certain failure before the point of no return is undone on both hosts, and the first fault is reported."""
    _, commands = play([*GOOD[:reached], (Role.SOURCE, BROKEN)])
    assert {type(command.request).__name__ for command in commands if isinstance(command, Send)} == {"Undo", "Release"}

    _, commands = play(
        [
            *GOOD[:reached],
            (Role.SOURCE, BROKEN),
            (Role.SOURCE, stands(Claim.HOME)),
            (Role.TARGET, stands(Claim.REFUSED)),
        ]
    )
    assert commands == [Finish(Phase.UNDONE, BROKEN)]


@pytest.mark.parametrize("reached", range(7))
def test_lost_answer_is_asked_about(reached: int) -> None:
    """An answer that did not come leads to asking both hosts, in every phase."""
    migration, commands = play([*GOOD[:reached], (Role.SOURCE, LOST)])

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
