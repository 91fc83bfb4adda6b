"""Files from host to host by rsync over the migration's SSH channel.

Rule: everything a VE can see of a file moves with it: hard links, ACLs, xattrs, numeric ids, holes, device nodes,
times.
"""

import re
import shlex
from pathlib import Path

from agents import shell
from agents.engines.port import Tree
from agents.shell import failed
from agents.transfer.channel import Channel

VANISHED = 24
"""rsync's status when files went away while it read: normal as long as the VE runs."""


async def copy_pass(channel: Channel, tree: Tree, place: Path, *, running: bool, bandwidth_bytes_per_s: int = 0) -> int:
    """Bring the target's copy of a tree, at `place`, up to date; bytes sent. Raises FaultError(TOOL_FAILED)."""
    limit = [f"--bwlimit={max(1, bandwidth_bytes_per_s // 1024)}"] if bandwidth_bytes_per_s else []
    ran = await shell.run(
        [
            "rsync",
            "-aHAXS",
            "--numeric-ids",
            "--delete",
            "--one-file-system",
            "--stats",
            *limit,
            *(f"--exclude={path}" for path in tree.excluded),
            "-e",
            shlex.join(channel.ssh()[:-1]),
            f"{tree.path}/",
            f"root@{channel.address}:{place}/",
        ],
        limit_s=24 * 3600,
        env={"LC_ALL": "C"},
    )
    if not ran.ok and not (running and ran.status == VANISHED):
        raise failed(ran, "copy files")
    sent = re.search(r"Total bytes sent: ([\d,]+)", ran.stdout)
    return int(sent.group(1).replace(",", "")) if sent else 0
