"""One thread under ptrace: seize it, stop it, read and set its registers, and let it go.

Rules: a seized thread is let go by whoever seized it, in whatever way the work ends; a thread that cannot stop is not waited
for beyond a limit. ptrace ties a tracee to the operating-system thread that seized it, so work is done `in_own_thread`,
whose end lets go by itself. Sources: ptrace(2), linux/ptrace.h, asm/user_64.h.
"""

import ctypes
import errno
import os
import signal
import struct
import threading
import time
from collections.abc import Callable
from typing import TypeVar

CONT = 7
DETACH = 17
SYSCALL = 24
GET_EVENT_MESSAGE = 0x4201
GETREGSET = 0x4204
SETREGSET = 0x4205
SEIZE = 0x4206
INTERRUPT = 0x4207
GETSIGMASK = 0x420A
SETSIGMASK = 0x420B
GET_RSEQ_CONFIGURATION = 0x420F

TRACE_SYSCALLS_APART = 1
TRACE_EXIT = 1 << 6
SUSPEND_SECCOMP = 1 << 21
EVENT_EXIT = 6
EVENT_STOP = 128

NT_PRSTATUS = 1
NT_X86_XSTATE = 0x202
XSTATE_LIMIT_BYTES = 16384
"""AMX's tiles, the largest part there is, take 8 KiB."""
EVERY_SIGNAL = (1 << 64) - 1
WALL = 0x40000000

REGISTERS = struct.Struct("=27Q")
"""struct user_regs_struct of x86_64."""
RDI, RSI, RDX, R10, R8, R9, RAX, ORIG_RAX, RIP = 14, 13, 12, 7, 9, 8, 10, 15, 16
NO_SYSCALL = (1 << 64) - 1

Value = TypeVar("Value")
Stop = tuple[int, int]
"""The signal, and the ptrace event or 0."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long


class NotTraceable(Exception):
    """The thread cannot be worked with now; the text says why. It runs on as before."""


class ProcessGone(NotTraceable):
    """It ended meanwhile."""


def ptrace(request: int, tid: int, address: int = 0, data: int = 0) -> int:
    """ptrace(2) with plain numbers for address and data. Raises OSError."""
    result: int = _libc.ptrace(
        ctypes.c_long(request), ctypes.c_int(tid), ctypes.c_void_p(address), ctypes.c_void_p(data)
    )
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace request {request:#x} on {tid}: {os.strerror(number)}")
    return result


class Seized:
    """One seized and stopped thread; leaving the block lets it go."""

    def __init__(self, tid: int, *, patience_s: float, options: int = 0) -> None:
        self.tid = tid
        self._options = options
        self._deadline = time.monotonic() + patience_s
        self.ending = False
        """It stands at its end (with TRACE_EXIT: killed while it was being stopped)."""

    def __enter__(self) -> "Seized":
        """Raises NotTraceable."""
        try:
            ptrace(SEIZE, self.tid, 0, self._options)
        except OSError as error:
            if error.errno == errno.ESRCH:
                raise ProcessGone(f"{self.tid} is gone") from error
            raise NotTraceable(f"seizing {self.tid}: {error}") from error
        try:
            self.stop()
        except BaseException:
            self.detach()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def stop(self) -> None:
        """Stop it; returns when it stands. A signal on its way is delivered as if nobody watched. Raises NotTraceable."""
        with self._gone_if_none():
            ptrace(INTERRUPT, self.tid)
        while True:
            number, event = self.wait(blocking=False)
            if event in (EVENT_STOP, EVENT_EXIT):
                self.ending = event == EVENT_EXIT
                return
            with self._gone_if_none():
                ptrace(CONT, self.tid, 0, 0 if event else number)

    def wait(self, *, blocking: bool) -> Stop:
        """The next stop. Raises ProcessGone; NotTraceable when it does not block and patience ends."""
        pause_s = 0.00002
        while True:
            try:
                pid, status = os.waitpid(self.tid, WALL | (0 if blocking else os.WNOHANG))
            except ChildProcessError as error:
                raise ProcessGone(f"{self.tid} is gone") from error
            if pid and os.WIFSTOPPED(status):
                return os.WSTOPSIG(status), status >> 16
            if pid:
                raise ProcessGone(f"{self.tid} ended")
            if time.monotonic() > self._deadline:
                raise NotTraceable(f"thread {self.tid} did not stop (in a vfork, or waiting on a device)")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.002)

    def registers(self) -> bytes:
        """The general registers. Raises NotTraceable for 32-bit code, OSError."""
        found = self._get_registers(NT_PRSTATUS, REGISTERS.size)
        if len(found) != REGISTERS.size:
            raise NotTraceable(f"thread {self.tid} runs 32-bit code")
        return found

    def set_registers(self, registers: bytes) -> None:
        """What `registers` gave, or a change of it."""
        self._set_registers(NT_PRSTATUS, registers)

    def extended(self) -> bytes:
        """The floating-point and vector registers (XSAVE area)."""
        return self._get_registers(NT_X86_XSTATE, XSTATE_LIMIT_BYTES)

    def set_extended(self, state: bytes) -> None:
        """What `extended` gave."""
        self._set_registers(NT_X86_XSTATE, state)

    def signal_mask(self) -> int:
        """The blocked signals, a bit each."""
        mask = ctypes.create_string_buffer(8)
        ptrace(GETSIGMASK, self.tid, 8, ctypes.addressof(mask))
        return int.from_bytes(mask.raw, "little")

    def set_signal_mask(self, mask: int) -> None:
        """Block these signals and no others."""
        data = ctypes.create_string_buffer(mask.to_bytes(8, "little"), 8)
        ptrace(SETSIGMASK, self.tid, 8, ctypes.addressof(data))

    def detach(self) -> None:
        """Let it go; one that has ended needs no letting go."""
        try:
            ptrace(DETACH, self.tid)
        except OSError as error:
            if error.errno != errno.ESRCH:
                raise

    def _gone_if_none(self) -> "_GoneIfNone":
        return _GoneIfNone(self.tid)

    def _get_registers(self, which: int, room_bytes: int) -> bytes:
        held = _RegisterSet(bytes(room_bytes))
        ptrace(GETREGSET, self.tid, which, held.address)
        return held.buffer.raw[: held.vector.length]

    def _set_registers(self, which: int, content: bytes) -> None:
        wanted = _RegisterSet(content)
        ptrace(SETREGSET, self.tid, which, wanted.address)


class _GoneIfNone:
    """ESRCH means that the thread has ended."""

    def __init__(self, tid: int) -> None:
        self._tid = tid

    def __enter__(self) -> None: ...

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError) and error.errno == errno.ESRCH:
            raise ProcessGone(f"{self._tid} is gone") from error


class _IoVector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class _RegisterSet:
    """Registers in memory, with the iovec ptrace wants; must outlive the call it is given to."""

    def __init__(self, content: bytes) -> None:
        self.buffer = ctypes.create_string_buffer(content, len(content))
        self.vector = _IoVector(ctypes.addressof(self.buffer), len(content))
        self.address = ctypes.addressof(self.vector)


def event_message(tid: int) -> int:
    """What an event says beyond its number: for EVENT_EXIT the status as wait(2) will give it."""
    message = ctypes.c_ulong()
    ptrace(GET_EVENT_MESSAGE, tid, 0, ctypes.addressof(message))
    return message.value


def threads(pid: int) -> list[int]:
    """Thread ids, the leader first. Raises ProcessGone."""
    try:
        others = sorted(int(name) for name in os.listdir(f"/proc/{pid}/task") if int(name) != pid)
    except OSError as error:
        raise ProcessGone(f"{pid} is gone") from error
    return [pid, *others]


def stop_signal(stop: Stop) -> bool:
    """Whether a stop is a signal that arrives, not a system call's edge or an event."""
    number, event = stop
    return event == 0 and number != signal.SIGTRAP | 0x80


def in_own_thread(work: Callable[[], Value]) -> Value:
    """Run `work` in a thread that ends with it, and lets go of what it traced."""
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
