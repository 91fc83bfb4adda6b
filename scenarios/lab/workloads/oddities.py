"""A VE's payload that holds one odd thing, of which a checkpoint may or may not be possible: to try what is said of it.

`python3 oddities.py KIND`: makes the thing, says `ready` in /dev/shm/ready, and waits. `--modules` as in `tree.py`.
Rule: each kind is one thing as programs have it, made by the system calls they use; nothing else about the process is odd.
"""

import ctypes
import fcntl
import json
import mmap
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

LIBC = ctypes.CDLL(None, use_errno=True)
NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, NEWTIME = (
    0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000, 0x80,
)  # fmt: skip
KEPT: list[object] = []
"""What must not be collected."""


def _open(path: str, mode: str = "r") -> IO[bytes]:
    """A file that stays open."""
    file = open(path, f"{mode}b", buffering=0)  # noqa: SIM115
    KEPT.append(file)
    return file


def _check(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _syscall(number: int, *words: object) -> int:
    return _check(LIBC.syscall(ctypes.c_long(number), *words), f"system call {number}")


def nothing() -> None:
    """Not odd at all."""


def io_uring() -> None:
    """A ring of 4 entries."""
    _syscall(425, ctypes.c_uint(4), ctypes.create_string_buffer(120))


def userfault() -> None:
    """A userfaultfd."""
    _syscall(323, os.O_CLOEXEC)


def perf() -> None:
    """A software counter of this process."""
    attributes = struct.pack("=IIQ", 1, 128, 0).ljust(128, b"\0")
    _syscall(298, ctypes.create_string_buffer(attributes), 0, -1, -1, 0)


def pidfd() -> None:
    """A descriptor of the process itself."""
    os.pidfd_open(os.getpid())


def inotify() -> None:
    """A watch on a directory."""
    watch = _check(LIBC.inotify_init(), "inotify_init")
    _check(LIBC.inotify_add_watch(watch, b"/data", 2), "inotify_add_watch")


def bpf_map() -> None:
    """An array of the kernel's."""
    attributes = struct.pack("=IIII", 2, 4, 8, 4).ljust(72, b"\0")
    _syscall(321, 0, ctypes.create_string_buffer(attributes), 72)


def landlock() -> None:
    """A set of rules for a sandbox, not used yet."""
    _syscall(444, ctypes.create_string_buffer(struct.pack("=Q", 1)), ctypes.c_size_t(8), 0)


def ping_socket() -> None:
    """A datagram socket for ICMP, as ping without privileges has."""
    Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")
    KEPT.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP))


def raw_socket() -> None:
    """A raw ICMP socket, as ping with privileges has."""
    KEPT.append(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))


def packet_socket() -> None:
    """As tcpdump and DHCP clients have."""
    KEPT.append(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))


def netlink() -> None:
    """A routing socket with nothing to read."""
    quiet = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    quiet.bind((0, 0))
    KEPT.append(quiet)


def netlink_unread() -> None:
    """A routing socket whose answer was not read."""
    asked = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    asked.bind((0, 0))
    asked.send(struct.pack("=IHHIIB3x", 20, 18, 0x301, 1, 0, 0))
    KEPT.append(asked)


def _with_protocol(family: int, kind: int, protocol: int) -> None:
    KEPT.append(socket.socket(family, kind, protocol))


def mptcp() -> None:
    """Multipath TCP, as programs in Go use by default when they listen."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
    listening.bind(("0.0.0.0", 7777))
    listening.listen()
    KEPT.append(listening)


def sctp() -> None:
    """A socket of another transport."""
    _with_protocol(socket.AF_INET, socket.SOCK_STREAM, 132)


def vsock() -> None:
    """A socket between virtual machines."""
    _with_protocol(40, socket.SOCK_STREAM, 0)


def alg() -> None:
    """A socket to the kernel's ciphers."""
    _with_protocol(38, socket.SOCK_SEQPACKET, 0)


def unaccepted() -> None:
    """A connection that nobody has accepted yet."""
    listening, connecting = socket.socket(), socket.socket()
    listening.bind(("127.0.0.1", 7777))
    listening.listen()
    connecting.connect(("127.0.0.1", 7777))
    KEPT.extend((listening, connecting))


def unix_outside() -> None:
    """A stream to a server outside the VE."""
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stream.connect("/outside/server.sock")
    KEPT.append(stream)


def unix_inside() -> None:
    """A stream whose other end is here."""
    KEPT.extend(socket.socketpair())


def renamed() -> None:
    """A file opened by a name that is gone, while it has another."""
    _open("/data/first", "w+")
    os.link("/data/first", "/data/second")
    os.unlink("/data/first")


def ghost() -> None:
    """A deleted file that is larger than what may travel in the images."""
    file = _open("/data/large", "w+")
    os.unlink("/data/large")
    block = b"x" * (1 << 20)
    for _ in range(257):
        file.write(block)


def small_ghost() -> None:
    """A deleted file."""
    _open("/data/small", "w+")
    os.unlink("/data/small")


def outside_file() -> None:
    """A file of the host by a descriptor that came from there; here from a directory that is then unmounted lazily."""
    _open("/outside/file")
    _check(LIBC.umount2(b"/outside", 2), "umount2")


def fuse() -> None:
    """The device of file systems in user space."""
    os.mknod("/dev/fuse", 0o600 | 0o020000, os.makedev(10, 229))
    _open("/dev/fuse", "r+")


def null() -> None:
    """A device that everybody has."""
    _open("/dev/null", "r+")


def terminal() -> None:
    """A terminal whose both ends are here."""
    os.openpty()


def half_terminal() -> None:
    """A terminal whose other end is outside the VE."""
    _open("/outside/terminal", "r+")


def traced() -> None:
    """A process that another one traces."""
    pid = os.fork()
    if not pid:
        _wait()
    _check(LIBC.ptrace(0x4206, pid, None, None), "ptrace")


def hugetlb_memfd() -> None:
    """A memory file of huge pages."""
    os.memfd_create("huge", os.MFD_HUGETLB)


def shared_ring() -> None:
    """A mapping of a packet socket's ring."""
    packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    packet.setsockopt(263, 5, struct.pack("=IIII", 4096, 1, 4096, 1))
    KEPT.extend((packet, mmap.mmap(packet.fileno(), 4096)))


def _namespace(flags: int) -> Callable[[], None]:
    def unshare() -> None:
        pid = os.fork()
        if not pid:
            _check(LIBC.unshare(flags), "unshare")
            if flags & (NEWPID | NEWTIME) and os.fork():
                _wait()
            _say()
            _wait()
        while not os.path.exists("/dev/shm/ready"):
            time.sleep(0.001)

    unshare.__doc__ = "A child in a namespace of its own."
    return unshare


def ramfs() -> None:
    """A mount of a kind that few know."""
    os.mkdir("/data/ram")
    _check(LIBC.mount(b"ramfs", b"/data/ram", b"ramfs", 0, None), "mount")


def tmpfs() -> None:
    """A mount of a kind that everybody knows."""
    os.mkdir("/data/ram")
    _check(LIBC.mount(b"tmpfs", b"/data/ram", b"tmpfs", 0, None), "mount")


def overlay() -> None:
    """A mount as a container engine inside the VE makes."""
    for name in ("lower", "upper", "work", "merged"):
        os.mkdir(f"/dev/shm/{name}")
    options = b"lowerdir=/dev/shm/lower,upperdir=/dev/shm/upper,workdir=/dev/shm/work"
    _check(LIBC.mount(b"overlay", b"/dev/shm/merged", b"overlay", 0, options), "mount")


def other_user() -> None:
    """A process of an ordinary user."""
    if not os.fork():
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
        _wait()


def lease() -> None:
    """A file lease."""
    fcntl.fcntl(_open("/data/leased", "w+"), fcntl.F_SETLEASE, fcntl.F_WRLCK)


def stopped() -> None:
    """A process that was stopped by a signal."""
    pid = os.fork()
    if not pid:
        _wait()
    os.kill(pid, signal.SIGSTOP)


def threads() -> None:
    """Some threads that wait."""
    for _ in range(5):
        threading.Thread(target=_wait, daemon=True).start()


KINDS: dict[str, Callable[[], None]] = {
    **{
        kind.__name__: kind
        for kind in (
            nothing, io_uring, userfault, perf, pidfd, inotify, bpf_map, landlock, ping_socket, raw_socket, packet_socket,
            netlink, netlink_unread, mptcp, sctp, vsock, alg, unaccepted, unix_outside, unix_inside, renamed, ghost,
            small_ghost, outside_file, fuse, null, terminal, half_terminal, traced, hugetlb_memfd, shared_ring, ramfs,
            tmpfs, overlay, other_user, lease, stopped, threads,
        )
    },
    **{
        f"nested_{name}": _namespace(flags)
        for name, flags in {
            "mnt": NEWNS, "uts": NEWUTS, "ipc": NEWIPC, "user": NEWUSER, "pid": NEWPID, "net": NEWNET,
            "cgroup": NEWCGROUP, "time": NEWTIME,
        }.items()
    },
}  # fmt: skip


def _say(word: str = "ready") -> None:
    with open("/dev/shm/new", "w") as file:
        file.write(word)
    os.rename("/dev/shm/new", "/dev/shm/ready")


def _wait() -> None:
    while True:
        time.sleep(1000)


def main() -> None:
    """Make it and wait."""
    if sys.argv[1:] == ["--modules"]:
        files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
        print(json.dumps(sorted(file for file in files if file and file != __file__)))
        return
    try:
        KINDS[sys.argv[1]]()
    except OSError as error:
        _say(f"cannot: {error}")
    else:
        _say()
    _wait()


if __name__ == "__main__":
    main()
