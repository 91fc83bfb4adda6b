"""PURE. A migration as a person or a program wants to see it: a frozen reading of its story."""

from dataclasses import dataclass, field

from migrator.core.advice import advise
from migrator.core.phases import Phase
from migrator.core.story import Story
from migrator.wire.facts import Mode, Objection
from migrator.wire.faults import Fault
from migrator.wire.messages import HandedOver

OURS_NAME = "our own overhead"


@dataclass(frozen=True, slots=True)
class RoundLine:
    """One round of copying."""

    round: int
    duration_s: float
    file_bytes: int
    memory_bytes: int
    dirty_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class PartLine:
    """One part of what was predicted, beside what it took."""

    predicted_ms: float
    actual_ms: float


@dataclass(frozen=True, slots=True)
class BlackoutReport:
    """What the blackout was made of, on the source's clock; parts may overlap."""

    blackout_ms: float
    predicted_ms: float
    parts_ms: dict[str, float]
    criu_ms: float
    wire_ms: float
    overhead_ms: float
    """Blackout less what CRIU reports for dump and restore and less the transfer: the cost of our own program."""
    compared_ms: dict[str, PartLine] = field(default_factory=dict)
    """By the names of `convergence.Prediction.parts_s`."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything about one migration."""

    migration: str
    ve: str
    source: str
    target: str
    target_ve: str
    phase: str
    mode: str
    reason: str
    """Why this mode."""
    began_unix_s: float
    total_s: float
    """Until it ended, or until the last thing known of it."""
    phases_s: dict[str, float]
    rounds: tuple[RoundLine, ...]
    blackout: BlackoutReport | None
    file_bytes: int
    memory_bytes: int
    image_bytes: int
    owed_bytes: int
    """By post-copy: memory that came from the source when the VE ran on the target already; part of `memory_bytes`."""
    predicted_blackout_ms: float
    memory_method: str
    """By which the memory moved in the end (`wire.facts.MemoryMethod`); empty: not live, or not known yet."""
    memory_reason: str
    """Why the plan chose what it chose; what came in between is in the notes."""
    outcome: str
    """In one sentence: where the VE is and in which state."""
    next_command: str
    """The next safe command; empty: nothing is to be done."""
    fault: Fault | None
    """Why it ended or stands otherwise than it was to: what certainly failed, else the first answer that was lost."""
    refusals: tuple[Objection, ...]
    notes: tuple[str, ...] = field(default=())


def of(story: Story) -> Report:
    """The report of a story."""
    machine, request = story.machine, story.request
    plan, handed = machine.plan, machine.handed_over
    rounds = tuple(
        RoundLine(each.round, each.duration_s, each.file_bytes, each.memory_bytes, each.dirty_bytes_per_s)
        for each in machine.rounds
    )
    outcome, command = _outcome(story)
    owed_bytes = handed.owed_bytes if handed else 0
    notes = [*(plan.notes if plan else ()), *(note for each in machine.rounds for note in each.notes)]
    if machine.phase is Phase.DONE and machine.doubt is not None:
        notes.append(
            f"an answer was lost on the way, and both hosts were asked what came of it: {machine.doubt.sentence()}"
        )
    return Report(
        migration=request.migration,
        ve=request.ve,
        source=request.source,
        target=request.target,
        target_ve=request.target_ve,
        phase=str(machine.phase),
        mode=str(machine.mode),
        reason=plan.reason if plan else "",
        began_unix_s=story.began_unix_s,
        total_s=_last_unix_s(story) - story.began_unix_s,
        phases_s=_phases(story),
        rounds=rounds,
        blackout=_blackout(story),
        file_bytes=sum(each.file_bytes for each in rounds) + (handed.file_bytes if handed else 0),
        memory_bytes=sum(each.memory_bytes for each in rounds) + (handed.memory_bytes + owed_bytes if handed else 0),
        image_bytes=handed.image_bytes if handed else 0,
        owed_bytes=owed_bytes,
        predicted_blackout_ms=_predicted_ms(story),
        memory_method=_memory_method(story),
        memory_reason=plan.memory.reason if plan and plan.memory else "",
        outcome=outcome,
        next_command=command,
        fault=machine.why,
        refusals=plan.refusals if plan else (),
        notes=tuple(dict.fromkeys(notes)),
    )


def _memory_method(story: Story) -> str:
    machine = story.machine
    if machine.mode is not Mode.LIVE or machine.plan is None or machine.plan.memory is None:
        return ""
    return str(machine.rounds[-1].memory_method if machine.rounds else machine.plan.memory.method)


def _last_unix_s(story: Story) -> float:
    return story.events[-1].at_unix_s if story.events else story.began_unix_s


def _phases(story: Story) -> dict[str, float]:
    """How long it was in each phase, in the order of first entry."""
    found: dict[str, float] = {}
    for passage in story.passages:
        until = passage.until_unix_s if passage.until_unix_s is not None else _last_unix_s(story)
        if passage.until_unix_s is not None or not story.ended:
            name = str(passage.phase)
            found[name] = found.get(name, 0.0) + until - passage.from_unix_s
    return found


def _predicted_ms(story: Story) -> float:
    machine = story.machine
    if machine.prediction is not None:
        return 1000 * machine.prediction.blackout_s
    return 1000 * machine.plan.forecast.blackout_s if machine.plan else 0.0


def _blackout(story: Story) -> BlackoutReport | None:
    handed = story.machine.handed_over
    if handed is None or not handed.blackout_s:
        return None
    ours = handed.blackout_s - handed.criu_s - handed.wire_s
    return BlackoutReport(
        blackout_ms=1000 * handed.blackout_s,
        predicted_ms=_predicted_ms(story),
        parts_ms={name: 1000 * took for name, took in handed.parts_s.items()},
        criu_ms=1000 * handed.criu_s,
        wire_ms=1000 * handed.wire_s,
        overhead_ms=1000 * ours,
        compared_ms=_compared(story, handed),
    )


def _compared(story: Story, handed: HandedOver) -> dict[str, PartLine]:
    """Each part that was predicted, and what it took on the source's clock.

    `fixed` is what the blackout would have taken if neither memory nor files had outlasted the checkpoint they are sent beside.
    """
    prediction, took = story.machine.prediction, handed.parts_s
    if prediction is None:
        return {}
    memory_s, files_s = took.get("memory sent", 0.0), took.get("last file pass", 0.0)
    outlasted_s = max(0.0, max(memory_s, files_s) - took.get("checkpoint", 0.0))
    actual_s = (
        {"fixed": handed.blackout_s - outlasted_s, "memory": memory_s, "files": files_s}
        if story.machine.mode is Mode.LIVE
        else {"stop": took.get("freeze", 0.0), "files": files_s, "start": took.get("give and run", 0.0)}
    )
    return {
        name: PartLine(1000 * predicted_s, 1000 * actual_s[name])
        for name, predicted_s in prediction.parts_s.items()
        if name in actual_s
    }


def _outcome(story: Story) -> tuple[str, str]:
    """Where the VE is, in which state, and the next safe command."""
    machine, request = story.machine, story.request
    ve, source, target = request.ve, request.source, request.target
    match machine.phase:
        case Phase.DONE if machine.memory_lost:
            anew = f"{source} was lost with a part of its memory, and if that had not come yet, it was started anew from its files"
            return f"{request.target_ve} is on {target}; {anew}", f"migrator ve show {request.target_ve}"
        case Phase.DONE:
            return f"{request.target_ve} is on {target}, as it was on {source}; {source} is clean", ""
        case Phase.REFUSED:
            return f"{ve} is on {source}, untouched: the migration was refused before anything was changed", ""
        case Phase.UNDONE:
            command = f"migrator plan {ve} {target}"
            return f"{ve} is on {source} as before; nothing of it is left on {target}", command
        case Phase.NEEDS_OPERATOR | Phase.BLOCKED:
            return advise(machine)
        case Phase.SETTLING:
            return f"an answer was lost: {source} and {target} are being asked where {ve} is", ""
        case Phase.UNDOING:
            return f"{ve} goes on on {source}; what came to {target} is being removed", ""
        case Phase.VERIFYING if machine.post_copy:
            return f"{request.target_ve} runs on {target}, and the rest of its memory is coming from {source}", ""
        case Phase.VERIFYING | Phase.RETIRING:
            return f"{request.target_ve} is {target}'s; {source} is being cleaned", ""
        case Phase.HANDING_OVER:
            return f"{ve} is being handed over from {source} to {target} by the two hosts", ""
        case _:
            return f"{ve} is on {source}, as before, while the migration is {machine.phase}", ""
