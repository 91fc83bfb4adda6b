"""What every verb shares: the controller it works with, JSON or text, and failures as one paragraph and an exit status."""

import dataclasses
import json
import sys
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any, NoReturn, TypeVar

import click
import sqlalchemy.exc
import trio

from migrator.adapters.journal import JournalError
from migrator.adapters.settings import SettingsError
from migrator.cli import exits, render
from migrator.cli.exits import Exit
from migrator.core.inventory import Host
from migrator.ports.journal import LeaseLost
from migrator.ports.observer import Observer
from migrator.wire.faults import FaultError
from migrator.wiring import Controller, Places, controller

Verb = TypeVar("Verb", bound=Callable[..., Any])


class Failure(click.ClickException):
    """Ends the program with a paragraph on standard error and its own exit status."""

    def __init__(self, message: str, status: Exit) -> None:
        super().__init__(message)
        self.exit_code: int = int(status)  # type: ignore[misc]  # click reads it off the instance


def json_option(verb: Verb) -> Verb:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(verb)


def run(places: Places, work: Callable[[Controller], Awaitable[Any]]) -> Any:
    """Run a verb's work with a controller; everything that can be expected becomes a Failure."""
    try:
        with controller(places) as made:
            return trio.run(work, made)
    except* KeyboardInterrupt:
        raise Failure("interrupted. Next: migrator status", Exit.DETACHED) from None
    except* FaultError as group:
        _end_fault(_first(group))
    except* SettingsError as group:
        raise Failure(str(_first(group)), Exit.SETTINGS) from None
    except* LeaseLost as group:
        lost = _first(group)
        raise Failure(f"{lost}; it is not touched from here. Next: migrator status", Exit.BLOCKED) from None
    except* (JournalError, sqlalchemy.exc.SQLAlchemyError) as group:
        reason = str(_first(group)).splitlines()[0]
        raise Failure(f"the journal {places.journal_shown} cannot be used: {reason}", Exit.SETTINGS) from None


def _end_fault(error: Any) -> NoReturn:
    found = error.fault
    raise Failure(render.fault(found), exits.of_fault(found.code)) from None


def _first(group: BaseExceptionGroup[Any]) -> Any:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def find_host(made: Controller, name: str) -> Host:
    """A host of the inventory. Raises Failure."""
    host = made.inventory.find(name)
    if host is None:
        raise Failure(f"no host {name!r} in {made.places.inventory}; it has: {made.inventory.names}", Exit.NOT_FOUND)
    return host


def listeners(made: Controller, port: int | None = None, address: str = "") -> list[Observer]:
    """The log, and the metrics if a port is given; to be called before anything is changed. Raises Failure."""
    try:
        return made.observers(port, address)
    except OSError as error:
        where = error.filename or f"metrics at {address}:{port}"
        raise Failure(f"{where}: {error.strerror or error}; nothing was changed", Exit.REFUSED) from None


def say(text: str) -> None:
    """To standard output."""
    click.echo(text)


def say_json(value: Any) -> None:
    """A value as JSON on standard output; keys are the fields' names."""
    click.echo(json.dumps(plain(value), indent=1, sort_keys=False))


def plain(value: Any) -> Any:
    """Any of our values as what JSON knows; bytes (a VE's configuration) are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ((each.name, getattr(value, each.name)) for each in dataclasses.fields(value))
        return {name: plain(field) for name, field in fields if not isinstance(field, bytes)}
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value.value if isinstance(value, Enum) else value


def terminal() -> bool:
    """Whether a person watches."""
    return sys.stderr.isatty()
