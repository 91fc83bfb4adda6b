"""Init of a lab host: starts sshd and what /etc/rc2.d names, as a sysvinit would, and reaps what ends.

Runs inside the host with nothing but Python's standard library.
"""

import glob
import os
import signal
import subprocess
import sys


def start(*words: str) -> None:
    """Run a program to its end; init does not care how it ended."""
    subprocess.run(words, stdin=subprocess.DEVNULL, check=False)


def stop(*_: object) -> None:
    """Power off in order: the K scripts, then the end of init, which ends every process of the host."""
    for script in sorted(glob.glob("/etc/rc0.d/K*")):
        start(script, "stop")
    sys.exit(0)


def main() -> None:
    """Boot, then reap for ever."""
    signal.signal(signal.SIGTERM, stop)
    start("ssh-keygen", "-A")
    start("/usr/sbin/sshd", "-o", "UsePAM=no", "-o", "PasswordAuthentication=no", "-o", "MaxStartups=100")
    for script in sorted(glob.glob("/etc/rc2.d/S*")):
        start(script, "start")
    while True:
        try:
            os.wait()
        except ChildProcessError:
            signal.pause()


main()
