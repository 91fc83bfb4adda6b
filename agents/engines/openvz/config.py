"""PURE. vzctl's config files as data: `KEY="value"` a line, read and rewritten without touching anything else.

Rule: never sourced as shell, although some tools do so: `$(...)` is text here. Whatever is not changed keeps every byte:
comments, order, blanks, unknown keys, later duplicates (which vzctl ignores), bytes that are no UTF-8, the last line's end.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """One line with its end; `key` is empty where it sets nothing."""

    text: str
    key: str = ""
    start: int = 0
    """Where the value begins in `text`, behind an opening quote if there is one."""
    stop: int = 0

    @property
    def value(self) -> str:
        """The value, without quotes."""
        return self.text[self.start : self.stop]


@dataclass(frozen=True, slots=True)
class Config:
    """A whole file."""

    lines: tuple[Line, ...]

    @classmethod
    def parse(cls, data: bytes) -> "Config":
        """Every file can be parsed; what makes no sense is carried."""
        return cls(tuple(_line(text) for text in _split(data.decode(errors="surrogateescape"))))

    def render(self) -> bytes:
        """The file again; exactly what was parsed if nothing was changed."""
        return "".join(line.text for line in self.lines).encode(errors="surrogateescape")

    @property
    def values(self) -> dict[str, str]:
        """Key to value; of two equal keys the first counts, as in vzctl."""
        found: dict[str, str] = {}
        for line in self.lines:
            if line.key:
                found.setdefault(line.key, line.value)
        return found

    @property
    def duplicates(self) -> tuple[str, ...]:
        """Keys that are set more than once."""
        keys = [line.key for line in self.lines if line.key]
        return tuple(sorted({key for key in keys if keys.count(key) > 1}))

    def get(self, key: str, default: str = "") -> str:
        """The value of a key."""
        return self.values.get(key, default)

    def changed(self, changes: Mapping[str, str | None]) -> "Config":
        """With keys set, added, or (None) removed. Raises ValueError for a value that no line can hold."""
        if bad := [key for key, value in changes.items() if value is not None and set(value) & set("\n\r\0")]:
            raise ValueError(f"no line can hold the value of {', '.join(bad)}")
        return self.put_back(changes)

    def put_back(self, changes: Mapping[str, str | None]) -> "Config":
        """As `changed`, with values that a file has held before, whatever is in them."""
        left = dict(changes)
        lines: list[Line] = []
        for line in self.lines:
            if line.key not in changes:
                lines.append(line)
            elif changes[line.key] is None:
                left.pop(line.key, None)
            elif line.key in left:
                lines.append(_with_value(line, str(left.pop(line.key))))
            else:
                lines.append(line)
        return Config(tuple(_appended(lines, {key: value for key, value in left.items() if value is not None})))


def _split(text: str) -> list[str]:
    """Lines with their ends; only a newline ends one."""
    parts = text.split("\n")
    return [f"{part}\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def _line(text: str) -> Line:
    body = text.rstrip("\n")
    bare = body.lstrip()
    at = body.find("=")
    key = body[:at].strip() if at > 0 else ""
    if bare.startswith("#") or not key or any(char.isspace() for char in key):
        return Line(text)
    end = len(body.rstrip())
    if not body[at + 1 :].startswith('"'):
        return Line(text, key, at + 1, max(at + 1, end))
    last = body.rfind('"')
    return Line(text, key, at + 2, last if last > at + 1 else end)


def _with_value(line: Line, value: str) -> Line:
    if line.value == value:
        return line
    if line.text[line.start - 1 : line.start] == '"':
        text = line.text[: line.start] + value + line.text[line.stop :]
    else:
        text = f'{line.text[: line.start]}"{value}"{line.text[line.stop :]}'
    fresh = _line(text)
    # A line whose quote was never closed, or with a quote behind its value, would be read otherwise: written anew.
    return fresh if fresh.value == value else _line(f'{line.key}="{value}"\n')


def _appended(lines: list[Line], fresh: Mapping[str, str]) -> list[Line]:
    if fresh and lines and not lines[-1].text.endswith("\n"):
        lines[-1] = _line(f"{lines[-1].text}\n")
    return [*lines, *(_line(f'{key}="{value}"\n') for key, value in fresh.items())]


def with_id(pattern: str, ve: str) -> str:
    """A path with $VEID and ${VEID} replaced, the only expansion that vzctl makes."""
    return pattern.replace("${VEID}", ve).replace("$VEID", ve)
