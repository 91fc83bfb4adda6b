"""`migrator simulate`: the protocol in a made-up world where everything goes wrong, by seeds."""

import json
import time

import click

from migrator.core.phases import Phase
from migrator.sim.faults import Kind
from migrator.sim.runs import Outcome, play
from migrator.sim.tally import Tally

SHOWN_MAX = 10
BREACH = 1


@click.command()
@click.option("--seeds", default=1000, show_default=True, type=click.IntRange(min=1), help="How many runs.")
@click.option("--first-seed", default=0, show_default=True, type=click.IntRange(min=0), help="The first one's seed.")
@click.option("--trace", is_flag=True, help="Print every step of the run; with --seeds 1.")
@click.option("--json", "as_json", is_flag=True, help="The counts as JSON.")
@click.pass_context
def simulate(context: click.Context, seeds: int, first_seed: int, trace: bool, as_json: bool) -> None:
    """Move a made-up VE again and again while messages are lost and everything dies, and check the rule of one copy.

    Needs no host. Every run is made by its seed: the line printed for a breach repeats it, step by step. Exit status 1
    if a run broke a promise.
    """
    if trace and seeds == 1:
        outcome = play(first_seed, trace=True)
        click.echo("\n".join(outcome.trace or ()))
    found, began_s = Tally(), time.monotonic()
    for seed in range(first_seed, first_seed + seeds):
        outcome = play(seed)
        found.add(outcome)
        if outcome.breach is not None and len(found.breaches) <= SHOWN_MAX:
            click.echo(in_words(outcome), err=True)
    took_s = time.monotonic() - began_s
    click.echo(json.dumps(plain(found, took_s), indent=2) if as_json else table(found, took_s))
    if found.breaches:
        context.exit(BREACH)


def in_words(outcome: Outcome) -> str:
    """A breach, with the line that repeats it."""
    plan = "; ".join(fault.words() for fault in outcome.plan) or "no fault"
    again = f"migrator simulate --seeds 1 --first-seed {outcome.seed} --trace"
    return f"BREACH  {outcome.breach}\n  plan: {plan}\n  {again}"


def plain(found: Tally, took_s: float) -> dict[str, object]:
    """For programs."""
    return {
        "runs": found.runs,
        "steps": found.steps,
        "took_s": round(took_s, 3),
        "phases": {str(phase): found.phases[phase] for phase in Phase},
        "faults": {str(kind): found.faults[kind] for kind in Kind},
        "orders": dict(sorted(found.orders.items())),
        "claims": dict(sorted(found.claims.items())),
        "ends": dict(sorted(found.ends.items())),
        "fences": found.fences,
        "controllers": found.controllers,
        "breaches": [
            {"seed": each.seed, "promise": each.breach.name, "detail": each.breach.detail}
            for each in found.breaches
            if each.breach is not None
        ],
    }


def table(found: Tally, took_s: float) -> str:
    """For a person: what was reached, how often, and what came of it."""
    lines = [f"{found.runs} runs, {found.steps} steps, {took_s:.1f} s", ""]
    columns: tuple[tuple[str, list[tuple[str, int]]], ...] = (
        ("PHASE (runs)", [(str(phase), found.phases[phase]) for phase in Phase]),
        ("FAULT (times)", [*((str(kind), found.faults[kind]) for kind in Kind), ("fence", found.fences)]),
        ("ORDER (times)", sorted(found.orders.items())),
        ("SOURCE/TARGET (runs)", sorted(found.claims.items())),
    )
    blocks = [_block(title, rows) for title, rows in columns]
    for at in range(max(len(block) for block in blocks)):
        lines.append("   ".join(block[at] if at < len(block) else " " * len(block[0]) for block in blocks).rstrip())
    ends = ", ".join(f"{end} {count}" for end, count in sorted(found.ends.items()))
    return "\n".join([*lines, "", f"ends: {ends}", f"{found.runs} runs, {len(found.breaches)} breaches"])


def _block(title: str, rows: list[tuple[str, int]]) -> list[str]:
    width = max(len(title), *(len(name) + 8 for name, _ in rows))
    return [title.ljust(width), *(f"{name:<{width - 8}}{count:>8}" for name, count in rows)]
