"""The inventory file: TOML to values, and single hosts added and removed without touching the rest of the file.

Rule: everything that is wrong with a file is reported at once, each with file and line.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit
from cattrs import Converter, transform_error
from tomlkit.items import AoT

from migrator.core.inventory import Host, Inventory

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_CONVERTER = Converter(forbid_extra_keys=True)


class SettingsError(Exception):
    """What is wrong with a settings file, one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _strict(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{kind.__name__} expected, not {value!r}")
    return value


def _words(value: Any, _: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise TypeError(f"a list of strings expected, not {value!r}")
    return tuple(value)


for _kind in (str, int, bool):
    _CONVERTER.register_structure_hook(_kind, _strict)
_CONVERTER.register_structure_hook_func(lambda kind: kind == tuple[str, ...], _words)


def read(path: Path) -> Inventory:
    """The inventory in a file. Raises SettingsError."""
    try:
        text = path.read_text()
    except OSError as error:
        hint = "; add a first host with: migrator host add NAME ADDRESS" if isinstance(error, FileNotFoundError) else ""
        raise SettingsError([f"{path}: {error.strerror}{hint}"]) from error
    except UnicodeDecodeError as error:
        raise SettingsError([f"{path}: not a text file: {error}"]) from error
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError([f"{path}: {error}"]) from error
    return _structure(path, text, data)


def _structure(path: Path, text: str, data: dict[str, Any]) -> Inventory:
    tables = data.get("host", [])
    problems = [f"{path}:{_top_line(text, key)}: unknown {key!r}; known is: host" for key in data if key != "host"]
    if not isinstance(tables, list):
        raise SettingsError([*problems, f"{path}:{_top_line(text, 'host')}: write [[host]], with two brackets"])
    hosts: list[Host] = []
    for number, table in enumerate(tables):
        host, wrong = _host(table)
        problems += [f"{path}:{_line(text, key, number)}: {what}" for key, what in wrong]
        if host is not None:
            if any(each.name == host.name for each in hosts):
                problems.append(f"{path}:{_line(text, 'name', number)}: a second host {host.name!r}")
            hosts.append(host)
    if problems:
        raise SettingsError(problems)
    return Inventory(tuple(hosts))


def _host(table: Mapping[str, Any]) -> tuple[Host | None, list[tuple[str, str]]]:
    """The host, or (key, what is wrong) of everything that is."""
    try:
        host = _CONVERTER.structure(table, Host)
    except Exception as error:  # cattrs reports by groups of many kinds
        return None, [_readable(line, table) for line in transform_error(error, path="host")]
    wrong = [
        ("name", f"{host.name!r} is no name: letters, digits, '.', '_', '-', a letter or digit first")
        for _ in [0]
        if not NAME.fullmatch(host.name)
    ]
    if not host.address or host.address.startswith("-"):
        wrong.append(("address", f"{host.address!r} is no address"))
    if not 0 < host.port < 65536:
        wrong.append(("port", f"{host.port} is no port (1 to 65535)"))
    if host.parallel < 1:
        wrong.append(("parallel", f"parallel {host.parallel}: at least 1"))
    if host.bandwidth_mbit < 0:
        wrong.append(("bandwidth_mbit", f"bandwidth_mbit {host.bandwidth_mbit}: 0 or more"))
    return (None if wrong else host), wrong


def _readable(line: str, table: Mapping[str, Any]) -> tuple[str, str]:
    """cattrs' words as ours: (key, sentence)."""
    what, _, where = line.partition(" @ host")
    if extra := re.search(r"extra fields found \((.*)\)", what):
        key = extra.group(1).split(",")[0].strip()
        known = ", ".join(Host.__dataclass_fields__)
        return key, f"host {table.get('name', '?')!r}: unknown {extra.group(1)}; known are: {known}"
    key = where.strip(".").split("[")[0] or "name"
    if key not in table:
        return "name", f"host {table.get('name', '?')!r}: {key} is missing"
    reason = what.removeprefix("invalid value for type, ").removeprefix("invalid type, ")
    return key, f"host {table.get('name', '?')!r}: {key} = {table[key]!r}: {reason}"


def _line(text: str, key: str, number: int) -> int:
    """The line of `key` in the table `[[host]]` of that number, counted from 0; the table's own line if it has no such."""
    lines = text.splitlines()
    starts = [at for at, line in enumerate(lines) if re.match(r"\s*\[\[\s*host\s*\]\]", line)]
    if number >= len(starts):
        return _top_line(text, key)
    end = starts[number + 1] if number + 1 < len(starts) else len(lines)
    for at in range(starts[number], end):
        if re.match(rf"\s*\"?{re.escape(key)}\"?\s*[=.]", lines[at]):
            return at + 1
    return starts[number] + 1


def _top_line(text: str, key: str) -> int:
    """The line where `key` stands at the top of the file, as a value or a table."""
    lines = enumerate(text.splitlines(), 1)
    return next((at for at, line in lines if re.match(rf"\s*\[*\s*\"?{re.escape(key)}\b", line)), 1)


def add(path: Path, host: Host) -> None:
    """Add a host, or replace the one of its name; everything else in the file stays as it is."""
    document = tomlkit.parse(path.read_text()) if path.exists() else tomlkit.document()
    tables = document.setdefault("host", tomlkit.aot())
    assert isinstance(tables, AoT)
    table = tomlkit.table()
    defaults = Host("", "")
    for key in Host.__dataclass_fields__:
        value = getattr(host, key)
        if value != getattr(defaults, key):
            table.add(key, list(value) if isinstance(value, tuple) else value)
    at = next((at for at, each in enumerate(tables) if each.get("name") == host.name), None)
    if at is None:
        tables.append(table)
    else:
        tables[at] = table
    _write(path, tomlkit.dumps(document))


def remove(path: Path, name: str) -> None:
    """Remove the host of that name, if it is there."""
    document = tomlkit.parse(path.read_text())
    tables = document.get("host")
    if isinstance(tables, AoT):
        for at in [at for at, each in enumerate(tables) if each.get("name") == name]:
            del tables[at]
        if not tables:
            del document["host"]
    _write(path, tomlkit.dumps(document))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text)
    fresh.replace(path)
