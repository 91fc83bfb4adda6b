"""PURE but for `read`. The scenario format: TOML to values; all that is wrong with a file is said at once, with its step.

Rule: a step has exactly one key that says what it is (`type`, `write`, `connect`, `migrator`, or a check); every other
key belongs to that one, and a key that does not is an error, so that a slip never becomes a check that checks nothing.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from scenarios.lab import topology
from scenarios.lab.topology import HostSpec, TopologyError
from scenarios.runner.steps import (
    KINDS,
    SPELLED,
    WORDS,
    AnyStep,
    AsRemembered,
    Connect,
    Connection,
    Remember,
    Scenario,
)

TOOLS = frozenset({"openvz", "openvz-ordinary", "vserver"})
"""Roles of a host for which the lab has tools to install; see `scenarios.runner.stage`."""
NAME = re.compile(r"[a-z][a-z0-9]*")
ADDRESS_NUMBERS = range(100, 250)


class ScenarioError(ValueError):
    """What is wrong with a scenario file, one line each."""

    def __init__(self, path: Path, problems: list[str]) -> None:
        super().__init__("\n".join(f"{path}: {each}" for each in problems))


def read(path: Path) -> Scenario:
    """A scenario file. Raises ScenarioError with everything that is wrong, OSError when it cannot be read."""
    try:
        plain = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ScenarioError(path, [str(error)]) from error
    problems: list[str] = []
    hosts = _hosts(plain.pop("host", []), problems)
    addresses = _addresses(plain.pop("addresses", {}), {host.name for host in hosts}, problems)
    steps = _steps(plain.pop("step", []), {host.name for host in hosts}, problems)
    title, about = plain.pop("title", ""), plain.pop("about", "")
    if not title:
        problems.append("title is missing")
    problems += [f"unknown {key!r}; known are title, about, host, addresses, step" for key in plain]
    if problems:
        raise ScenarioError(path, problems)
    return Scenario(path.stem, title, about.strip(), hosts, addresses, steps)


def _hosts(plain: Any, problems: list[str]) -> tuple[HostSpec, ...]:
    hosts = []
    for entry in plain if isinstance(plain, list) else []:
        try:
            host = topology.from_plain_host(entry)
        except (TopologyError, TypeError) as error:
            problems.append(str(error))
            continue
        if unknown := sorted(set(host.roles) - TOOLS):
            problems.append(f"host {host.name!r}: unknown roles {unknown}; known are {sorted(TOOLS)}")
        hosts.append(host)
    if not hosts:
        problems.append("there is no host: write [[host]] with a name")
    return tuple(hosts)


def _addresses(plain: Any, hosts: set[str], problems: list[str]) -> dict[str, int]:
    found = {}
    for name, number in plain.items() if isinstance(plain, dict) else ():
        if not NAME.fullmatch(name) or name in hosts:
            problems.append(f"addresses: {name!r}: wanted small letters and digits, and no host's name")
        elif type(number) is not int or number not in ADDRESS_NUMBERS:
            problems.append(f"addresses: {name} = {number!r}: wanted a number from 100 to 249")
        else:
            found[name] = number
    return found


def _steps(plain: Any, hosts: set[str], problems: list[str]) -> tuple[AnyStep, ...]:
    steps: list[AnyStep] = []
    clients: set[str] = set()
    remembered: set[str] = set()
    for number, table in enumerate(plain if isinstance(plain, list) else [], 1):
        step, wrong = _step(table, hosts)
        match step:
            case Connect(client=name):
                clients.add(name)
            case Remember(remember=name):
                remembered.add(name)
            case Connection(client=name) if name not in clients:
                wrong.append(f"client {name!r} has not connected before")
            case AsRemembered(as_remembered=name) if name not in remembered:
                wrong.append(f"host {name!r} has not been remembered before")
        problems += [f"step {number}: {each}" for each in wrong]
        if step is not None:
            steps.append(step)
    if not steps and not problems:
        problems.append("there is no step: write [[step]]")
    return tuple(steps)


def _step(table: Mapping[str, Any], hosts: set[str]) -> tuple[AnyStep | None, list[str]]:
    """A step, or None with all that is wrong with its table."""
    named = [key for key in KINDS if key in table]
    if len(named) != 1:
        return None, [f"wanted one of {', '.join(KINDS)}; it has {', '.join(named) or 'none'}"]
    kind = KINDS[named[0]]
    known = {each.name: each for each in fields(kind)}
    values: dict[str, Any] = {}
    wrong = []
    for key, value in table.items():
        field = known.get(SPELLED.get(key, key))
        if field is None or key in SPELLED.values():
            wrong.append(f"{named[0]}: unknown {key!r}; known are {', '.join(_spelled(each) for each in known)}")
        elif (fit := _fitting(value, field.type)) is None:
            wrong.append(f"{named[0]}: {key} = {value!r} is not of the kind that is wanted here")
        else:
            values[field.name] = fit
    missing = [name for name, each in known.items() if each.default is MISSING and name not in table]
    wrong += [f"{named[0]}: {name} is missing" for name in missing] + _wrong_words(values, hosts)
    return (None, wrong) if wrong else (kind(**values), [])


def _spelled(name: str) -> str:
    return next((key for key, value in SPELLED.items() if value == name), name)


def _fitting(value: Any, wanted: Any) -> Any:
    """The value as the field has it; None: it does not fit."""
    if wanted == tuple[str, ...]:
        words = [value] if isinstance(value, str) else value
        return tuple(words) if isinstance(words, list) and all(isinstance(each, str) for each in words) else None
    if wanted in (float, float | None):
        return float(value) if type(value) in (int, float) else None
    kind = str if wanted == str | None else wanted
    return value if type(value) is kind else None


def _wrong_words(values: Mapping[str, Any], hosts: set[str]) -> list[str]:
    wrong = [
        f"{key} = {values[key]!r}: wanted {' or '.join(words)}"
        for key, words in WORDS.items()
        if key in values and values[key] not in words
    ]
    named = [values[key] for key in ("host", "remember", "as_remembered") if key in values]
    return wrong + [f"there is no host {name!r}" for name in named if name not in hosts]
