"""The source's side of `images`: send them by ssh, and stop at once when they are not wanted any more.

Rule: apart from `images` because that is read by what an SSH session on the target runs, which must start in milliseconds.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import trio

from agents.transfer import images
from migrator.wire.faults import FaultCode, fault_error


async def send_by(argv: Sequence[str], directory: Path) -> dict[str, str]:
    """Send by a program that takes the stream on its standard input. Raises FaultError(PEER_LOST, NO_SPACE).

    Cancelled, it ends at once, however the line is: the program is killed, and with it the writing.
    """
    ssh = _start(argv)
    try:
        sent, said = await trio.to_thread.run_sync(_send_all, ssh, directory, abandon_on_cancel=True)
    finally:
        ssh.kill()
        ssh.wait()
    if ssh.returncode or not sent:
        code = FaultCode.NO_SPACE if "No space left" in said else FaultCode.PEER_LOST
        raise fault_error(
            code, f"ssh ended with {ssh.returncode}", step="send images", tool="ssh", log_tail=said[-2000:]
        )
    return sent


def _start(argv: Sequence[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _send_all(ssh: "subprocess.Popen[bytes]", directory: Path) -> tuple[dict[str, str], str]:
    """What was sent (nothing, if the program ended before the end), and what the program said."""
    assert ssh.stdin is not None
    assert ssh.stderr is not None
    try:
        sent = images.send(directory, ssh.stdin, lambda _: None)
        ssh.stdin.close()
    except (BrokenPipeError, ValueError):
        sent = {}
    said = ssh.stderr.read().decode(errors="replace")
    ssh.wait()
    return sent, said
