"""`migrator ve`: what runs where."""

import click

from migrator.cli import fleet_view, frame, names, render
from migrator.cli.exits import Exit
from migrator.cli.fleet_view import Found
from migrator.cli.frame import Failure, json_option, say, say_json
from migrator.wire.faults import Fault, FaultError
from migrator.wire.messages import SetPower
from migrator.wiring import Controller, Places

POWER_LIMIT_S = 300.0


@click.group()
def ve() -> None:
    """Virtual environments: what runs where."""


@ve.command("list")
@click.option("--host", "hosts", multiple=True, help="Only of this host; may be given again.")
@json_option
@click.pass_obj
def list_(places: Places, hosts: tuple[str, ...], as_json: bool) -> None:
    """All VEs of all hosts."""
    found: Found = frame.run(places, lambda made: fleet_view.look(made, hosts))
    if as_json:
        say_json({"ves": [{"host": host, **frame.plain(each)} for host, each in found.ves], "silent": found.silent})
    else:
        say(render.ves(found.ves))
    _end_silent(found)


@ve.command()
@click.argument("name", metavar="VE", type=names.VE)
@json_option
@click.pass_obj
def show(places: Places, name: str, as_json: bool) -> None:
    """Everything about one VE, on every host that has it."""
    found: Found = frame.run(places, fleet_view.look)
    here = [(host, each) for host, each in found.ves if each.ve == name]
    if not here:
        fleet_view.source_of(found, name, "")
    if as_json:
        say_json([{"host": host, **frame.plain(each)} for host, each in here])
    else:
        say("\n".join(render.ve(host, each) for host, each in here))
    _end_silent(found)


def _end_silent(found: Found) -> None:
    if found.silent:
        said = "\n".join(f"{host}: {fault.message}" for host, fault in found.silent.items())
        raise Failure(f"not all hosts answered:\n{said}", Exit.UNREACHABLE)


@ve.command()
@click.argument("name", metavar="VE", type=names.VE)
@click.option("--on", "host", default="", help="Host; needed when several have it.")
@click.pass_obj
def start(places: Places, name: str, host: str) -> None:
    """Start a VE that no migration holds."""
    _power(places, name, host, on=True)


@ve.command()
@click.argument("name", metavar="VE", type=names.VE)
@click.option("--on", "host", default="", help="Host; needed when several have it.")
@click.pass_obj
def stop(places: Places, name: str, host: str) -> None:
    """Stop a VE that no migration holds."""
    _power(places, name, host, on=False)


def _power(places: Places, name: str, host: str, *, on: bool) -> None:
    async def work(made: Controller) -> str:
        where = fleet_view.source_of(await fleet_view.look(made), name, host)
        link = made.link(frame.find_host(made, where))
        reply = await link.ask(SetPower(name, on), POWER_LIMIT_S)
        if isinstance(reply, Fault):
            raise FaultError(reply)
        return where

    where = frame.run(places, work)
    say(f"{name} is {'running' if on else 'stopped'} on {where}")
