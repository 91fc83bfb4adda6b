"""Where the agent keeps what, on its host.

Rule: what must survive a reboot is below STATE; what must not is below RUN (a tmpfs, so images lie in RAM).
"""

import contextlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

STATE = Path("/var/lib/migrator")
RUN = Path("/run/migrator")
SOCKET = RUN / "agent.sock"
BOOTED = RUN / "booted"
"""There once the agent has started what starts with the host."""
RECORDS = STATE / "records"
KEYS = STATE / "keys"
PERMITTED = STATE / "permitted"
"""Per migration that is coming here: the directories its key may write to."""
PROGRAMS = STATE / "agent"
PROGRAM = PROGRAMS / "current"
"""A link to the program file in use."""
AUTHORIZED_KEYS = Path("/root/.ssh/authorized_keys")


def images(migration: str) -> Path:
    """Directory of the checkpoint images of one migration."""
    return RUN / "images" / migration


def key(migration: str) -> Path:
    """Private half of the key pair made for one migration."""
    return KEYS / migration


def memory_socket(migration: str) -> Path:
    """Where the keeper of the memory of one coming VE listens."""
    return RUN / f"memory-{migration}.sock"


def partial(directory: str | Path, migration: str) -> Path:
    """Where files lie that came in part when the line broke: beside the tree, on its file system, and no part of it."""
    return Path(directory).parent / f".{migration}.partial"


def permit(migration: str, directories: Iterable[Path]) -> None:
    """Let the migration's key write to these directories."""
    PERMITTED.mkdir(parents=True, exist_ok=True, mode=0o700)
    (PERMITTED / migration).write_text(json.dumps([str(directory) for directory in directories]))


def read_permitted(migration: str) -> list[str]:
    """The directories its key may write to; none when nothing is permitted."""
    try:
        directories: list[str] = json.loads((PERMITTED / migration).read_text())
    except FileNotFoundError:
        return []
    return directories


def forbid(migration: str) -> None:
    """Nothing is permitted any more. What came in part is there until `forget_partial`."""
    with contextlib.suppress(FileNotFoundError):
        (PERMITTED / migration).rename(_ended(migration))


def forget_partial(migration: str) -> None:
    """After `forbid`, once nobody writes any more: what came in part goes."""
    with contextlib.suppress(FileNotFoundError):
        for directory in json.loads(_ended(migration).read_text()):
            shutil.rmtree(partial(directory, migration), ignore_errors=True)
    _ended(migration).unlink(missing_ok=True)


def _ended(migration: str) -> Path:
    """What was permitted; the name is none of a migration."""
    return PERMITTED / f"{migration}..ended"


def valid_name(name: str) -> bool:
    """Whether `name` may stand in a path, a command line and a link name: it is no option and no path."""
    return (
        0 < len(name) <= 64
        and name[0].isalnum()
        and all(char.isascii() and (char.isalnum() or char in "-_.") for char in name)
        and ".." not in name
    )
