"""Files from host to host by rsync over the migration's SSH channel.

Rule: everything a VE can see of a file moves with it: hard links, ACLs, xattrs, numeric ids, holes, device nodes, times.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from agents import shell
from agents.shell import failed
from agents.transfer.channel import Channel

VANISHED = 24
"""rsync's status when files went away while it read: normal as long as the VE runs."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over the files."""

    bytes_sent: int
    duration_s: float


async def copy_pass(channel: Channel, root: Path, *, running: bool, bandwidth_bytes_per_s: int = 0) -> int:
    """Bring the target's copy of `root` up to date; bytes sent over the wire. Raises FaultError(TOOL_FAILED)."""
    limit = [f"--bwlimit={bandwidth_bytes_per_s // 1024}"] if bandwidth_bytes_per_s else []
    ran = await shell.run(
        [
            "rsync",
            "-aHAXS",
            "--numeric-ids",
            "--delete",
            "--one-file-system",
            "--stats",
            *limit,
            "-e",
            shlex.join(channel.ssh()[:-1]),
            f"{root}/",
            f"root@{channel.address}:{root}/",
        ],
        limit_s=24 * 3600,
        env={"LC_ALL": "C"},
    )
    if not ran.ok and not (running and ran.status == VANISHED):
        raise failed(ran, "copy files")
    sent = re.search(r"Total bytes sent: ([\d,]+)", ran.stdout)
    return int(sent.group(1).replace(",", "")) if sent else 0
