"""The SSH connection of one migration: its key pair, how the source calls the target, what the target permits.

Rule: the key lives as long as the migration: made at the source, private half never leaves it; installed at the target
with a forced command, `restrict` and an expiry; removed at the end and on failure.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agents import places, shell
from agents.shell import failed


@dataclass(frozen=True, slots=True)
class Channel:
    """How the source reaches the target for one migration."""

    migration: str
    address: str
    port: int

    @property
    def control(self) -> Path:
        """Socket of the shared connection, opened before the blackout so that nothing is dialled in it."""
        return places.RUN / f"ssh-{self.migration[:24]}"

    @property
    def use(self) -> Path:
        """Where the streams that go this way say what they move (`lines.use`)."""
        return Path(f"{self.control}.use")

    def ssh(self, *command: str, shared: bool = True) -> tuple[str, ...]:
        """Argument list of an ssh call; not `shared`: over a connection of its own."""
        key = places.key(self.migration)
        options = {
            "IdentityFile": str(key),
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": f"{key}.known_hosts",
            "StrictHostKeyChecking": "yes",
            "HostKeyAlias": "target",
            "BatchMode": "yes",
            "ConnectTimeout": "10",
            "ServerAliveInterval": "5",
            "ServerAliveCountMax": "3",
            **({"ControlMaster": "auto", "ControlPersist": "60"} if shared else {}),
            "ControlPath": str(self.control) if shared else "none",
            "Ciphers": "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com",
            "LogLevel": "ERROR",
        }
        flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return ("ssh", "-F", "none", *flags, "-p", str(self.port), f"root@{self.address}", *command)

    async def close(self) -> None:
        """End the shared connection, if there is one; its socket goes too, also that of one that was killed, and `use`."""
        if self.control.exists():
            await shell.run([*self.ssh()[:-1], "-O", "exit", f"root@{self.address}"], limit_s=5)
        for left in self.control.parent.glob(f"{self.control.name}*"):
            left.unlink(missing_ok=True)


async def make_key(migration: str) -> str:
    """Make the pair at the source; the public half."""
    places.KEYS.mkdir(parents=True, exist_ok=True, mode=0o700)
    remove_key(migration)
    key = places.key(migration)
    made = await shell.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"migrator {migration}", "-f", key])
    if not made.ok:
        raise failed(made, "make the migration's key")
    return Path(f"{key}.pub").read_text().strip()


def open_to(migration: str, address: str, port: int, host_keys: Sequence[str]) -> Channel:
    """Source: the target is there, known by these host keys and no others; noted, for an agent that starts again."""
    Path(f"{places.key(migration)}.known_hosts").write_text("".join(f"target {line}\n" for line in host_keys))
    Path(f"{places.key(migration)}.target").write_text(json.dumps({"address": address, "port": port}))
    return Channel(migration, address, port)


def known(migration: str) -> Channel | None:
    """Source: the channel opened before, perhaps by an agent that has ended since; None when there was none."""
    try:
        noted = json.loads(Path(f"{places.key(migration)}.target").read_text())
    except FileNotFoundError:
        return None
    return Channel(migration, noted["address"], noted["port"])


def remove_key(migration: str) -> None:
    """Source: nothing is left of the pair."""
    for suffix in ("", ".pub", ".known_hosts", ".target"):
        Path(f"{places.key(migration)}{suffix}").unlink(missing_ok=True)


def host_keys() -> tuple[str, ...]:
    """This host's public SSH keys, without comment."""
    return tuple(" ".join(path.read_text().split()[:2]) for path in sorted(Path("/etc/ssh").glob("ssh_host_*_key.pub")))


def permit(migration: str, public_key: str, expires_unix_s: int, gate: Sequence[str]) -> None:
    """Target: let the key in, for this migration's forced command and nothing else."""
    expiry = time.strftime("%Y%m%d%H%M%SZ", time.gmtime(expires_unix_s))
    command = " ".join(gate)
    key = " ".join(public_key.split()[:2])
    line = f'restrict,expiry-time="{expiry}",command="{command}" {key} {_mark(migration)}'
    _rewrite(lambda lines: [*(each for each in lines if not each.endswith(_mark(migration))), line])


def forbid(migration: str) -> None:
    """Target: the key is no longer let in."""
    _rewrite(lambda lines: [each for each in lines if not each.endswith(_mark(migration))])


def _mark(migration: str) -> str:
    return f"migrator:{migration}"


def _rewrite(change: Callable[[list[str]], list[str]]) -> None:
    path = places.AUTHORIZED_KEYS
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with (path.parent / ".migrator.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lines = path.read_text().splitlines() if path.exists() else []
        fresh = path.with_name(".authorized_keys.migrator")
        fresh.write_text("".join(f"{line}\n" for line in change(lines)))
        os.chmod(fresh, 0o600)
        fresh.rename(path)
