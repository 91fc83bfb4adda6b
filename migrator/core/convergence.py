"""PURE. After each round of copying: one more, or is it time for the blackout? Decided by prediction, not by counting.

Rule: predicted blackout = fixed costs + what will still have to be sent / measured bandwidth. Stop when that is inside
the budget, or when another round would no longer pay. The model and its sources: docs/architecture.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from migrator.wire.facts import MemoryMethod, Mode
from migrator.wire.messages import Copied

FIXED_S = 0.2
"""Freeze, checkpoint of everything but memory, restore, two durable records: measured with one process, own network."""
STOP_S, START_S = 2.0, 2.0
"""What stopping and starting a VE is assumed to take; nothing of it can be measured before it is done."""
LIVE_LIMIT_S = 10.0
STOP_COPY_LIMIT_S, LIMIT_PER_PREDICTED = 60.0, 3.0
PAYS_FROM = 0.10
"""A round pays if it takes at least this share off the prediction."""
MEASURABLE_BYTES = 32 << 20
"""A round that moved less than this says more about the files it looked at than about the line."""
SMALL_BYTES = 1 << 20
"""A pass over the files that found no more than this is as short as a pass can be."""


class Verdict(StrEnum):
    """What comes after a round."""

    AGAIN = "again"
    READY = "ready"
    """The predicted blackout is inside the budget."""
    OVER_BUDGET = "over-budget"
    """It is not, and more rounds will not help."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the blackout would take if it began now."""

    blackout_s: float
    rest_bytes: int
    bandwidth_bytes_per_s: float
    parts_s: dict[str, float]


def limit_s(mode: Mode, prediction: Prediction | None) -> float:
    """After so long the hosts undo a blackout by themselves, if the operator did not say when: a live one is over in a second
    or not at all; a VE that is stopped and started takes what its services take."""
    if mode is Mode.LIVE:
        return LIVE_LIMIT_S
    return STOP_COPY_LIMIT_S + LIMIT_PER_PREDICTED * (prediction.blackout_s if prediction is not None else 0.0)


def bandwidth(rounds: Sequence[Copied], assumed_bytes_per_s: float) -> float:
    """The best rate seen so far; what was assumed as long as nothing of size has moved."""
    rates = [
        moved / took
        for each in rounds
        for moved, took in ((each.file_bytes, each.file_s), (each.memory_bytes, each.memory_s))
        if moved > MEASURABLE_BYTES and took > 0
    ]
    return max(rates, default=assumed_bytes_per_s)


def predict(
    rounds: Sequence[Copied], memory_bytes: int, assumed_bytes_per_s: float, mode: Mode = Mode.LIVE
) -> Prediction:
    """The blackout as it looks after these rounds, for a VE with this much memory; of a stop/copy: stop, last pass, start."""
    rate = bandwidth(rounds, assumed_bytes_per_s)
    last = rounds[-1] if rounds else None
    if last is None or last.memory_method is MemoryMethod.DUMP:
        rest = memory_bytes
    elif last.dirty_bytes_per_s < 0:
        rest = min(memory_bytes, last.memory_bytes)
    else:
        rest = min(memory_bytes, int(last.dirty_bytes_per_s * max(last.since_memory_s, FIXED_S)))
    if mode is Mode.STOP_COPY:
        files_s = last.file_s if last is not None else FIXED_S
        return Prediction(STOP_S + files_s + START_S, 0, rate, {"stop": STOP_S, "files": files_s, "start": START_S})
    memory_s = rest / rate
    # Files are copied beside the checkpoint; a pass that finds little takes about as long as the last one did.
    files_s = last.file_s if last is not None and last.file_bytes < SMALL_BYTES else FIXED_S
    parts = {"fixed": FIXED_S, "memory": memory_s, "files": files_s}
    return Prediction(FIXED_S + max(memory_s, files_s - FIXED_S), rest, rate, parts)


def decide(
    rounds: Sequence[Copied],
    memory_bytes: int,
    budget_s: float,
    rounds_max: int,
    assumed_bytes_per_s: float,
    mode: Mode = Mode.LIVE,
) -> tuple[Verdict, Prediction]:
    """What comes after these rounds. Where the line broke, those before count for nothing but `rounds_max`."""
    made, rounds = len(rounds), _since_the_line_broke(rounds)
    now = predict(rounds, memory_bytes, assumed_bytes_per_s, mode)
    if len(rounds) >= 2 and now.blackout_s <= budget_s:
        return Verdict.READY, now
    if len(rounds) < 2 and made < max(2, rounds_max):
        return Verdict.AGAIN, now  # the first brought everything; what the VE changes meanwhile is known after a second
    before = predict(rounds[:-1], memory_bytes, assumed_bytes_per_s, mode)
    gain = before.blackout_s - now.blackout_s
    if made >= rounds_max or gain < PAYS_FROM * before.blackout_s:
        return Verdict.OVER_BUDGET, now
    return Verdict.AGAIN, now


def _since_the_line_broke(rounds: Sequence[Copied]) -> Sequence[Copied]:
    began = max((index for index, each in enumerate(rounds) if each.anew), default=0)
    return rounds[began:]
