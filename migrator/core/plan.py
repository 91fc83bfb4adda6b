"""PURE. From the request and what both hosts say: how the VE will move, what that will cost, or why it cannot."""

from dataclasses import dataclass

from migrator.core import memory
from migrator.core.convergence import FIXED_S, START_S, STOP_S
from migrator.core.memory import MemoryPlan
from migrator.core.refusals import refusals
from migrator.core.vocabulary import MigrationRequest, OverBudget, Started
from migrator.wire.facts import MemoryMethod, Mode, Objection, VeFacts, VeState

ROUND_OVERHEAD_S = 0.5


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the migration is expected to take; before the first byte has moved it is an estimate of sizes and the line."""

    blackout_s: float
    total_s: float
    file_bytes: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How a VE will move. With refusals it will not."""

    mode: Mode
    reason: str
    """Why this mode."""
    forecast: Forecast
    refusals: tuple[Objection, ...]
    waived: tuple[Objection, ...]
    notes: tuple[str, ...]
    memory: MemoryPlan | None = None
    """How its memory moves; None: it does not move live."""


def make(request: MigrationRequest, facts: Started) -> Plan:
    """The plan; every refusal at once."""
    ve = next((each for each in facts.source_ves if each.ve == request.ve), None)
    mode, reason = choose_mode(request, ve)
    found = refusals(request, facts, mode)
    waived = tuple(each for each in found if each.waivable and each.name in request.policy.waived)
    standing = tuple(each for each in found if each not in waived)
    notes = ve.notes if ve is not None else ()
    if mode is Mode.LIVE and request.policy.over_budget is OverBudget.POST_COPY:
        notes = (*notes, memory.post_copy_risk(request.source, request.target))
    moving = memory.choose(request.policy.memory, ve, facts.source) if ve is not None and mode is Mode.LIVE else None
    return Plan(mode, reason, _forecast(request, ve, mode, moving), standing, waived, notes, moving)


def choose_mode(request: MigrationRequest, ve: VeFacts | None) -> tuple[Mode, str]:
    """The mode and why."""
    wanted = request.policy.mode
    if ve is None or wanted is not None:
        return wanted or Mode.LIVE, "as asked"
    if ve.state is VeState.STOPPED or ve.state is VeState.SUSPENDED:
        return Mode.STOP_COPY, f"{ve.ve} is {ve.state}: its files move, and it stays {ve.state}"
    if not ve.live:
        return Mode.STOP_COPY, f"the {ve.engine} engine cannot checkpoint {ve.ve} on this host"
    if ve.blockers and request.policy.fallback:
        return Mode.STOP_COPY, f"a checkpoint of {ve.ve} would be refused: {'; '.join(ve.blockers)}"
    return Mode.LIVE, f"{ve.ve} runs and can be checkpointed"


def _forecast(request: MigrationRequest, ve: VeFacts | None, mode: Mode, moving: MemoryPlan | None) -> Forecast:
    if ve is None:
        return Forecast(0.0, 0.0, 0, 0)
    policy = request.policy
    line = min(request.link_bytes_per_s, policy.bandwidth_bytes_per_s or request.link_bytes_per_s)
    held = ve.memory_bytes if mode is Mode.LIVE else 0
    ahead = moving is not None and moving.method is not MemoryMethod.DUMP
    rounds_s = (ve.disk_bytes + (held if ahead else 0)) / line + ROUND_OVERHEAD_S
    if ve.state is not VeState.RUNNING:
        return Forecast(0.0, rounds_s, ve.disk_bytes, 0)
    in_blackout = (0.05 if ahead else 1.0) * held
    blackout_s = (
        FIXED_S + in_blackout / request.link_bytes_per_s if mode is Mode.LIVE else STOP_S + ROUND_OVERHEAD_S + START_S
    )
    return Forecast(blackout_s, rounds_s + blackout_s, ve.disk_bytes, held)
