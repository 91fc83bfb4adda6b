"""Exit statuses: stable numbers, one for every way in which a command can end."""

import pytest

from migrator.cli import exits
from migrator.cli.exits import Exit
from migrator.core.phases import ENDED, Phase
from migrator.wire.faults import FaultCode


def test_numbers_are_stable() -> None:
    """Scripts rely on these; a change of one is a break of the program's promise."""
    assert {each.name: each.value for each in Exit} == {
        "DONE": 0, "INTERNAL": 1, "USAGE": 2, "REFUSED": 3, "UNDONE": 4, "BLOCKED": 5, "UNREACHABLE": 6,
        "SETTINGS": 7, "NOT_FOUND": 8, "DETACHED": 130,
    }  # fmt: skip


def test_only_done_is_success() -> None:
    """No phase but `done` ends with 0, and every end has a status of its own kind."""
    assert [phase for phase in Phase if exits.of_phase(phase) is Exit.DONE] == [Phase.DONE]
    assert {exits.of_phase(phase) for phase in ENDED} == {Exit.DONE, Exit.REFUSED, Exit.UNDONE}


@pytest.mark.parametrize("phase", sorted(set(Phase) - ENDED))
def test_what_has_not_ended_is_not_finished(phase: Phase) -> None:
    """A migration left in any phase that is no end is one that somebody must take up."""
    assert exits.of_phase(phase) is Exit.BLOCKED


def test_faults_by_kind() -> None:
    """A host that cannot be asked, one that has no such VE, a mistake of ours: each its own; the rest was refused."""
    special = {code: exits.of_fault(code) for code in FaultCode if exits.of_fault(code) is not Exit.REFUSED}

    assert special == {
        FaultCode.UNREACHABLE: Exit.UNREACHABLE,
        FaultCode.NOT_TRUSTED: Exit.UNREACHABLE,
        FaultCode.UNKNOWN_VE: Exit.NOT_FOUND,
        FaultCode.INTERNAL: Exit.INTERNAL,
    }


def test_help_lists_every_status() -> None:
    """Every status is explained where a person looks for it."""
    lines = exits.HELP.splitlines()

    assert [sum(line.split()[:1] == [str(each.value)] for line in lines) for each in Exit] == [1] * len(Exit)
