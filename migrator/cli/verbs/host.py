"""`migrator host`: the machines of the fleet."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import click
import trio

from migrator.adapters import settings
from migrator.app import hosts
from migrator.app.hosts import HostState
from migrator.cli import frame, render
from migrator.cli.exits import Exit
from migrator.cli.frame import Failure, json_option, say, say_json
from migrator.core.inventory import Host
from migrator.wire.faults import Fault, FaultError
from migrator.wiring import Controller, Places


@click.group()
def host() -> None:
    """The machines of the fleet."""


@host.command()
@click.argument("name")
@click.argument("address", required=False)
@click.option("--port", type=click.IntRange(1, 65535), help="SSH port.  [default: 22]")
@click.option("--user", help="SSH user; must be root or become it at login.  [default: root]")
@click.option("--identity-file", type=click.Path(path_type=Path), help="Private key.  [default: your SSH agent's]")
@click.option("--known-hosts", type=click.Path(path_type=Path), help="File with the host's key.  [default: your own]")
@json_option
@click.pass_obj
def add(places: Places, /, name: str, address: str | None, as_json: bool, **given: object) -> None:
    """Check SSH, bring the agent to ADDRESS, start it, and note the host as NAME in the inventory.

    The host needs Python 3.11 or newer and nothing else. Its SSH key must be known already (ssh-keyscan, or one
    ssh to it). Again for a host that is in the inventory (ADDRESS may be left out): brings its agent up to date.
    """
    if not settings.NAME.fullmatch(name):
        raise Failure(f"{name!r} is no name for a host: letters, digits, '.', '_', '-'", Exit.USAGE)

    async def work(made: Controller) -> HostState:
        wanted = _wanted(made, name, address, given)
        link = made.link(wanted)
        program = await trio.to_thread.run_sync(made.program)
        state = await hosts.add(name, link, link, program, time.time)
        if not places.inventory.exists() or made.inventory.find(name) != wanted:
            settings.add(places.inventory, wanted)
        return state

    _show(name, frame.run(places, work), as_json)


def _wanted(made: Controller, name: str, address: str | None, given: dict[str, object]) -> Host:
    known = made.inventory.find(name) if made.places.inventory.exists() else None
    if known is None and address is None:
        raise Failure(f"host {name!r} is not in the inventory: give its ADDRESS", Exit.USAGE)
    base = known or Host(name, address or "")
    changes = {key: str(each) if isinstance(each, Path) else each for key, each in given.items() if each is not None}
    if address is not None:
        changes["address"] = address
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]  # click has checked the types


@host.command("list")
@json_option
@click.pass_obj
def list_(places: Places, as_json: bool) -> None:
    """All hosts of the inventory, and whether their agents answer."""

    async def work(made: Controller) -> dict[str, HostState | Fault]:
        return await ask_all(made, made.inventory.hosts)

    found = frame.run(places, work)
    if as_json:
        say_json([{"name": name, **_plain_state(state)} for name, state in found.items()])
        return
    rows = []
    for name, state in found.items():
        if isinstance(state, Fault):
            rows.append((name, "no answer", "-", "-", state.message.splitlines()[0][:70]))
        else:
            problems = render.shortcomings(state.facts, state.clock_skew_s)
            word = "ready" if state.facts.engines else "no engine"
            rows.append(
                (name, word, str(len(state.ves)), " ".join(state.facts.engines) or "-", "; ".join(problems)[:70])
            )
    say(render.table(rows, ("HOST", "STATE", "VES", "ENGINES", "REMARKS")))


@host.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@json_option
@click.pass_obj
def check(places: Places, names: Sequence[str], as_json: bool) -> None:
    """What hosts can do, what they lack, and how to get it; all hosts when none is named.

    Ends with 3 when something is missing, with 6 when a host does not answer.
    """

    async def work(made: Controller) -> dict[str, HostState | Fault]:
        wanted = [frame.find_host(made, name) for name in names] or made.inventory.hosts
        return await ask_all(made, wanted)

    found = frame.run(places, work)
    if as_json:
        say_json([{"name": name, **_plain_state(state)} for name, state in found.items()])
    for name, state in found.items() if not as_json else ():
        silent = isinstance(state, Fault)
        say(f"{name}: {render.fault(state)}\n  -> migrator host add {name}" if silent else render.host(name, state))
    states = list(found.values())
    if any(isinstance(state, Fault) for state in states):
        raise SystemExit(int(Exit.UNREACHABLE))
    if any(isinstance(state, HostState) and not state.facts.engines for state in states):
        raise SystemExit(int(Exit.REFUSED))


@host.command()
@click.argument("name")
@click.option("--keep-agent", is_flag=True, help="Only forget it here; for a host that is gone.")
@click.pass_obj
def remove(places: Places, name: str, keep_agent: bool) -> None:
    """Take the agent away from a host and the host out of the inventory. VEs are not touched."""

    async def work(made: Controller) -> None:
        link = made.link(frame.find_host(made, name))
        if not keep_agent:
            await hosts.remove(name, link, link, time.time)
        settings.remove(places.inventory, name)

    frame.run(places, work)
    say(f"{name} is no longer a host of the fleet; its VEs run on as before")


async def ask_all(made: Controller, wanted: Sequence[Host]) -> dict[str, HostState | Fault]:
    """What each host says, asked at the same time."""
    found: dict[str, HostState | Fault] = {each.name: Fault for each in wanted}  # type: ignore[misc]  # keeps the order

    async def ask(each: Host) -> None:
        try:
            found[each.name] = await hosts.check(made.link(each), time.time)
        except FaultError as error:
            found[each.name] = error.fault

    async with trio.open_nursery() as nursery:
        for each in wanted:
            nursery.start_soon(ask, each)
    return found


def _plain_state(state: HostState | Fault) -> dict[str, object]:
    if isinstance(state, Fault):
        return {"answers": False, "fault": frame.plain(state)}
    lacks = render.shortcomings(state.facts, state.clock_skew_s)
    return {"answers": True, **frame.plain(state), "shortcomings": lacks}


def _show(name: str, state: HostState, as_json: bool) -> None:
    if as_json:
        say_json({"name": name, **_plain_state(state)})
    else:
        say(render.host(name, state))
