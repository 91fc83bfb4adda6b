"""What the agent has done to a VE beyond what OpenVZ's own files tell, durable: one small JSON file per VE.

Rule: written before what it speaks of is done, so that an agent that died finds here what may have been done.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from agents import places

MARKS = places.STATE / "openvz"


@dataclass(frozen=True, slots=True)
class Marks:
    """One VE's."""

    fenced: bool = False
    """ONBOOT and DISABLED are ours, and the lock is."""
    before: str = ""
    """The whole config as it is to be when the fence is taken away (bytes that are no UTF-8 as surrogates)."""
    stands: bool = False
    """It was or is being suspended here, or held; asked only where the kernel does not tell."""
    suspended: bool = False
    """It was suspended when its move began: its dump moves with it."""
    rules: list[dict[str, Any]] = field(default_factory=list)
    """Rules of the host's firewalls that came with it, or are to go with it."""
    arriving: dict[str, Any] = field(default_factory=dict)
    """Set as long as it has come but is not at home yet: what `accept` was told and made."""

    @property
    def held(self) -> bool:
        """Whether the engine's lock of this VE is ours."""
        return self.fenced or bool(self.arriving)


def directory(ve: str) -> Path:
    """Where the agent keeps what concerns this VE's move."""
    return MARKS / ve


def baggage(ve: str) -> Path:
    """The tree with config, scripts, rules and quotas that moves beside the private area."""
    return MARKS / ve / "baggage"


def read(ve: str) -> Marks:
    """No file: nothing was done."""
    try:
        plain = json.loads((MARKS / ve / "marks.json").read_text())
    except (OSError, ValueError):
        return Marks()
    return Marks(**{key: value for key, value in plain.items() if key in Marks.__dataclass_fields__})


def write(ve: str, **changes: Any) -> Marks:
    """Change some of them, durably; the marks now."""
    marks = replace(read(ve), **changes)
    path = MARKS / ve / "marks.json"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_durably(path, json.dumps(asdict(marks)).encode())
    return marks


def forget(ve: str) -> None:
    """Everything of it goes, the baggage too."""
    shutil.rmtree(MARKS / ve, ignore_errors=True)


def forget_unwritten(ve: str) -> None:
    """Where there are no marks: what is left of an agent that was killed while it wrote the first goes."""
    if not (MARKS / ve / "marks.json").exists():
        forget(ve)


def unwritten(path: Path) -> Path:
    """Where `write_durably` has what is to become this file; it stays there when the agent is killed."""
    return path.with_name(f".{path.name}.new")


def write_durably(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace a file such that after a power cut it is the old one or the new one, with owner and mode kept if it exists."""
    fresh = unwritten(path)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        if path.exists():
            old = path.stat()
            os.fchown(file.fileno(), old.st_uid, old.st_gid)
            os.fchmod(file.fileno(), old.st_mode & 0o7777)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
    above = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(above)
    finally:
        os.close(above)
