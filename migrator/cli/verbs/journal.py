"""`migrator status`, `show`, `history`: what the journal knows, and `abort`, `resume`, `recover`, `fence`."""

import getpass
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import click
import trio

from migrator.app.driver import Driver
from migrator.cli import frame, interrupts, names, render
from migrator.cli.exits import Exit
from migrator.cli.frame import Failure, json_option, say, say_json
from migrator.cli.progress import Bars, PlainLines
from migrator.cli.verbs.migrate import show_outcomes
from migrator.core import report as reports
from migrator.core.report import Report
from migrator.core.story import Story
from migrator.core.vocabulary import AbortRequested, Event, Fenced, MigrationRequest, Replied, Role
from migrator.ports.journal import Entry, LeaseLost
from migrator.wire.faults import Fault, FaultError
from migrator.wire.messages import Ask, Stands
from migrator.wiring import Controller, Places

ASK_LIMIT_S = 10.0


@click.command()
@json_option
@click.pass_obj
def status(places: Places, as_json: bool) -> None:
    """Every migration that has not ended: where its VE is, what it waits for, and the next safe command."""

    async def work(made: Controller) -> list[tuple[Entry, dict[str, str]]]:
        entries = await trio.to_thread.run_sync(made.journal.unfinished)
        return [(entry, await _standing(made, entry.request)) for entry in entries]

    found = frame.run(places, work)
    if as_json:
        say_json([{"report": _report(entry), "hosts": hosts, **_driven(entry)} for entry, hosts in found])
        return
    if not found:
        say("no migration is unfinished")
    for entry, hosts in found:
        report = _report(entry)
        say(f"migration {report.migration}: {report.ve} from {report.source} to {report.target}: {report.phase}")
        for host, said in hosts.items():
            say(f"  {host}: {said}")
        if report.fault is not None:
            say(f"  why: {report.fault.sentence()}")
        say(f"  {_driver_line(entry)}")
        if command := (
            report.next_command if entry.leased_until_unix_s > time.time() else f"migrator recover {report.migration}"
        ):
            say(f"  next: {command}")


async def _standing(made: Controller, request: MigrationRequest) -> dict[str, str]:
    found: dict[str, str] = {request.source: "", request.target: ""}

    async def ask(name: str, ve: str) -> None:
        host = made.inventory.find(name)
        if host is None:
            found[name] = "is not in the inventory"
            return
        reply = await made.link(host).ask(Ask(ve), ASK_LIMIT_S)
        match reply:
            case Stands(standing=standing):
                found[name] = f"{ve} is {standing.state} here, record says {standing.record.claim}"
            case Fault():
                found[name] = reply.message

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, request.source, request.ve)
        nursery.start_soon(ask, request.target, request.target_ve)
    return found


def _story(entry: Entry) -> Story:
    return Story.replay(entry.request, entry.began_unix_s, entry.events)


def _report(entry: Entry) -> Report:
    """One that ended before it began (a host could not even be asked) has no event that says so."""
    found = reports.of(_story(entry))
    if not entry.ended or found.phase == entry.ended:
        return found
    where = f"{found.ve} is on {found.source}, untouched: a host could not be asked"
    return replace(found, phase=entry.ended, outcome=where)


def _driven(entry: Entry) -> dict[str, object]:
    alive = entry.leased_until_unix_s > time.time()
    return {"driven_by": entry.holder if alive else "", "last_driven_by": entry.holder}


def _driver_line(entry: Entry) -> str:
    alive = entry.leased_until_unix_s > time.time()
    return f"driven by {entry.holder}" if alive else f"driven by nobody; last by {entry.holder}"


@click.command()
@click.argument("migration")
@click.option("--story", is_flag=True, help="Every event, too.")
@json_option
@click.pass_obj
def show(places: Places, migration: str, story: bool, as_json: bool) -> None:
    """The report of a migration."""
    entry = frame.run(places, partial(_read, migration=migration))
    if as_json:
        say_json({"report": _report(entry), **({"events": entry.events} if story else {})})
        return
    say(render.report(_report(entry)))
    for event in entry.events if story else ():
        say(f"  {render.when(event.at_unix_s)} {type(event).__name__} {_short(event)}")


def _short(event: Event) -> str:
    match event:
        case Replied(role=role, reply=Fault() as fault):
            return f"{role}: {fault.sentence()}"
        case Replied(role=role, reply=reply):
            return f"{role}: {type(reply).__name__}"
        case _:
            return ""


async def _read(made: Controller, migration: str) -> Entry:
    entry = await trio.to_thread.run_sync(made.journal.read, migration)
    if entry is None:
        raise Failure(
            f"the journal {made.places.journal_shown} has no migration {migration!r}; see: migrator history",
            Exit.NOT_FOUND,
        )
    return entry


@click.command()
@click.option("--ve", type=names.VE_OR_NONE, default="", help="Of one VE only.")
@click.option("--limit", type=click.IntRange(1, 10000), default=20, show_default=True, help="How many.")
@json_option
@click.pass_obj
def history(places: Places, ve: str, limit: int, as_json: bool) -> None:
    """The latest migrations."""

    async def work(made: Controller) -> Sequence[Entry]:
        return await trio.to_thread.run_sync(made.journal.history, limit, ve)

    found = [_report(entry) for entry in frame.run(places, work)]
    if as_json:
        say_json(found)
        return
    rows = [
        (
            each.migration,
            render.when(each.began_unix_s),
            each.ve,
            f"{each.source} -> {each.target}",
            each.mode,
            each.phase,
            f"{each.blackout.blackout_ms:.0f} ms" if each.blackout else "-",
            render.duration(each.total_s),
        )
        for each in found
    ]
    say(render.table(rows, ("MIGRATION", "BEGAN", "VE", "WAY", "MODE", "ENDED", "BLACKOUT", "TOTAL")))


@click.command()
@click.argument("migration")
@json_option
@click.pass_obj
def abort(places: Places, migration: str, as_json: bool) -> None:
    """Undo a migration. Possible until the VE has been given to the target; after that it says so."""
    who = getpass.getuser()

    async def work(made: Controller) -> str | None:
        entry = await _read(made, migration)
        if entry.ended:
            raise Failure(f"migration {migration} has ended already: {entry.ended}", Exit.REFUSED)
        if (refused := _story(entry).machine.abort_refused) is not None:
            raise Failure(render.fault(refused), Exit.REFUSED)
        if entry.leased_until_unix_s > time.time():
            await trio.to_thread.run_sync(made.journal.wish, migration, who, time.time())
            return entry.holder
        return None

    holder = frame.run(places, work)
    if holder:
        say(f"{holder} drives migration {migration} and has been asked to abort it. Next: migrator show {migration}")
        return
    take_up(places, [migration], as_json, lambda _: [AbortRequested(time.time(), who)])


@click.command()
@click.argument("migration")
@json_option
@click.pass_obj
def resume(places: Places, migration: str, as_json: bool) -> None:
    """Go on with one migration that nobody drives: ask both hosts, then finish or undo it."""
    take_up(places, [migration], as_json, lambda _: [])


@click.command()
@click.argument("migrations", nargs=-1)
@json_option
@click.pass_obj
def recover(places: Places, migrations: Sequence[str], as_json: bool) -> None:
    """Bring every unfinished migration to its end, or those that are named: ask the hosts, then finish or undo."""
    take_up(places, migrations, as_json, lambda _: [])


@click.command()
@click.argument("host")
@click.option("--why", required=True, help="How you know that it is off; kept in the journal.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def fence(places: Places, host: str, why: str, yes: bool, as_json: bool) -> None:
    """Your word that HOST is off, and stays off until `migrator recover` has seen it again.

    Only then is a VE that was given to it taken back, or one that was leaving it run from the image the target
    holds. If HOST is not off, the VE runs twice.
    """
    if not yes:
        click.confirm(f"Is {host} certainly off? If it is not, its VEs may run twice", abort=True)
    who = getpass.getuser()

    def said(request: MigrationRequest) -> list[Event]:
        role = Role.SOURCE if request.source == host else Role.TARGET
        return [Fenced(time.time(), role, who, why)]

    take_up(places, (), as_json, said, of_host=host)


def take_up(
    places: Places,
    wanted: Sequence[str],
    as_json: bool,
    first: Callable[[MigrationRequest], list[Event]],
    of_host: str = "",
) -> None:
    """Take unfinished migrations over and drive them; with `of_host` those of one host. Ctrl-C leaves them at once."""
    outcomes: list[tuple[MigrationRequest, Story | FaultError]] = []
    driven: list[str] = []
    others: list[str] = []
    """Migrations that another controller drives."""
    display = Bars() if frame.terminal() else PlainLines()

    async def one(made: Controller, entry: Entry) -> None:
        around = made.surroundings([display, *frame.listeners(made)], patience_s=5.0)
        try:
            driver = await Driver.take_up(entry.request.migration, around)
        except LeaseLost as lost:
            click.echo(f"{lost}; left to it", err=True)
            others.append(entry.request.migration)
            return
        driven.append(entry.request.migration)
        outcomes.append((entry.request, await driver.resume(*first(entry.request))))
        driven.remove(entry.request.migration)

    async def work(made: Controller) -> None:
        if wanted:
            entries = [await _read(made, migration) for migration in wanted]
            for entry in entries:
                if entry.ended:
                    raise Failure(f"migration {entry.request.migration} has ended already: {entry.ended}", Exit.REFUSED)
        else:
            entries = list(await trio.to_thread.run_sync(made.journal.unfinished))
        if of_host:
            frame.find_host(made, of_host)
            entries = [each for each in entries if of_host in (each.request.source, each.request.target)]

        async def all_of_them() -> None:
            async with trio.open_nursery() as nursery:
                for entry in entries:
                    nursery.start_soon(one, made, entry)

        await interrupts.carry_out(all_of_them, lambda: driven)

    try:
        frame.run(places, work)
    finally:
        display.close()
    if others and not outcomes:
        again = f"migrator recover {' '.join(others)}"
        said = f"nothing was done: another controller drives {', '.join(others)}"
        raise Failure(f"{said}; if it is dead, its hold ends within 20 s. Next: {again}", Exit.BLOCKED)
    if not outcomes:
        say("no migration is unfinished" + (f" on {of_host}" if of_host else "") if not as_json else "[]")
        return
    show_outcomes(outcomes, as_json)
