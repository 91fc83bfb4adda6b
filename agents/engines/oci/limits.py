"""Lets CRIU dump processes of other users on a host whose root lacks CAP_SYS_RESOURCE (most containers' root).

CRIU asks the kernel for each process's limits by prlimit(2), which without that capability is answered for one's own user
only; `/proc/PID/limits` says the same to any root. So CRIU runs under a seccomp filter that hands its prlimit calls to
a supervisor, which answers reading calls about others from there and lets everything else through.

Run as a file by `python3 -I limits.py CRIU ARGUMENT...` in place of CRIU (same process id, same descriptors); nothing but the
standard library is imported. Sources: seccomp_unotify(2), prlimit(2), proc_pid_limits(5), linux/seccomp.h.
"""

import contextlib
import ctypes
import fcntl
import os
import select
import socket
import struct
import sys

LIMIT_NAMES = (
    "Max cpu time", "Max file size", "Max data size", "Max stack size", "Max core file size", "Max resident set",
    "Max processes", "Max open files", "Max locked memory", "Max address space", "Max file locks", "Max pending signals",
    "Max msgqueue size", "Max nice priority", "Max realtime priority", "Max realtime timeout",
)  # fmt: skip
"""By the number of the resource."""
NAME_COLUMNS = 26
INFINITY = (1 << 64) - 1
CAP_SYS_RESOURCE = 24
# machine -> (AUDIT_ARCH_*, number of seccomp, number of prlimit64)
MACHINES = {"x86_64": (0xC000003E, 317, 302), "aarch64": (0xC00000B7, 277, 261)}
SET_MODE_FILTER, NEW_LISTENER = 1, 8
ALLOW, NOTIFY = 0x7FFF0000, 0x7FC00000
NOTIF_RECV, NOTIF_SEND = 0xC0502100, 0xC0182101
CONTINUE = 1
NOTIFICATION, ANSWER = struct.Struct("QIIiIQ6Q"), struct.Struct("QqiI")
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06


def needed(pids: list[int]) -> bool:
    """Whether CRIU, run by this process, would be refused the limits of any of these processes."""
    return os.uname().machine in MACHINES and not may_set_limits() and any(foreign(pid) for pid in pids)


def may_set_limits() -> bool:
    """Whether this process has CAP_SYS_RESOURCE."""
    return bool(int(_status(os.getpid()).get("CapEff", "0"), 16) >> CAP_SYS_RESOURCE & 1)


def foreign(pid: int) -> bool:
    """Whether a process has another user or group than this one: prlimit compares the real, effective and saved ids."""
    status, own = _status(pid), [str(os.getuid()), str(os.getgid())]
    ids = [status.get(name, "").split()[:3] for name in ("Uid", "Gid")]
    return any(id_ != mine for each, mine in zip(ids, own, strict=True) for id_ in each)


def _status(pid: int) -> dict[str, str]:
    try:
        with open(f"/proc/{pid}/status") as file:
            return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    except OSError:
        return {}


def read(pid: int, resource: int) -> tuple[int, int]:
    """(soft, hard) limit of a process; INFINITY for none. Raises OSError, LookupError."""
    with open(f"/proc/{pid}/limits") as file:
        for line in file:
            if line.startswith(LIMIT_NAMES[resource] + " "):
                soft, hard = line[NAME_COLUMNS:].split()[:2]
                return _number(soft), _number(hard)
    raise LookupError(resource)


def _number(word: str) -> int:
    return INFINITY if word == "unlimited" else int(word)


def main(argv: list[str]) -> None:
    """Become CRIU, with a supervisor beside it."""
    ours, theirs = socket.socketpair()
    between = os.fork()
    if not between:
        if os.fork():
            os._exit(0)  # an orphan is nobody's child: CRIU waits for any child of its own
        theirs.close()
        _supervise(_receive(ours))
        os._exit(0)
    os.waitpid(between, 0)
    ours.close()
    listener = _filter()
    socket.send_fds(theirs, [b"x"], [listener])
    os.close(listener)
    theirs.recv(1)
    theirs.close()
    os.execv(argv[0], argv)


def _filter() -> int:
    """Hand this process's prlimit calls, and those of what it becomes, to whoever has the descriptor returned."""
    architecture, seccomp, prlimit = MACHINES[os.uname().machine]
    program = b"".join(
        struct.pack("HBBI", *line)
        for line in (
            (_LOAD, 0, 0, 4),
            (_JUMP_EQUAL, 0, 3, architecture),
            (_LOAD, 0, 0, 0),
            (_JUMP_EQUAL, 0, 1, prlimit),
            (_RETURN, 0, 0, NOTIFY),
            (_RETURN, 0, 0, ALLOW),
        )
    )
    code = ctypes.create_string_buffer(program)
    head = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    words = (ctypes.c_long(seccomp), ctypes.c_ulong(SET_MODE_FILTER), ctypes.c_ulong(NEW_LISTENER))
    listener: int = libc.syscall(*words, ctypes.byref(head))
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return listener


def _receive(stream: socket.socket) -> int:
    _, descriptors, _, _ = socket.recv_fds(stream, 1, 1)
    [listener] = descriptors
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in (listener, stream.fileno()):
            with contextlib.suppress(OSError):
                os.close(int(name))  # what CRIU talks over must end when CRIU ends
    stream.send(b"k")
    stream.close()
    return listener


def _supervise(listener: int) -> None:
    """Answer until nobody is left who could ask."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while not poll.poll()[0][1] & select.POLLHUP:
        asked = bytearray(NOTIFICATION.size)
        with contextlib.suppress(OSError):  # who asked has ended
            fcntl.ioctl(listener, NOTIF_RECV, asked)
            fcntl.ioctl(listener, NOTIF_SEND, bytearray(_answer(*NOTIFICATION.unpack(asked))))


def _answer(number: int, asking: int, *rest: int) -> bytes:
    target, resource, new, old = rest[4:8]
    if new or not old or target in (0, asking):
        return ANSWER.pack(number, 0, 0, CONTINUE)
    try:
        limits = struct.pack("QQ", *read(target, resource))
        with open(f"/proc/{asking}/mem", "r+b", buffering=0) as memory:
            memory.seek(old)
            memory.write(limits)
    except (OSError, LookupError):
        return ANSWER.pack(number, 0, 0, CONTINUE)
    return ANSWER.pack(number, 0, 0, 0)


if __name__ == "__main__":
    main(sys.argv[1:])
