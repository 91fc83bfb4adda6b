"""The recovery table has an answer for everything, and no answer makes two copies or none."""

import itertools
from dataclasses import fields

from migrator.core.phases import ENDED, TABLE, Phase
from migrator.core.recovery import Action, Known, SourceSays, TargetSays, decide, source_says, target_says
from migrator.wire.facts import Claim, Record, Standing, VeState

FLAGS = [field.name for field in fields(Known)]
EVERYTHING = [
    (source, target, Known(**dict(zip(FLAGS, flags, strict=True))))
    for source in SourceSays
    for target in TargetSays
    for flags in itertools.product((False, True), repeat=len(FLAGS))
]
"""Every combination of what the source says, what the target says and what the journal knows."""
DIAGRAM = {
    SourceSays.HOME: "undo undo undo needs-operator undo undo",
    SourceSays.OTHER: "undo undo undo needs-operator undo undo",
    SourceSays.LEAVING: "undo undo undo needs-operator undo undo",
    SourceSays.BUSY: "undo wait wait needs-operator undo wait",
    SourceSays.COLD: "undo undo wait forward undo blocked-on-target",
    SourceSays.GIVEN: "needs-operator needs-operator wait forward tell-source blocked-on-target",
    SourceSays.GONE: "needs-operator needs-operator needs-operator forward needs-operator blocked-on-target",
    SourceSays.SILENT: "blocked-on-source " * 3 + "forward blocked-on-source blocked-on-source",
}
"""The table of the module's docstring, columns in this order:"""
COLUMNS = (
    TargetSays.HOME,
    TargetSays.ARRIVING,
    TargetSays.HELD,
    TargetSays.OWNER,
    TargetSays.REFUSED,
    TargetSays.SILENT,
)


def test_every_combination_has_an_answer() -> None:
    """Whatever the two hosts and the journal say, there is one action."""
    assert len(EVERYTHING) == len(SourceSays) * len(TargetSays) * 2 ** len(FLAGS)
    for source, target, known in EVERYTHING:
        assert isinstance(decide(source, target, known), Action)


def test_table_is_the_documented_one() -> None:
    """With nothing special in the journal the answers are those of the table in the docstring."""
    for source, row in DIAGRAM.items():
        assert [str(decide(source, target, Known())) for target in COLUMNS] == row.split()


def test_owner_that_is_still_starting_is_left_alone() -> None:
    """What waits for an owner that is about letting the VE run is what would be done with one that is done with it."""
    for source, _, known in EVERYTHING:
        done, about_it = (decide(source, each, known) for each in (TargetSays.OWNER, TargetSays.STARTING))
        waits = done is Action.FORWARD and not known.confirmed
        assert about_it is (Action.BLOCKED_ON_TARGET if waits else done)


def test_memory_that_is_being_restored_is_waited_for() -> None:
    """A source that was down has it no more: what the target is about is not undone; for any other source it changes nothing."""
    for source, _, known in EVERYTHING:
        arrives, about_it = (decide(source, each, known) for each in (TargetSays.ARRIVING, TargetSays.RESTORING))
        decided_before = known.taken_back or known.confirmed
        assert about_it is (Action.WAIT if source is SourceSays.COLD and not decided_before else arrives)


def test_strange_words_go_to_the_operator() -> None:
    """A claim that does not belong to the protocol is never guessed about."""
    for source, target, known in EVERYTHING:
        if source is SourceSays.STRANGE or target is TargetSays.STRANGE:
            assert decide(source, target, known) is Action.NEEDS_OPERATOR


def test_undo_only_where_the_target_cannot_run_it() -> None:
    """The VE is started again at the source only if it was not given, and the target neither owns it nor was told to."""
    for source, target, known in EVERYTHING:
        if decide(source, target, known) is Action.UNDO and not known.taken_back:
            assert source not in (SourceSays.GIVEN, SourceSays.GONE, SourceSays.SILENT)
            assert target not in (TargetSays.OWNER, TargetSays.STARTING)
            assert not (known.adopting and target in (TargetSays.SILENT, TargetSays.HELD, TargetSays.HOME)) or (
                source in (SourceSays.LEAVING, SourceSays.BUSY) and target is TargetSays.HELD
            )
            assert not known.confirmed


def test_forward_only_where_the_target_owns_it() -> None:
    """The source's copy is given up only on the target's word, said now or confirmed before."""
    for source, target, known in EVERYTHING:
        if decide(source, target, known) is Action.FORWARD:
            assert target is TargetSays.OWNER or known.confirmed
            assert not known.taken_back


def test_adopt_only_when_the_source_is_off_and_cannot_have_run() -> None:
    """What is held is run without the source's word only after `fence`, and if nothing newer can exist."""
    for source, target, known in EVERYTHING:
        if decide(source, target, known) is Action.ADOPT:
            assert source is SourceSays.SILENT
            assert target is TargetSays.HELD
            assert known.adopting or (known.source_off and not known.source_may_have_run)
            assert not known.taken_back


def test_held_in_part_is_run_with_the_source_only() -> None:
    """By post-copy nobody but the source itself has the VE run at the target, and one that was down starts it from its files."""
    for source, target, known in EVERYTHING:
        if target is TargetSays.HELD_IN_PART and not known.taken_back and not known.confirmed:
            action = decide(source, target, known)
            assert action not in (Action.ADOPT, Action.GIVE, Action.TELL_SOURCE, Action.FORWARD)
            if source is SourceSays.COLD:
                assert action is Action.UNDO


def test_taken_back_only_when_the_target_is_off() -> None:
    """What was given comes back without the target's word only after `fence`, and never after a Confirm."""
    for source, target, known in EVERYTHING:
        if decide(source, target, known) is Action.TAKE_BACK and not known.taken_back:
            assert known.target_off
            assert not known.confirming
            assert target in (TargetSays.SILENT, TargetSays.HOME)


def test_one_direction_for_ever() -> None:
    """After TakeBack nothing lets the target run it, and after its confirmation nothing lets the source."""
    for source, target, known in EVERYTHING:
        action = decide(source, target, known)
        if known.taken_back:
            assert action not in (Action.FORWARD, Action.ADOPT, Action.GIVE)
        elif known.confirmed:
            assert action not in (Action.UNDO, Action.TAKE_BACK, Action.GO_ON)


def test_every_record_is_a_word() -> None:
    """Whatever record a host has, the table knows it by a name."""
    either = (False, True)
    for claim, migration, cold, working, complete in itertools.product(Claim, ("m", "n"), either, either, either):
        record = Record("web", claim, 3, migration, image_complete=complete, cold=cold)
        assert source_says(Standing(record, VeState.FROZEN, working), "m") is not SourceSays.SILENT
        assert target_says(Standing(record, VeState.FROZEN, working), "m") is not TargetSays.SILENT
    assert source_says(None, "m") is SourceSays.SILENT
    assert target_says(None, "m") is TargetSays.SILENT


def test_every_phase_is_a_row_or_an_end() -> None:
    """A phase without a row is an end, and every way leads to an end."""
    assert set(TABLE) | ENDED == set(Phase)
    reached = {Phase.INSPECTING}
    for _ in Phase:
        reached |= {after for phase in reached - ENDED for after in TABLE[phase].after}
    assert reached == set(Phase)
