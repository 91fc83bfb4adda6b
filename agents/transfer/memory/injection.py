"""Open a userfaultfd inside a running process and bring it out, without the process noticing.

A userfaultfd belongs to the address space that made the call, so a foreign process has to make it. One of its
threads is seized with ptrace, made to run one ``syscall`` instruction that already exists in its vDSO (no byte of
it is changed), and put back as it was: registers, signal mask, and the system call it was blocked in.

The rules kept here, each of which has a way to harm the VE if broken:

* Signals are blocked while the call runs, so that no handler starts on borrowed registers; they stay pending.
* The registers are put back at a stop *inside the kernel's signal handling*: only from there does the kernel
  restart a system call that was interrupted (``-ERESTARTSYS`` and its kin would otherwise reach the program).
* seccomp filters are suspended for the traced thread (``PTRACE_O_SUSPEND_SECCOMP``), for a filter may kill.
* A thread inside a restartable sequence (rseq) is left alone, for leaving one unseen breaks its atomicity.
* A thread that cannot stop (the parent in a vfork) is not waited for: the tracer is an operating-system thread of
  its own that ends, and the kernel then detaches by itself.
"""

import ctypes
import errno
import os
import platform
import signal
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from agents.transfer.memory import kernel

_SYS_USERFAULTFD = 323
_SYS_CLOSE = 3

_PTRACE_CONT = 7
_PTRACE_DETACH = 17
_PTRACE_SYSCALL = 24
_PTRACE_GETREGSET = 0x4204
_PTRACE_SETREGSET = 0x4205
_PTRACE_SEIZE = 0x4206
_PTRACE_INTERRUPT = 0x4207
_PTRACE_GETSIGMASK = 0x420A
_PTRACE_SETSIGMASK = 0x420B
_PTRACE_GET_RSEQ_CONFIGURATION = 0x420F
_PTRACE_O_TRACESYSGOOD = 1
_PTRACE_O_SUSPEND_SECCOMP = 1 << 21
_PTRACE_EVENT_STOP = 128
_NT_PRSTATUS = 1
_WALL = 0x40000000
_SYSCALL_STOP = signal.SIGTRAP | 0x80

_REGISTERS = 27  # struct user_regs_struct of x86_64
_RDI, _RSI, _RDX, _R10, _RAX, _ORIG_RAX, _RIP = 14, 13, 12, 7, 10, 15, 16
_NO_SYSCALL = (1 << 64) - 1
_THREADS_TRIED = 8

Value = TypeVar("Value")


class NotInjectable(Exception):
    """The process cannot be given a userfaultfd now; the text says why. It runs on as before."""


class ProcessGone(NotInjectable):
    """The process ended meanwhile."""


def open_userfaultfd(pid: int, *, patience_s: float = 0.1) -> int:
    """A userfaultfd over the address space of ``pid``, not yet set up (``UFFDIO_API`` is the caller's).

    The process stands still for about 0.1 ms and keeps no copy of the descriptor. It is opened for user-mode faults
    only, which needs no privilege in the VE; with ``WP_ASYNC`` the kernel resolves faults itself, so that
    writes from inside system calls are covered all the same. Raises ``NotInjectable``.
    """
    if platform.machine() != "x86_64":
        raise NotInjectable(f"injection is not written for {platform.machine()}")
    instruction = _syscall_instruction(pid)
    reasons: list[str] = []
    for tid in _threads(pid)[:_THREADS_TRIED]:
        try:
            return _in_own_thread(partial(_borrow, pid, tid, instruction, patience_s))
        except ProcessGone:
            raise
        except NotInjectable as reason:
            reasons.append(str(reason))
    raise NotInjectable("; ".join(reasons) or "no thread")


def close_in_process(pid: int, number: int, *, patience_s: float = 0.1) -> None:
    """Close the descriptor ``number`` inside ``pid``: for one that a child inherited in the instant it existed."""
    instruction = _syscall_instruction(pid)

    def close() -> None:
        with _Seized(pid, patience_s) as thread:
            thread.call(instruction, _SYS_CLOSE, number)

    _in_own_thread(close)


def userfaultfds(pid: int) -> list[int]:
    """Numbers of the descriptors of ``pid`` that are userfaultfds."""
    found: list[int] = []
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                if os.readlink(f"/proc/{pid}/fd/{name}") == "anon_inode:[userfaultfd]":
                    found.append(int(name))
            except OSError:
                continue
    except OSError:
        return []
    return found


def _borrow(pid: int, tid: int, instruction: int, patience_s: float) -> int:
    with _Seized(tid, patience_s) as thread:
        flags = os.O_CLOEXEC | os.O_NONBLOCK | kernel.UFFD_USER_MODE_ONLY
        number = thread.call(instruction, _SYS_USERFAULTFD, flags)
        if number < 0:
            raise NotInjectable(f"userfaultfd in {pid}: {os.strerror(-number)}")
        try:
            pidfd = kernel.pidfd_open(tid, 0 if tid == pid else kernel.PIDFD_THREAD)
            try:
                return kernel.pidfd_getfd(pidfd, number)
            finally:
                os.close(pidfd)
        except OSError as error:
            raise NotInjectable(f"bringing the descriptor out of {pid}: {error}") from error
        finally:
            thread.call(instruction, _SYS_CLOSE, number)


@dataclass(slots=True)
class _Context:
    """What the thread must be given back."""

    registers: bytes
    signal_mask: int


class _Seized:
    """One seized and stopped thread; leaving the block puts it back and lets it go."""

    def __init__(self, tid: int, patience_s: float) -> None:
        self._tid = tid
        self._deadline = time.monotonic() + patience_s
        self._saved: _Context | None = None
        self._late_stops: list[int] = []

    def __enter__(self) -> "_Seized":
        try:
            kernel.ptrace(_PTRACE_SEIZE, self._tid, 0, _PTRACE_O_TRACESYSGOOD | _PTRACE_O_SUSPEND_SECCOMP)
            kernel.ptrace(_PTRACE_INTERRUPT, self._tid, 0, 0)
        except OSError as error:
            if error.errno == errno.ESRCH:
                raise ProcessGone(f"{self._tid} is gone") from error
            raise NotInjectable(f"seizing {self._tid}: {error}") from error
        self._await_interrupt()
        try:
            registers = self._registers()
            self._refuse_restartable_sequence(registers)
            self._saved = _Context(registers, self._signal_mask())
            self._set_signal_mask((1 << 64) - 1)
        except BaseException:
            self._detach()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._saved is None:
            return
        try:
            self._return_to_signal_handling()
            self._set_registers(self._saved.registers)
            self._set_signal_mask(self._saved.signal_mask)
        except OSError as error:
            if error.errno != errno.ESRCH:
                raise
        finally:
            self._detach()
            for number in self._late_stops:
                os.kill(self._tid, number)

    def call(self, instruction: int, number: int, *arguments: int) -> int:
        """Run one system call; returns its result, negative errno on failure."""
        assert self._saved is not None
        registers = list(struct.unpack(f"={_REGISTERS}Q", self._saved.registers))
        registers[_RIP], registers[_RAX], registers[_ORIG_RAX] = instruction, number, _NO_SYSCALL
        for register, value in zip((_RDI, _RSI, _RDX, _R10), (*arguments, 0, 0, 0, 0), strict=False):
            registers[register] = value
        try:
            self._set_registers(struct.pack(f"={_REGISTERS}Q", *registers))
            self._run_to_syscall_stop()
            self._run_to_syscall_stop()
            after = struct.unpack(f"={_REGISTERS}Q", self._registers())
        except OSError as error:
            if error.errno == errno.ESRCH:
                raise ProcessGone(f"{self._tid} is gone") from error
            raise
        result: int = after[_RAX]
        return result - (1 << 64) if result >= 1 << 63 else result

    def _run_to_syscall_stop(self) -> None:
        kernel.ptrace(_PTRACE_SYSCALL, self._tid, 0, 0)
        while (stop := self._wait(blocking=True)) != (_SYSCALL_STOP, 0):
            self._keep_for_later(stop)
            kernel.ptrace(_PTRACE_SYSCALL, self._tid, 0, 0)

    def _return_to_signal_handling(self) -> None:
        kernel.ptrace(_PTRACE_INTERRUPT, self._tid, 0, 0)
        kernel.ptrace(_PTRACE_CONT, self._tid, 0, 0)
        while (stop := self._wait(blocking=True))[1] != _PTRACE_EVENT_STOP:
            self._keep_for_later(stop)
            kernel.ptrace(_PTRACE_CONT, self._tid, 0, 0)

    def _keep_for_later(self, stop: tuple[int, int]) -> None:
        """Only a stop signal can arrive while all are blocked; it is sent again once the thread is itself."""
        number, event = stop
        if event == 0 and number != _SYSCALL_STOP:
            self._late_stops.append(number)

    def _await_interrupt(self) -> None:
        """Wait until the thread stands; a signal on its way is delivered as if nobody watched."""
        while True:
            number, event = self._wait(blocking=False)
            if event == _PTRACE_EVENT_STOP:
                return
            try:
                kernel.ptrace(_PTRACE_CONT, self._tid, 0, 0 if event else number)
            except OSError as error:
                raise ProcessGone(f"{self._tid} is gone") from error

    def _wait(self, *, blocking: bool) -> tuple[int, int]:
        """The next stop as ``(signal, event)``."""
        pause_s = 0.00002
        while True:
            try:
                pid, status = os.waitpid(self._tid, _WALL | (0 if blocking else os.WNOHANG))
            except ChildProcessError as error:
                raise ProcessGone(f"{self._tid} is gone") from error
            if pid and os.WIFSTOPPED(status):
                return os.WSTOPSIG(status), status >> 16
            if pid:
                raise ProcessGone(f"{self._tid} ended")
            if time.monotonic() > self._deadline:
                raise NotInjectable(f"thread {self._tid} did not stop (in a vfork, or waiting on a device)")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.002)

    def _registers(self) -> bytes:
        held = _RegisterSet(bytes(_REGISTERS * 8))
        kernel.ptrace(_PTRACE_GETREGSET, self._tid, _NT_PRSTATUS, held.address)
        if held.vector.length != _REGISTERS * 8:
            raise NotInjectable(f"thread {self._tid} runs 32-bit code")
        return held.buffer.raw

    def _set_registers(self, registers: bytes) -> None:
        wanted = _RegisterSet(registers)
        kernel.ptrace(_PTRACE_SETREGSET, self._tid, _NT_PRSTATUS, wanted.address)

    def _refuse_restartable_sequence(self, registers: bytes) -> None:
        values = struct.unpack(f"={_REGISTERS}Q", registers)
        if values[_ORIG_RAX] != _NO_SYSCALL:
            return  # in a system call, where no sequence can be open
        configuration = ctypes.create_string_buffer(24)
        try:
            kernel.ptrace(_PTRACE_GET_RSEQ_CONFIGURATION, self._tid, 24, ctypes.addressof(configuration))
        except OSError:
            return  # a kernel before 5.13, or without rseq
        area: int = struct.unpack_from("=Q", configuration.raw)[0]
        if area and _read_word(self._tid, area + 8):
            raise NotInjectable(f"thread {self._tid} is inside a restartable sequence")

    def _signal_mask(self) -> int:
        mask = ctypes.create_string_buffer(8)
        kernel.ptrace(_PTRACE_GETSIGMASK, self._tid, 8, ctypes.addressof(mask))
        return int.from_bytes(mask.raw, "little")

    def _set_signal_mask(self, mask: int) -> None:
        data = ctypes.create_string_buffer(mask.to_bytes(8, "little"), 8)
        kernel.ptrace(_PTRACE_SETSIGMASK, self._tid, 8, ctypes.addressof(data))

    def _detach(self) -> None:
        try:
            kernel.ptrace(_PTRACE_DETACH, self._tid, 0, 0)
        except OSError as error:
            if error.errno != errno.ESRCH:
                raise


class _IoVector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class _RegisterSet:
    """The registers in memory, with the iovec ptrace wants; must outlive the call it is given to."""

    def __init__(self, content: bytes) -> None:
        self.buffer = ctypes.create_string_buffer(content, len(content))
        self.vector = _IoVector(ctypes.addressof(self.buffer), len(content))
        self.address = ctypes.addressof(self.vector)


def _read_word(pid: int, address: int) -> int:
    buffer = ctypes.create_string_buffer(8)
    kernel.read_memory(pid, [(address, address + 8)], ctypes.addressof(buffer))
    return int.from_bytes(buffer.raw, "little")


def _syscall_instruction(pid: int) -> int:
    """The address of a ``syscall`` instruction in the vDSO of ``pid``."""
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as lines:
            spans = [line.split(None, 1)[0] for line in lines if line.rstrip().endswith("[vdso]")]
    except OSError as error:
        raise ProcessGone(f"{pid} is gone") from error
    if not spans:
        raise NotInjectable(f"{pid} has no vDSO")
    start, end = (int(part, 16) for part in spans[0].split("-"))
    code = ctypes.create_string_buffer(end - start)
    try:
        kernel.read_memory(pid, [(start, end)], ctypes.addressof(code))
    except OSError as error:
        raise NotInjectable(f"reading the vDSO of {pid}: {error}") from error
    at = code.raw.find(b"\x0f\x05")
    if at < 0:
        raise NotInjectable(f"the vDSO of {pid} has no syscall instruction")
    return start + at


def _threads(pid: int) -> list[int]:
    """Thread ids, the leader first."""
    try:
        others = sorted(int(name) for name in os.listdir(f"/proc/{pid}/task") if int(name) != pid)
    except OSError as error:
        raise ProcessGone(f"{pid} is gone") from error
    return [pid, *others]


def _in_own_thread(work: Callable[[], Value]) -> Value:
    """Run ``work`` in a thread that ends with it: ptrace ties a tracee to a thread, and its end lets go."""
    results: list[Value] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as failure:
            failures.append(failure)

    tracer = threading.Thread(target=run, name="ptrace", daemon=True)
    tracer.start()
    tracer.join()
    if failures:
        raise failures[0]
    return results[0]
