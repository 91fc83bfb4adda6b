"""The system calls that Python does not offer, through ctypes: nothing here decides anything.

Each function raises ``OSError`` with the kernel's errno. Numbers and layouts are those of
``linux/userfaultfd.h``, ``linux/fs.h`` (PAGEMAP_SCAN, Linux 6.7) and ``asm/unistd_64.h``.
"""

import ctypes
import errno
import fcntl
import os
import signal
import struct
import threading
from array import array
from collections.abc import Sequence

from agents.transfer.memory.extents import Extent

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.process_vm_readv.restype = ctypes.c_ssize_t
_libc.mmap.restype = ctypes.c_void_p
_holding_gil = ctypes.PyDLL(None, use_errno=True)
"""For a call that returns twice: who lets go of the interpreter's lock for it takes it again in both processes."""
_holding_gil.syscall.restype = ctypes.c_long

IOV_MAX = 1024
SYS_PIDFD_OPEN = 434
SYS_PIDFD_GETFD = 438
SYS_CLONE3 = 435
PIDFD_THREAD = os.O_EXCL

CLONE_FILES = 0x00000400
CLONE_PIDFD = 0x00001000
CLONE_NEWNS = 0x00020000
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18

UFFD_API = 0xAA
UFFD_FEATURE_PAGEFAULT_FLAG_WP = 1 << 0
UFFD_FEATURE_WP_UNPOPULATED = 1 << 13
UFFD_FEATURE_WP_ASYNC = 1 << 15
UFFD_USER_MODE_ONLY = 1
UFFDIO_REGISTER_MODE_WP = 1 << 1
_KEEP_SIZE = 1
_PUNCH_HOLE = 2
_UFFDIO_API = 0xC018AA3F
_UFFDIO_REGISTER = 0xC020AA00
_UFFDIO_UNREGISTER = 0x8010AA01
_UFFDIO_WAKE = 0x8010AA02
_UFFDIO_COPY = 0xC028AA03
_UFFDIO_ZEROPAGE = 0xC020AA04

PAGE_IS_WPALLOWED = 1 << 0
PAGE_IS_WRITTEN = 1 << 1
PAGE_IS_PRESENT = 1 << 3
PAGE_IS_SWAPPED = 1 << 4
PAGE_IS_PFNZERO = 1 << 5
PAGE_IS_GUARD = 1 << 8
"""Linux 6.15: no page, but a marker (MADV_GUARD_INSTALL); also said to be swapped."""
PM_SCAN_WP_MATCHING = 1 << 0
_PAGEMAP_SCAN = 0xC0606610
_SCAN_ARG = struct.Struct("=12Q")
_SCAN_REGIONS = 8192
_OF_THREAD = threading.local()
_SYS_IOCTL = 16
_SYS_KCMP = 312
_KCMP_VM = 1
_PR_SET_SECCOMP = 22
_PROCMAP_QUERY = 0xC0686611
_PROCMAP_QUERY_BYTES = 104


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def pidfd_open(pid: int, flags: int = 0) -> int:
    """A descriptor that stands for the process; with ``PIDFD_THREAD`` (Linux 6.9) for one thread."""
    return _check(_libc.syscall(SYS_PIDFD_OPEN, pid, flags), "pidfd_open")


def pidfd_getfd(pidfd: int, number: int) -> int:
    """Our own copy of another process's descriptor ``number``."""
    return _check(_libc.syscall(SYS_PIDFD_GETFD, pidfd, number, 0), "pidfd_getfd")


def clone_with_our_files() -> tuple[int, int]:
    """As ``os.fork``, with one table of descriptors for both: the child's id (0 in the child) and its pidfd.

    The interpreter is not told: the child may do a few system calls and end by ``os._exit``.
    """
    pidfd = ctypes.c_int(-1)
    words = array("Q", (CLONE_FILES | CLONE_PIDFD, ctypes.addressof(pidfd), 0, 0, signal.SIGCHLD, 0, 0, 0))
    pid = _holding_gil.syscall(SYS_CLONE3, ctypes.c_void_p(words.buffer_info()[0]), ctypes.c_size_t(8 * len(words)))
    return _check(pid, "clone3"), pidfd.value


def same_memory(one: int, other: int) -> bool:
    """Whether two processes have one address space (kcmp(2)); False when one of them is gone."""
    try:
        return _check(_libc.syscall(_SYS_KCMP, one, other, _KCMP_VM, 0, 0), "kcmp") == 0
    except ProcessLookupError:
        return False


def unshare(flags: int) -> None:
    """Leave namespaces of the parent (unshare(2))."""
    _check(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, flags: int) -> None:
    """mount(2) without file system type or data, as bind mounts and propagation changes need it."""
    _check(_libc.mount(source.encode(), target.encode(), None, ctypes.c_ulong(flags), None), f"mount on {target}")


def refuse_pagemap_scan() -> None:
    """From now on, for this process and what it becomes, PAGEMAP_SCAN fails with ENOTTY, as before Linux 6.7."""
    program = (ctypes.c_uint64 * 8)(
        _bpf(0x20, 0, 0, 0),  # load the number of the system call
        _bpf(0x15, 0, 4, _SYS_IOCTL),
        _bpf(0x20, 0, 0, 24),  # load the lower half of its second argument
        _bpf(0x15, 0, 2, _PAGEMAP_SCAN),
        _bpf(0x06, 0, 0, 0x00050000 | errno.ENOTTY),
        _bpf(0x06, 0, 0, 0x7FFF0000),
        _bpf(0x06, 0, 0, 0x7FFF0000),
        _bpf(0x06, 0, 0, 0x7FFF0000),
    )
    header = struct.pack("@HxxxxxxP", len(program), ctypes.addressof(program))
    keep = ctypes.create_string_buffer(header, len(header))
    _check(_libc.prctl(_PR_SET_SECCOMP, 2, ctypes.c_void_p(ctypes.addressof(keep)), 0, 0), "prctl(PR_SET_SECCOMP)")


def _bpf(code: int, if_true: int, if_false: int, value: int) -> int:
    """One instruction of a classic BPF program, as it lies in memory."""
    return code | if_true << 16 | if_false << 24 | value << 32


def read_memory(pid: int, ranges: Sequence[Extent], address: int) -> int:
    """process_vm_readv: the ranges of ``pid``, one after another, to our memory at ``address``.

    Returns the bytes copied, which ends early at the first page that cannot be read. At most ``IOV_MAX``
    ranges.
    """
    remote = array("Q", [number for start, end in ranges for number in (start, end - start)])
    local = array("Q", (address, sum(end - start for start, end in ranges)))
    return _check(
        _libc.process_vm_readv(
            ctypes.c_int(pid),
            ctypes.c_void_p(local.buffer_info()[0]),
            ctypes.c_ulong(1),
            ctypes.c_void_p(remote.buffer_info()[0]),
            ctypes.c_ulong(len(ranges)),
            ctypes.c_ulong(0),
        ),
        f"process_vm_readv of {pid}",
    )


def _regions() -> "array[int]":
    """Room for one answer of PAGEMAP_SCAN, of this thread, used again and again: there is a call for every mapping, and making
    room costs more than the scan."""
    if not hasattr(_OF_THREAD, "regions"):
        _OF_THREAD.regions = array("Q", bytes(_SCAN_REGIONS * 24))
    made: array[int] = _OF_THREAD.regions
    return made


def scan_pagemap(
    pagemap: int, span: Extent, *, inverted: int, mask: int, anyof: int, returned: int, protect: bool = False
) -> list[tuple[int, int, int]]:
    """PAGEMAP_SCAN over ``span`` of an open ``/proc/PID/pagemap``: ``(start, end, categories)`` in order.

    ``protect`` write-protects what it reports, in the same step (``PM_SCAN_WP_MATCHING``). ENOTTY: the kernel is
    older than 6.7.
    """
    regions = _regions()
    found: list[tuple[int, int, int]] = []
    at, end = span
    while at < end:
        argument = bytearray(
            _SCAN_ARG.pack(
                _SCAN_ARG.size, PM_SCAN_WP_MATCHING if protect else 0, at, end, 0,
                regions.buffer_info()[0], _SCAN_REGIONS, 0, inverted, mask, anyof, returned,
            )
        )  # fmt: skip
        count = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, argument)
        flat = regions[: 3 * count].tolist()
        found.extend(zip(flat[0::3], flat[1::3], flat[2::3], strict=True))
        at = _SCAN_ARG.unpack(argument)[4]
    return found


def mapping_at(maps: int, address: int) -> Extent | None:
    """The mapping of an open ``/proc/PID/maps`` that covers ``address``; None: there is none.

    PROCMAP_QUERY, a few microseconds. ENOTTY: the kernel is older than 6.11.
    """
    argument = bytearray(_PROCMAP_QUERY_BYTES)
    struct.pack_into("=3Q", argument, 0, _PROCMAP_QUERY_BYTES, 0, address)
    try:
        fcntl.ioctl(maps, _PROCMAP_QUERY, argument)
    except FileNotFoundError:
        return None
    start, end = struct.unpack_from("=2Q", argument, 24)
    return int(start), int(end)


def punch_hole(fd: int, extent: Extent) -> None:
    """Give back the memory behind a part of a file; it reads as zeros from then on (fallocate(2))."""
    start, end = extent
    _check(
        _libc.fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, ctypes.c_long(start), ctypes.c_long(end - start)),
        "fallocate",
    )


def uffd_api(uffd: int, features: int) -> int:
    """The handshake every userfaultfd needs; returns the features the kernel gave."""
    argument = bytearray(struct.pack("=3Q", UFFD_API, features, 0))
    fcntl.ioctl(uffd, _UFFDIO_API, argument)
    return int(struct.unpack("=3Q", argument)[1])


def uffd_register(uffd: int, extent: Extent, mode: int) -> None:
    """Put a range under the descriptor; EBUSY where another userfaultfd has it, ESRCH or ENOMEM: mm is gone."""
    start, end = extent
    fcntl.ioctl(uffd, _UFFDIO_REGISTER, bytearray(struct.pack("=4Q", start, end - start, mode, 0)))


def uffd_unregister(uffd: int, extent: Extent) -> None:
    """Take a range away from the descriptor; waiters go on, and pages lose their write protection."""
    start, end = extent
    fcntl.ioctl(uffd, _UFFDIO_UNREGISTER, struct.pack("=2Q", start, end - start))


def uffd_wake(uffd: int, extent: Extent) -> None:
    """Let the threads that wait on faults in the range try again."""
    start, end = extent
    fcntl.ioctl(uffd, _UFFDIO_WAKE, struct.pack("=2Q", start, end - start))


def uffd_copy(uffd: int, target: int, source: int, length_bytes: int) -> tuple[int, int]:
    """Place pages of ours into missing pages of theirs: ``(bytes done, errno or 0)``."""
    argument = bytearray(struct.pack("=QQQQq", target, source, length_bytes, 0, 0))
    try:
        fcntl.ioctl(uffd, _UFFDIO_COPY, argument)
    except OSError as error:
        return max(0, struct.unpack("=QQQQq", argument)[4]), error.errno or 0
    return length_bytes, 0


def uffd_zero(uffd: int, extent: Extent) -> tuple[int, int]:
    """Place zero pages into missing pages: ``(bytes done, errno or 0)``."""
    start, end = extent
    argument = bytearray(struct.pack("=QQQq", start, end - start, 0, 0))
    try:
        fcntl.ioctl(uffd, _UFFDIO_ZEROPAGE, argument)
    except OSError as error:
        return max(0, struct.unpack("=QQQq", argument)[3]), error.errno or 0
    return end - start, 0
