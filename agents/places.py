"""Where the agent keeps what, on its host.

Rule: what must survive a reboot is below STATE; what must not is below RUN (a tmpfs, so images lie in RAM).
"""

from pathlib import Path

STATE = Path("/var/lib/migrator")
RUN = Path("/run/migrator")
SOCKET = RUN / "agent.sock"
RECORDS = STATE / "records"
KEYS = STATE / "keys"
PROGRAMS = STATE / "agent"
AUTHORIZED_KEYS = Path("/root/.ssh/authorized_keys")


def images(migration: str) -> Path:
    """Directory of the checkpoint images of one migration."""
    return RUN / "images" / migration


def key(migration: str) -> Path:
    """Private half of the key pair made for one migration."""
    return KEYS / migration


def valid_name(name: str) -> bool:
    """Whether `name` may stand in a path, a command line and a link name: it is no option and no path."""
    return (
        0 < len(name) <= 64
        and name[0].isalnum()
        and all(char.isascii() and (char.isalnum() or char in "-_.") for char in name)
        and ".." not in name
    )
