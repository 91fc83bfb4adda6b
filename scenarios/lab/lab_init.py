"""Init of a lab host: starts sshd and what /etc/rc2.d names, as a sysvinit would, and reaps what ends.

Rule: runs inside the host with nothing but Python's standard library; keeps nothing open that belongs to the machine.
"""

import glob
import os
import signal
import socket
import subprocess
import sys
import time

SIGNALS = {signal.SIGCHLD, signal.SIGTERM}
SSHD = ["/usr/sbin/sshd", "-D"]
GRACE_S = 5.0


def free_signals() -> None:
    """What init waits for must reach its children."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def start(*words: str) -> "subprocess.Popen[bytes]":
    """Start a child of init."""
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, preexec_fn=free_signals)  # noqa: PLW1509  (init has one thread)


def run_scripts(pattern: str, word: str) -> None:
    """Run a runlevel's scripts in order; init does not care how they end."""
    for script in sorted(glob.glob(pattern)):
        start(script, word).wait()


def start_sshd() -> int:
    """Start sshd and return its pid when it accepts connections."""
    sshd = start(*SSHD)
    while sshd.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", 22), timeout=1).close()
            break
        except OSError:
            time.sleep(0.005)
    return sshd.pid


def reap() -> set[int]:
    """Collect every ended child, orphans included."""
    ended = set()
    try:
        while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
            ended.add(pid)
    except ChildProcessError:
        pass
    return ended


def halt() -> None:
    """Power off in order: the K scripts, SIGTERM to all, and after some grace SIGKILL."""
    run_scripts("/etc/rc0.d/K*", "stop")
    deadline = time.monotonic() + GRACE_S
    try:
        os.kill(-1, signal.SIGTERM)
        while (left := deadline - time.monotonic()) > 0:
            reap()
            os.kill(-1, 0)
            signal.sigtimedwait({signal.SIGCHLD}, min(left, 0.1))
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        pass
    sys.exit(0)


def tell_ready() -> None:
    """Say to whoever boots this host that it is up."""
    if "LAB_READY_FD" in os.environ:  # a virtual machine is ready when its sshd answers
        ready = int(os.environ.pop("LAB_READY_FD"))
        os.write(ready, b"ready\n")
        os.close(ready)


def main() -> None:
    """Boot, then reap for ever."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    if "LAB_READY_FD" in os.environ:
        os.set_inheritable(int(os.environ["LAB_READY_FD"]), False)
    sshd = start_sshd()
    run_scripts("/etc/rc2.d/S*", "start")
    tell_ready()
    while signal.sigwait(SIGNALS) != signal.SIGTERM:
        if sshd in reap():
            time.sleep(0.2)
            sshd = start_sshd()
    halt()


main()
