"""A system call made by another program's thread, without the program noticing.

The thread is made to run one ``syscall`` instruction that already exists in its vDSO (no byte of it is changed), and is put
back as it was: registers, signal mask, and the system call it was blocked in.

The rules kept here, each of which has a way to harm the program if broken:

* Signals are blocked while the call runs, so that no handler starts on borrowed registers; they stay pending.
* The registers are put back at a stop *inside the kernel's signal handling*: only from there does the kernel
  restart a system call that was interrupted (``-ERESTARTSYS`` and its kin would otherwise reach the program).
* seccomp filters are suspended for the traced thread (``PTRACE_O_SUSPEND_SECCOMP``), for a filter may kill.
* A thread inside a restartable sequence (rseq) is left alone, for leaving one unseen breaks its atomicity.
"""

import ctypes
import errno
import os
import platform
import signal
import struct
from collections.abc import Callable
from functools import partial

from agents.tracing import ptrace
from agents.tracing.ptrace import NotTraceable, ProcessGone, Seized, Value

SYS_CLOSE = 3
SYS_MUNMAP = 11
PATIENCE_S = 0.1
_SYSCALL_STOP = (signal.SIGTRAP | 0x80, 0)
_THREADS_TRIED = 8


def call_in(pid: int, number: int, *arguments: int, patience_s: float = PATIENCE_S) -> int:
    """One system call by a thread of `pid`, which must not be frozen; its result, negative errno on failure.

    Raises NotTraceable.
    """
    instruction = syscall_instruction(pid)
    return lent_by(pid, lambda thread: thread.call(instruction, number, *arguments), patience_s=patience_s)


def lent_by(pid: int, work: "Callable[[Borrowed], Value]", *, patience_s: float = PATIENCE_S) -> Value:
    """Do `work` with the first thread of `pid` that can be borrowed. Raises NotTraceable with every thread's reason."""
    reasons: list[str] = []
    for tid in ptrace.threads(pid)[:_THREADS_TRIED]:
        try:
            return ptrace.in_own_thread(partial(_borrow, tid, work, patience_s))
        except ProcessGone:
            raise
        except NotTraceable as reason:
            reasons.append(str(reason))
    raise NotTraceable("; ".join(reasons) or "no thread")


def _borrow(tid: int, work: "Callable[[Borrowed], Value]", patience_s: float) -> Value:
    with Borrowed(tid, patience_s) as thread:
        return work(thread)


class Borrowed:
    """One borrowed thread; leaving the block puts it back and lets it go."""

    def __init__(self, tid: int, patience_s: float) -> None:
        options = ptrace.TRACE_SYSCALLS_APART | ptrace.SUSPEND_SECCOMP
        self.tid = tid
        self._thread = Seized(tid, patience_s=patience_s, options=options)
        self._registers, self._signal_mask = b"", 0
        self._late_stops: list[int] = []

    def __enter__(self) -> "Borrowed":
        """Raises NotTraceable."""
        self._thread.__enter__()
        try:
            self._registers = self._thread.registers()
            self._refuse_restartable_sequence()
            self._signal_mask = self._thread.signal_mask()
            self._thread.set_signal_mask(ptrace.EVERY_SIGNAL)
        except BaseException:
            self._thread.detach()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._return_to_signal_handling()
            self._thread.set_registers(self._registers)
            self._thread.set_signal_mask(self._signal_mask)
        except OSError as error:
            if error.errno != errno.ESRCH:
                raise
        finally:
            self._thread.detach()
            for number in self._late_stops:
                os.kill(self.tid, number)

    def call(self, instruction: int, number: int, *arguments: int) -> int:
        """Run one system call of up to six arguments; returns its result, negative errno on failure."""
        registers = list(ptrace.REGISTERS.unpack(self._registers))
        registers[ptrace.RIP], registers[ptrace.RAX], registers[ptrace.ORIG_RAX] = (
            instruction,
            number,
            ptrace.NO_SYSCALL,
        )
        places = (ptrace.RDI, ptrace.RSI, ptrace.RDX, ptrace.R10, ptrace.R8, ptrace.R9)
        for register, value in zip(places, (*arguments, 0, 0, 0, 0, 0, 0), strict=False):
            registers[register] = value
        try:
            self._thread.set_registers(ptrace.REGISTERS.pack(*registers))
            self._run_to_syscall_stop()
            self._run_to_syscall_stop()
            after = ptrace.REGISTERS.unpack(self._thread.registers())
        except OSError as error:
            if error.errno == errno.ESRCH:
                raise ProcessGone(f"{self.tid} is gone") from error
            raise
        result: int = after[ptrace.RAX]
        return result - (1 << 64) if result >= 1 << 63 else result

    def _run_to_syscall_stop(self) -> None:
        ptrace.ptrace(ptrace.SYSCALL, self.tid)
        while (stop := self._thread.wait(blocking=True)) != _SYSCALL_STOP:
            self._keep_for_later(stop)
            ptrace.ptrace(ptrace.SYSCALL, self.tid)

    def _return_to_signal_handling(self) -> None:
        ptrace.ptrace(ptrace.INTERRUPT, self.tid)
        ptrace.ptrace(ptrace.CONT, self.tid)
        while (stop := self._thread.wait(blocking=True))[1] != ptrace.EVENT_STOP:
            self._keep_for_later(stop)
            ptrace.ptrace(ptrace.CONT, self.tid)

    def _keep_for_later(self, stop: ptrace.Stop) -> None:
        """Only a stop signal can arrive while all are blocked; it is sent again once the thread is itself."""
        if ptrace.stop_signal(stop):
            self._late_stops.append(stop[0])

    def _refuse_restartable_sequence(self) -> None:
        if ptrace.REGISTERS.unpack(self._registers)[ptrace.ORIG_RAX] != ptrace.NO_SYSCALL:
            return  # in a system call, where no sequence can be open
        configuration = ctypes.create_string_buffer(24)
        try:
            ptrace.ptrace(ptrace.GET_RSEQ_CONFIGURATION, self.tid, 24, ctypes.addressof(configuration))
        except OSError:
            return  # a kernel before 5.13, or without rseq
        area: int = struct.unpack_from("=Q", configuration.raw)[0]
        if area and any(read_memory(self.tid, area + 8, 8)):
            raise NotTraceable(f"thread {self.tid} is inside a restartable sequence")


def read_memory(pid: int, address: int, length_bytes: int) -> bytes:
    """Raises OSError."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        return os.pread(memory.fileno(), length_bytes, address)


def syscall_instruction(pid: int) -> int:
    """The address of a ``syscall`` instruction in the vDSO of ``pid``. Raises NotTraceable."""
    if platform.machine() != "x86_64":
        raise NotTraceable(f"borrowing threads is not written for {platform.machine()}")
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as lines:
            spans = [line.split(None, 1)[0] for line in lines if line.rstrip().endswith("[vdso]")]
    except OSError as error:
        raise ProcessGone(f"{pid} is gone") from error
    if not spans:
        raise NotTraceable(f"{pid} has no vDSO")
    start, end = (int(part, 16) for part in spans[0].split("-"))
    try:
        code = read_memory(pid, start, end - start)
    except OSError as error:
        raise NotTraceable(f"reading the vDSO of {pid}: {error}") from error
    at = code.find(b"\x0f\x05")
    if at < 0:
        raise NotTraceable(f"the vDSO of {pid} has no syscall instruction")
    return start + at
