"""`migrator scenario`: acceptance scenarios in a lab on this machine.

Rule: the runner and the lab are the checkout's (`scenarios`), which an installed program need not have; they are loaded
when they are asked for, and nothing else of the program knows them.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from migrator.cli import render
from migrator.cli.exits import Exit
from migrator.cli.frame import Failure, json_option, plain, say, say_json

if TYPE_CHECKING:
    from scenarios.runner.play import Played

FAILED = 1
INTERRUPTED = 130


@click.group()
def scenario() -> None:
    """Acceptance scenarios: VEs deployed in a lab on this machine, moved, and looked at from outside."""


@scenario.command("list")
@json_option
def list_(as_json: bool) -> None:
    """The scenarios that come with the program."""
    play = _runner()
    found = play.catalogue()
    if as_json:
        say_json([{"name": each.name, "title": each.title, "about": each.about} for each in found])
        return
    say(render.table([(each.name, each.title) for each in found], ("SCENARIO", "WHAT IT SHOWS")))


@scenario.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--keep", is_flag=True, help="Leave the lab up afterwards, to look around in it; with one FILE.")
@click.option("--lab", default="", help="Name of the lab.  [default: one of its own; with --keep: scenario]")
@json_option
def run(files: Sequence[str], keep: bool, lab: str, as_json: bool) -> None:
    """Play scenarios: FILE is a TOML file (docs/scenarios.md), or a name that `migrator scenario list` knows.

    Needs root: hosts are made of namespaces on this machine, and taken down again however it ends. Exit status 1 if
    something was not as expected, which is told by what was expected and what was found.
    """
    if keep and len(files) > 1:
        raise Failure("--keep goes with one FILE", Exit.USAGE)
    play = _runner()
    wanted = [_read(play, name) for name in files]
    if os.geteuid() != 0:
        raise Failure("a scenario makes namespaces and mounts: run it as root; nothing was changed", Exit.REFUSED)
    results = [_play(play, each, keep, lab, as_json) for each in wanted]
    if as_json:
        say_json(results[0] if len(results) == 1 else results)
    if not all(each["good"] for each in results):
        raise SystemExit(FAILED)


def _runner() -> Any:
    """The checkout's runner. Raises Failure where there is none."""
    try:
        from scenarios.runner import play
    except ImportError as error:
        reason = f"the scenarios are part of a checkout of migrator, and this program has none ({error})"
        raise Failure(f"{reason}; run it as .venv/bin/migrator there, after make setup", Exit.REFUSED) from None
    return play


def _read(play: Any, name: str) -> Any:
    path = play.find(name)
    try:
        return play.read(path)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}; known by name: migrator scenario list", Exit.NOT_FOUND) from None
    except ValueError as error:
        raise Failure(str(error), Exit.SETTINGS) from None


def _play(play: Any, wanted: Any, keep: bool, lab: str, as_json: bool) -> dict[str, Any]:
    try:
        played: Played = play.play(wanted, _silent if as_json else say, keep=keep, lab=lab)
    except KeyboardInterrupt:
        click.echo("interrupted; the lab is taken down" if not keep else "interrupted; the lab is left up", err=True)
        raise SystemExit(INTERRUPTED) from None
    except (RuntimeError, ValueError) as error:  # whatever the lab says it cannot do
        raise Failure(f"{wanted.name}: {error}", Exit.REFUSED) from None
    steps = [
        {"step": line.number, "say": line.say, "does": line.does, "took_s": line.took_s, **plain(line.outcome)}
        for line in played.lines
    ]
    if not as_json:
        failed = [line.number for line in played.lines if not line.outcome.good]
        how = "as it should be" if played.good else f"NOT as it should be: step {', '.join(map(str, failed))}"
        say(f"{wanted.name}: {len(played.lines)} of {len(wanted.steps)} steps done, {how}\n")
    return {"name": wanted.name, "title": wanted.title, "good": played.good, "lab": played.lab, "steps": steps}


def _silent(_line: str) -> None:
    """For programs only the result is printed."""
