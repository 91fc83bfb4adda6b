"""Keeps the agent running on a host without systemd: starts it, and starts it again when it ends.

Rule: one supervisor per host, held by a lock on its pid file; it and its agent are found by what that file and the kernel
say, never by a name. Where there is systemd, a unit does this instead (`agents.boot`).
"""

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from agents import places

PID_FILE = places.RUN / "supervisor.pid"
LOG = places.STATE / "agent.log"
LOG_BYTES_MAX = 8 << 20
AGAIN_S = 0.2
AGAIN_S_MAX = 5.0
STEADY_S = 10.0
"""An agent that lasted this long is started again at once."""
LEAF = Path("/sys/fs/cgroup/init")
"""A cgroup (v2) beside those of VEs: the agent must not sit in a group that is to hand controllers on."""
END_LIMIT_S = 15.0


def supervise() -> None:
    """Become a daemon and keep `serve` running. Returns at once in the caller; does nothing where one runs already."""
    places.RUN.mkdir(parents=True, exist_ok=True, mode=0o700)
    places.STATE.mkdir(parents=True, exist_ok=True, mode=0o700)
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    lock = PID_FILE.open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os._exit(0)
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    os.chdir("/")
    _enter_leaf()
    _detach()
    _keep()
    os._exit(0)


def _enter_leaf() -> None:
    with contextlib.suppress(OSError):
        if LEAF.is_dir():
            (LEAF / "cgroup.procs").write_text("0")


def _detach() -> None:
    if LOG.exists() and LOG.stat().st_size > LOG_BYTES_MAX:
        LOG.replace(LOG.with_suffix(".log.1"))
    null, log = os.open(os.devnull, os.O_RDONLY), os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for number, handle in ((0, null), (1, log), (2, log)):
        os.dup2(handle, number)


def _keep() -> None:
    """Until SIGTERM, which only wakes us: a handler that waits for the child would wait for itself."""
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell)
    signal.signal(signal.SIGTERM, lambda *_: None)
    pause_s = AGAIN_S
    while True:
        began_s = time.monotonic()
        if not _run_agent(told):
            return
        pause_s = AGAIN_S if time.monotonic() - began_s > STEADY_S else min(2 * pause_s, AGAIN_S_MAX)
        if select.select([told], [], [], pause_s)[0]:
            return


def _run_agent(told: int) -> bool:
    """The agent once, to its end; False: we are to end, and it has ended with us."""
    child = subprocess.Popen([sys.executable, "-I", str(places.PROGRAM), "serve"])
    handle = os.pidfd_open(child.pid)
    try:
        to_end = told in select.select([told, handle], [], [])[0]
    finally:
        os.close(handle)
    if to_end:
        child.terminate()
    child.wait()
    return not to_end


def running() -> int:
    """The supervisor's process id; 0: none runs."""
    try:
        with PID_FILE.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return int(file.read())
    except (FileNotFoundError, ValueError):
        return 0
    return 0


def stop() -> None:
    """End the supervisor and its agent in order. VEs and what the agent was asked to keep are not touched."""
    pid = running()
    if not pid:
        return
    handle = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        if not select.select([handle], [], [], END_LIMIT_S)[0]:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [], END_LIMIT_S)  # its lock goes with it, and the next one needs that
    finally:
        os.close(handle)
