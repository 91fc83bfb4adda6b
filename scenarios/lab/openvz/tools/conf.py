"""Config files of the emulation: `KEY="value"` a line, parsed as vzctl does, never as shell.

Rule: a reader of its own, so that a mistake in the engine's reader is not hidden by the same mistake here.
"""

import os
from pathlib import Path

ETC = Path("/etc/vz")
DEFAULTS = {
    "LOCKDIR": "/vz/lock",
    "DUMPDIR": "/vz/dump",
    "TEMPLATE": "/vz/template",
    "VE_ROOT": "/vz/root/$VEID",
    "VE_PRIVATE": "/vz/private/$VEID",
    "LOGFILE": "/var/log/vzctl.log",
}


def parse(text: str) -> dict[str, str]:
    """Key to value; the closing quote is the line's last, and the first of two equal keys wins."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        bare = line.strip()
        if not bare or bare.startswith("#") or "=" not in bare:
            continue
        key, value = bare.split("=", 1)
        if value.startswith('"'):
            end = value.rfind('"')
            value = value[1:end] if end > 0 else value[1:]
        values.setdefault(key.strip(), value)
    return values


def read(path: Path) -> dict[str, str]:
    """The values of a file."""
    return parse(path.read_text(errors="surrogateescape"))


def store(path: Path, changes: dict[str, str | None]) -> None:
    """Set, add or remove (None) keys; other lines stay. Written beside and renamed, as vzctl does."""
    left, lines = dict(changes), []
    old = path.read_text(errors="surrogateescape").splitlines() if path.exists() else []
    for line in old:
        key = line.split("=", 1)[0].strip()
        if "=" not in line or line.lstrip().startswith("#") or key not in changes:
            lines.append(line)
        elif key in left and (value := left.pop(key)) is not None:
            lines.append(f'{key}="{value}"')
    lines += [f'{key}="{value}"' for key, value in left.items() if value is not None]
    fresh = path.with_name(path.name + ".tmp")
    fresh.write_text("\n".join(lines) + "\n", errors="surrogateescape")
    os.replace(fresh, path)


def host_config() -> dict[str, str]:
    """vz.conf over the built-in defaults; raises FileNotFoundError."""
    return {**DEFAULTS, **read(ETC / "vz.conf")}


def with_id(pattern: str, ctid: int) -> str:
    """A path with $VEID and ${VEID} replaced."""
    return pattern.replace("${VEID}", str(ctid)).replace("$VEID", str(ctid))
