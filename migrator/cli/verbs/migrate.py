"""`migrator plan` and `migrator migrate`."""

import getpass
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

import click
import trio

from migrator.app.driver import inspect
from migrator.app.fleet import Fleet
from migrator.cli import exits, fleet_view, frame, interrupts, names, render
from migrator.cli.exits import Exit
from migrator.cli.frame import Failure, json_option, say, say_json
from migrator.cli.progress import Bars, PlainLines
from migrator.core import plan as planning
from migrator.core import report as reports
from migrator.core.phases import STOPPED
from migrator.core.story import Story
from migrator.core.vocabulary import MigrationRequest, OverBudget, Policy
from migrator.ports.observer import Observer
from migrator.wire.facts import MemoryMethod, Mode
from migrator.wire.faults import FaultError
from migrator.wiring import Controller, Places

TIMES = ["%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%H:%M"]
Verb = TypeVar("Verb", bound=Callable[..., Any])


def policy_options(verb: Verb) -> Verb:
    """The options that make a Policy."""
    options = [
        click.option("--from", "source", default="", help="Source host; needed when several have the VE."),
        click.option(
            "--mode",
            type=click.Choice(["auto", "live", "stop-copy"]),
            default="auto",
            show_default=True,
            help="live: checkpoint and restore. stop-copy: stop, copy the rest, start. auto: live where it can be.",
        ),
        click.option(
            "--no-fallback", is_flag=True, help="With auto: refuse rather than stop a VE that cannot be checkpointed."
        ),
        click.option(
            "--budget",
            "budget_ms",
            type=click.FloatRange(1),
            default=500,
            show_default=True,
            help="Blackout budget, ms.",
        ),
        click.option(
            "--over-budget",
            type=click.Choice([each.value for each in OverBudget]),
            default=OverBudget.PROCEED.value,
            show_default=True,
            help="What to do when the predicted blackout stays over the budget. post-copy: the rest of the memory follows when "
            "the VE runs on the target; until it has, the VE needs both hosts (migrator plan says what that risks).",
        ),
        click.option(
            "--rounds", type=click.IntRange(1, 100), default=12, show_default=True, help="Most rounds of copying."
        ),
        click.option(
            "--deadline",
            "limit_s",
            type=click.FloatRange(1),
            default=None,
            help="Seconds after which the hosts undo a blackout by themselves.  [default: 10 live; for stop-copy 60 and three "
            "times what is predicted]",
        ),
        click.option(
            "--bandwidth", "mbit", type=click.FloatRange(0), default=0, help="Mbit/s while it runs; 0: no limit."
        ),
        click.option(
            "--memory",
            type=click.Choice(["auto", *(each.value for each in MemoryMethod)]),
            default="auto",
            show_default=True,
            help="How memory moves live. tracked: ahead, the kernel tells what is written. soft-dirty: ahead, the kernel marks "
            "what is written. content: ahead, compared with what was sent. dump: all in the blackout. auto: the first of these "
            "that can be had.",
        ),
        click.option(
            "--no-compress",
            is_flag=True,
            help="Never compress memory or files on their way; else they are where that is measured to be quicker.",
        ),
        click.option("--waive", "waived", multiple=True, metavar="NAME", help="Go on in spite of this objection."),
        click.option(
            "--new-id", type=names.VE_OR_NONE, default="", help="The VE's id on the target, if it is to be another."
        ),
        click.option(
            "--cutover-at",
            type=click.DateTime(TIMES),
            help="Blackout not before.",
        ),
        click.option("--keep-source", is_flag=True, help="Keep the source's copy, stopped and fenced."),
    ]
    for option in reversed(options):
        verb = option(verb)
    return verb


YEAR_OF_A_TIME = 1900
"""The year that click reads into a time of day."""


def next_time(time_of_day: datetime, now: datetime) -> datetime:
    """When the clock shows that time next: today, or tomorrow when that has passed."""
    today = datetime.combine(now.date(), time_of_day.time(), now.tzinfo)
    return today if today > now else datetime.combine(now.date() + timedelta(days=1), time_of_day.time(), now.tzinfo)


def policy_of(given: dict[str, Any]) -> Policy:
    """A Policy of the options."""
    at: datetime | None = given["cutover_at"]
    if at is not None and at.year == YEAR_OF_A_TIME:
        at = next_time(at, datetime.now().astimezone())
    return Policy(
        None if given["mode"] == "auto" else Mode(given["mode"]),
        not given["no_fallback"],
        given["budget_ms"] / 1000,
        OverBudget(given["over_budget"]),
        given["rounds"],
        given["limit_s"] or 0.0,
        int(given["mbit"] * 125_000),
        tuple(given["waived"]),
        at.astimezone().timestamp() if at is not None else 0.0,
        given["keep_source"],
        None if given["memory"] == "auto" else MemoryMethod(given["memory"]),
        not given["no_compress"],
    )


@click.command()
@click.argument("ve", type=names.VE)
@click.argument("target")
@policy_options
@json_option
@click.pass_obj
def plan(places: Places, /, ve: str, target: str, as_json: bool, **given: Any) -> None:
    """How VE would move to TARGET and what it would cost, or everything that stands against it. Changes nothing."""

    async def work(made: Controller) -> tuple[MigrationRequest, planning.Plan]:
        [request] = await requests(made, [ve], target, given)
        return request, planning.make(request, await inspect(request, made.surroundings()))

    request, found = frame.run(places, work)
    if as_json:
        say_json({"request": request, "plan": found})
    else:
        say(render.plan(request, found))
    if found.refusals:
        raise SystemExit(int(Exit.REFUSED))


@click.command()
@click.argument("ves", nargs=-1, required=True, metavar="VE...", type=names.VE)
@click.argument("target")
@click.option("--parallel", type=click.IntRange(1, 100), default=2, show_default=True, help="So many at a time.")
@click.option("--metrics-port", type=click.IntRange(1, 65535), help="Serve Prometheus metrics here meanwhile.")
@click.option(
    "--metrics-address",
    default="127.0.0.1",
    show_default=True,
    help="Address for --metrics-port. They name hosts and VEs, and whoever reaches the port may read them.",
)
@policy_options
@json_option
@click.pass_obj
def migrate(
    places: Places,
    /,
    ves: Sequence[str],
    target: str,
    parallel: int,
    metrics_port: int | None,
    metrics_address: str,
    as_json: bool,
    **given: Any,
) -> None:
    """Move running VEs to TARGET.

    Ctrl-C asks for an orderly abort: what has not been handed over is undone. A second Ctrl-C leaves; the hosts
    finish or undo what is under way by themselves, and `migrator resume` takes it up again.
    """
    outcomes: list[tuple[MigrationRequest, Story | FaultError]] = []

    async def work(made: Controller) -> None:
        observers = frame.listeners(made, metrics_port, metrics_address)
        wanted = await requests(made, ves, target, given)
        await run_all(made, wanted, parallel, outcomes, observers)

    try:
        frame.run(places, work)
    except Failure as left:
        if outcomes and left.exit_code == Exit.DETACHED:
            tell_outcomes(outcomes, as_json)
        raise
    show_outcomes(outcomes, as_json)


async def requests(made: Controller, ves: Sequence[str], target: str, given: dict[str, Any]) -> list[MigrationRequest]:
    """A request for each VE. Raises Failure."""
    frame.find_host(made, target)
    if given["new_id"] and len(ves) > 1:
        raise Failure("--new-id goes with one VE", Exit.USAGE)
    if len(set(ves)) < len(ves):
        raise Failure("a VE is named twice", Exit.USAGE)
    await _not_under_way(made, ves)
    found = await fleet_view.look(made)
    sources = [fleet_view.source_of(found, ve, given["source"]) for ve in ves]
    if target in found.silent:
        raise Failure(
            f"{target}: {render.fault(found.silent[target])}\n  -> migrator host check {target}", Exit.UNREACHABLE
        )
    policy = policy_of(given)
    return [
        fleet_view.request(made, ve, source, target, policy, given["new_id"])
        for ve, source in zip(ves, sources, strict=True)
    ]


async def _not_under_way(made: Controller, ves: Sequence[str]) -> None:
    """Of each VE at most one migration: a new one of a VE whose last has not ended would only be refused by its hosts.

    Raises Failure, naming the one there is.
    """
    for entry in await trio.to_thread.run_sync(made.journal.unfinished):
        request = entry.request
        if request.ve not in ves and request.target_ve not in ves:
            continue
        what = f"{request.ve} is in migration {request.migration} from {request.source} to {request.target}"
        if entry.leased_until_unix_s > time.time():
            waits = "if that program is dead its hold ends within 20 s, then: migrator resume"
            said = f"{what}, which {entry.holder} drives. Nothing was changed. Next: migrator status ({waits} {request.migration})"
        else:
            said = f"{what}, which nobody drives. Nothing was changed. Next: migrator resume {request.migration}"
        raise Failure(said, Exit.REFUSED)


async def run_all(
    made: Controller,
    wanted: Sequence[MigrationRequest],
    parallel: int,
    outcomes: list[tuple[MigrationRequest, Story | FaultError]],
    others: Sequence[Observer] = (),
) -> None:
    """All of them, with progress, and Ctrl-C as said in `migrate --help`."""
    display = Bars() if frame.terminal() else PlainLines()
    per_host = {host.name: host.parallel for host in made.inventory.hosts}

    def waits(request: MigrationRequest, why: str) -> None:
        click.echo(f"{request.ve}: waits, because {why}", err=True)

    fleet = Fleet(made.surroundings([display, *others]), per_host, parallel, waits)

    def abort() -> None:
        click.echo("aborting: what has not been handed over is undone; once more to leave at once", err=True)
        fleet.abort(f"{getpass.getuser()} (interrupt)")

    async def work() -> None:
        await fleet.run(wanted, lambda request, how: outcomes.append((request, how)))

    try:
        await interrupts.carry_out(work, lambda: list(fleet.drivers), abort)
    finally:
        display.close()


def show_outcomes(outcomes: Sequence[tuple[MigrationRequest, Story | FaultError]], as_json: bool) -> None:
    """Print how it ended; ends the program with the status of the worst."""
    sys.exit(int(tell_outcomes(outcomes, as_json)))


def tell_outcomes(outcomes: Sequence[tuple[MigrationRequest, Story | FaultError]], as_json: bool) -> Exit:
    """Print how it ended; the status of the worst."""
    worst = Exit.DONE
    plain: list[object] = []
    for request, how in outcomes:
        if isinstance(how, FaultError):
            worst = max(worst, exits.of_fault(how.fault.code))
            where = f"{request.ve} is on {request.source}, untouched"
            plain.append({"migration": request.migration, "ve": request.ve, "outcome": where, "fault": how.fault})
            if not as_json:
                click.echo(f"migration {request.migration}: {where}\n  why: {render.fault(how.fault)}", err=True)
            continue
        found = reports.of(how)
        worst = max(worst, exits.of_phase(how.machine.phase))
        plain.append(found)
        if not as_json:
            say(render.report(found))
        if not how.ended and how.machine.phase not in STOPPED:
            where = "another controller drives it now, and it is not touched from here"
            click.echo(f"migration {request.migration}: {where}. Next: migrator status", err=True)
    if as_json:
        say_json(plain[0] if len(plain) == 1 else plain)
    return worst
