"""The source's side of `images`: a receiver on the target that waits from before the freeze, and takes them at once.

Rule: apart from `images` because that is read by what an SSH session on the target runs, which must start in milliseconds.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import trio

from agents.transfer import images
from migrator.wire.faults import FaultCode, fault_error


class ImageSender:
    """One stream of images to the target. `wait` before the blackout; then `send`, once; `end` in every case."""

    def __init__(self, argv: Sequence[str]) -> None:
        """`argv` is a program that takes the stream on its standard input."""
        self._argv = argv
        self._ssh: subprocess.Popen[bytes] | None = None

    def wait(self) -> None:
        """Have the receiver wait on the target, if none does: to start one takes 50 ms. Returns at once."""
        if self._ssh is None or self._ssh.poll() is not None:
            self.end()
            self._ssh = subprocess.Popen(
                self._argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )

    async def send(self, directory: Path) -> dict[str, str]:
        """What was sent, name -> SHA-256. Raises FaultError(PEER_LOST, NO_SPACE).

        Cancelled, it ends at once, however the line is: the program is killed, and with it the writing.
        """
        self.wait()
        ssh, self._ssh = self._ssh, None
        assert ssh is not None
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

    def end(self) -> None:
        """Nobody waits any more. May be called again."""
        if self._ssh is not None:
            self._ssh.kill()
            self._ssh.communicate()
            self._ssh = None


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
