"""Exit statuses of the program and what each means; stable, listed in `migrator --help` and docs/cli.md."""

from enum import IntEnum

from migrator.core.phases import Phase
from migrator.wire.faults import FaultCode


class Exit(IntEnum):
    """How a command ended."""

    DONE = 0
    INTERNAL = 1
    """A mistake in migrator itself."""
    USAGE = 2
    """The command line cannot be understood."""
    REFUSED = 3
    """Refused before anything was changed."""
    UNDONE = 4
    """It failed or was aborted, and was undone: the VE is on its source as before."""
    BLOCKED = 5
    """Not finished: a host that must be asked does not answer, or the operator must decide."""
    UNREACHABLE = 6
    """A host cannot be reached or is not trusted; nothing was changed."""
    SETTINGS = 7
    """The inventory cannot be used."""
    NOT_FOUND = 8
    """No such host, VE or migration."""
    DETACHED = 130
    """Left by a second Ctrl-C; the hosts finish or undo by themselves."""


BY_PHASE = {
    Phase.DONE: Exit.DONE,
    Phase.REFUSED: Exit.REFUSED,
    Phase.UNDONE: Exit.UNDONE,
    Phase.BLOCKED: Exit.BLOCKED,
    Phase.NEEDS_OPERATOR: Exit.BLOCKED,
}
BY_FAULT = {
    FaultCode.UNREACHABLE: Exit.UNREACHABLE,
    FaultCode.NOT_TRUSTED: Exit.UNREACHABLE,
    FaultCode.UNKNOWN_VE: Exit.NOT_FOUND,
    FaultCode.INTERNAL: Exit.INTERNAL,
}


def of_phase(phase: Phase) -> Exit:
    """The status for a migration that was left in this phase."""
    return BY_PHASE.get(phase, Exit.BLOCKED)


def of_fault(code: FaultCode) -> Exit:
    """The status for a command that a fault ended."""
    return BY_FAULT.get(code, Exit.REFUSED)


HELP = "\b\nExit status:\n" + "\n".join(
    f"  {each.value:<4}{text}"
    for each, text in (
        (Exit.DONE, "done"),
        (Exit.INTERNAL, "a mistake in migrator itself"),
        (Exit.USAGE, "the command line cannot be understood"),
        (Exit.REFUSED, "refused; nothing was changed"),
        (Exit.UNDONE, "failed or aborted, and undone: the VE is on its source as before"),
        (Exit.BLOCKED, "not finished: a host does not answer, or you must decide; see migrator status"),
        (Exit.UNREACHABLE, "a host cannot be reached or is not trusted; nothing was changed"),
        (Exit.SETTINGS, "the inventory cannot be used"),
        (Exit.NOT_FOUND, "no such host, VE or migration"),
        (Exit.DETACHED, "left by a second Ctrl-C; the hosts finish or undo by themselves"),
    )
)
