"""PURE. A migration that has stopped: where the VE is, what it waits for, and the next command that can do no harm.

Rule: a command is named only if whatever it does is safe; what it needs the operator to make sure of is said first.
"""

from dataclasses import replace

from migrator.core.machine import Migration
from migrator.core.phases import Phase
from migrator.core.recovery import Action, Known, SourceSays, TargetSays, decide, source_says, target_says
from migrator.core.vocabulary import Role


def advise(machine: Migration) -> tuple[str, str]:
    """(what it waits for, in words; the next safe command), for phases `blocked` and `needs-operator`."""
    request, on = machine.request, machine.blocked_on
    recover = f"migrator recover {request.migration}"
    if machine.phase is Phase.NEEDS_OPERATOR:
        return _for_operator(machine), f"migrator show {request.migration}"
    source, target = words(machine)
    if on is Role.SOURCE and source is not SourceSays.SILENT:
        return f"{request.source} is still about {request.ve} ({_claim(machine, on)})", recover
    if on is Role.TARGET and target is TargetSays.STARTING:
        return f"{request.target} has {request.ve}, and is still about letting it run", recover
    if on is Role.SOURCE:
        return _source_is_silent(machine, target)
    return _target_is_silent(machine, source)


def words(machine: Migration) -> tuple[SourceSays, TargetSays]:
    """What both hosts said when they were asked last."""
    source, target = machine.words.get(Role.SOURCE), machine.words.get(Role.TARGET)
    migration = machine.request.migration
    return source_says(source, migration), target_says(target, migration)


def _source_is_silent(machine: Migration, target: TargetSays) -> tuple[str, str]:
    request, recover = machine.request, f"migrator recover {machine.request.migration}"
    silent = f"{request.source} does not answer"
    if machine.unfilled:
        waits = f"{request.target_ve} is on {request.target}, and waits for memory that only {request.source} has"
        anew = (
            f"bring {request.source} back, or, if you are sure that it is off, have the VE started anew from its files"
        )
        return f"{silent}: {waits}; {anew}", _fence(request.source)
    if machine.confirmed or target in (TargetSays.OWNER, TargetSays.STARTING):
        where = f"{request.target_ve} is on {request.target} and can be used; {request.source} is to be cleaned"
        return f"{silent}: {where} when it is back", recover
    if decide(SourceSays.SILENT, target, _if_off(machine, Role.SOURCE)) is Action.ADOPT:
        held = f"{request.target} holds {request.ve} complete and frozen"
        return f"{silent}: {held}, and will run it once you are sure that {request.source} is off", _fence(
            request.source
        )
    return f"{silent}: {request.ve} is there, or its newest copy is", recover


def _target_is_silent(machine: Migration, source: SourceSays) -> tuple[str, str]:
    request, recover = machine.request, f"migrator recover {machine.request.migration}"
    silent = f"{request.target} does not answer"
    if decide(source, TargetSays.SILENT, _if_off(machine, Role.TARGET)) is Action.TAKE_BACK:
        frozen = f"{request.ve} waits on {request.source}, because {request.target} may run it"
        return f"{silent}: {frozen}; make sure that {request.target} is off, or bring it back", _fence(request.target)
    if source in (SourceSays.HOME, SourceSays.OTHER):
        return (
            f"{silent}: {request.ve} is on {request.source} and can be used; {request.target} is to be cleaned",
            recover,
        )
    if source in (SourceSays.LEAVING, SourceSays.BUSY):
        return f"{silent}: {request.ve} is on {request.source}; {request.target} is to be cleaned", recover
    return f"{silent}: {request.ve} is there", recover


def _for_operator(machine: Migration) -> str:
    request = machine.request
    said = f"{request.source} says {_claim(machine, Role.SOURCE)}, {request.target} says {_claim(machine, Role.TARGET)}"
    if machine.sent.confirm and Role.TARGET in machine.off and not machine.confirmed:
        return f"{said}; {request.target} was told that {request.ve} is its own for good: it is not started on {request.source}"
    if machine.fault is not None and machine.words:
        return f"{said}, and what was tried failed: {machine.fault.sentence()}; nothing is started by itself"
    return f"{said} of {request.ve}, which does not fit together; nothing is started by itself"


def _claim(machine: Migration, role: Role) -> str:
    standing = machine.words.get(role)
    if standing is None:
        return "nothing"
    ours = standing.record.migration == machine.request.migration
    return f"`{standing.record.claim}`" if ours else "that this migration is not there"


def _if_off(machine: Migration, role: Role) -> Known:
    """What would be known if the operator declared that host off."""
    if role is Role.SOURCE:
        return replace(machine.known, source_off=True)
    return replace(machine.known, target_off=True)


def _fence(host: str) -> str:
    return f"migrator fence {host} --why REASON"
