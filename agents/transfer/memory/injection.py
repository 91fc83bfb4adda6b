"""Open a userfaultfd inside a running process and bring it out, without the process noticing.

Rule: a userfaultfd belongs to the address space that made the call, so one of the process's own threads makes it
(`agents.tracing.borrowed`); the process keeps no copy of the descriptor.
"""

import os

from agents.tracing.borrowed import PATIENCE_S, SYS_CLOSE, Borrowed, lent_by, syscall_instruction
from agents.tracing.ptrace import NotTraceable
from agents.transfer.memory import kernel

_SYS_USERFAULTFD = 323


def open_userfaultfd(pid: int, *, patience_s: float = PATIENCE_S) -> int:
    """A userfaultfd over the address space of ``pid``, not yet set up (``UFFDIO_API`` is the caller's).

    The process stands still for about 0.1 ms and keeps no copy of the descriptor. It is opened for user-mode faults
    only, which needs no privilege in the VE; with ``WP_ASYNC`` the kernel resolves faults itself, so that
    writes from inside system calls are covered all the same. Raises ``NotTraceable``.
    """
    instruction = syscall_instruction(pid)
    return lent_by(pid, lambda thread: _take(pid, thread, instruction), patience_s=patience_s)


def _take(pid: int, thread: Borrowed, instruction: int) -> int:
    flags = os.O_CLOEXEC | os.O_NONBLOCK | kernel.UFFD_USER_MODE_ONLY
    number = thread.call(instruction, _SYS_USERFAULTFD, flags)
    if number < 0:
        raise NotTraceable(f"userfaultfd in {pid}: {os.strerror(-number)}")
    try:
        pidfd = kernel.pidfd_open(thread.tid, 0 if thread.tid == pid else kernel.PIDFD_THREAD)
        try:
            return kernel.pidfd_getfd(pidfd, number)
        finally:
            os.close(pidfd)
    except OSError as error:
        raise NotTraceable(f"bringing the descriptor out of {pid}: {error}") from error
    finally:
        thread.call(instruction, SYS_CLOSE, number)
