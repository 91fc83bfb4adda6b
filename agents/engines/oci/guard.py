"""Watches over the CRIU that dumps a VE: one that dies with the VE in its hands does not let the VE run.

CRIU thaws the cgroup for its work, with every thread stopped by ptrace; when CRIU is killed, the kernel lets go of them all,
and they would run on from inside CRIU's code. Rule: between CRIU's death and their release the cgroup is frozen. Only a tracer
of CRIU itself is asked in that moment (PTRACE_EVENT_EXIT: it comes before a dying tracer's tracees are let go, after SIGKILL
too).
"""

import contextlib
import errno
import signal
import threading
import time
from collections.abc import Iterator

from agents.engines.oci.cgroup import Group
from agents.tracing import ptrace
from agents.tracing.ptrace import NotTraceable, Seized

LOOK_S = 0.0003
"""How often we look for CRIU: it holds the VE for at least some ms before it thaws the cgroup."""
PATIENCE_S = 1.0
SIGCHLD_BIT = 1 << (signal.SIGCHLD - 1)


@contextlib.contextmanager
def watched(group: Group) -> Iterator[None]:
    """While this is open, a CRIU that traces the group's processes and ends in disorder leaves the group frozen."""
    over = threading.Event()
    # A daemon: it waits for CRIU's end, and ends with this process, which lets go of CRIU.
    guard = threading.Thread(target=_guard, args=(group, over), name="guard", daemon=True)
    guard.start()
    try:
        yield
    finally:
        over.set()


def _guard(group: Group, over: threading.Event) -> None:
    criu = 0
    while not criu:
        if over.is_set():
            return
        criu = next(group.tracers(), 0)
        if not criu:
            time.sleep(LOOK_S)
    with (
        contextlib.suppress(NotTraceable, OSError),
        Seized(criu, patience_s=PATIENCE_S, options=ptrace.TRACE_EXIT) as held,
    ):
        if held.ending:
            _keep(held, group)
            return
        # Each stop of a process that it traces sends it a SIGCHLD, at each of which it would stop for us. It waits for them
        # by wait4(2) alone.
        held.set_signal_mask(held.signal_mask() | SIGCHLD_BIT)
        ptrace.ptrace(ptrace.CONT, criu)
        _until_its_end(held, group)


def _until_its_end(held: Seized, group: Group) -> None:
    while True:
        number, event = held.wait(blocking=True)
        if event == ptrace.EVENT_EXIT:
            _keep(held, group)
            return
        delivered = number if ptrace.stop_signal((number, event)) else 0
        try:
            ptrace.ptrace(ptrace.CONT, held.tid, 0, delivered)
        except OSError as error:
            if error.errno != errno.ESRCH:  # killed meanwhile; its exit is the next stop
                raise


def _keep(ending: Seized, group: Group) -> None:
    if ptrace.event_message(ending.tid):
        (group.path / "cgroup.freeze").write_text("1")
