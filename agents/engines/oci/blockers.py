"""What in a running VE CRIU would refuse, found before anything is frozen: which process, which object, what to do.

Rule: only what was seen to fail is named, so that nothing is stopped for a suspicion; `oddities.py` and its test hold each
line against CRIU itself (4.2.1, Linux 6.18). Looking changes nothing in the VE. Blocking calls, for a thread.
"""

import os
import re
import socket
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from agents.engines.oci import limits, sockets
from agents.engines.oci.criu import GHOST_LIMIT_BYTES

ANON_INODES_CARRIED = frozenset({"eventfd", "eventpoll", "signalfd", "timerfd", "inotify", "fanotify", "pidfd"})
ANON_INODE_REMEDIES = {
    "io_uring": "switch io_uring off in the program (for Node.js UV_USE_IO_URING=0) and start it again",
    "perf_event": "end the profiler",
    "userfaultfd": "the program manages its memory itself and has to be ended",
    "bpf-map": "unload the program's BPF part",
    "bpf-prog": "unload the program's BPF part",
}
MOUNTS_CARRIED = frozenset({
    "proc", "sysfs", "devtmpfs", "devpts", "tmpfs", "mqueue", "cgroup", "cgroup2", "binfmt_misc", "debugfs", "tracefs",
    "securityfs", "fusectl", "pstore",
})  # fmt: skip
"""Mounts inside a VE; its root and what its configuration mounts from the host are carried whatever they are."""
NAMESPACES_OF_ONE = ("pid", "ipc", "uts", "user", "cgroup", "time")
"""Kinds of namespace of which a VE has to have one for all its processes; mount and network namespaces may differ."""
MEMORY_DEVICES, MISC_DEVICES, TUN = 1, 10, 200
TERMINALS = frozenset({3, 4, 5, *range(136, 144)})
"""Major numbers: old pseudo-terminals, consoles, /dev/tty and /dev/console, pseudo-terminals (devices.txt of Linux)."""
PSEUDO_TERMINALS = range(136, 144)
PROTOCOLS_CARRIED = frozenset({0, socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_ICMP, 58, 136})
"""Of internet sockets; 58 is ICMPv6, 136 UDP-Lite."""
FAMILIES_CARRIED = frozenset({socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET})
INTERNET = (socket.AF_INET, socket.AF_INET6)
FAMILY_NAMES = {15: "PF_KEY", 21: "RDS", 29: "CAN", 30: "TIPC", 38: "AF_ALG", 40: "VSOCK", 43: "SMC", 44: "XDP"}
PROTOCOL_NAMES = {132: "SCTP", 262: "Multipath TCP"}


@dataclass(frozen=True)
class Process:
    """One process of the VE, as the host's /proc shows it."""

    pid: int

    @cached_property
    def status(self) -> dict[str, str]:
        """/proc/PID/status; empty when it has ended."""
        try:
            lines = self._path("status").read_text(errors="replace").splitlines()
        except OSError:
            return {}
        return dict(line.split(":\t", 1) for line in lines if ":\t" in line)

    def __str__(self) -> str:
        inside = self.status.get("NSpid", "").split()[-1:] or ["?"]
        return f"process {inside[0]} ({self.status.get('Name', '?')}, {self.pid} on the host)"

    def _path(self, *parts: str) -> Path:
        return Path("/proc", str(self.pid), *parts)

    def descriptors(self) -> Iterator[tuple[int, str]]:
        """(number, what it is linked to)."""
        try:
            names = os.listdir(self._path("fd"))
        except OSError:
            return
        for name in names:
            try:
                yield int(name), os.readlink(self._path("fd", name))
            except OSError:
                continue  # closed meanwhile

    def stat(self, descriptor: int) -> os.stat_result | None:
        """Of the file behind a descriptor."""
        try:
            return os.stat(self._path("fd", str(descriptor)))
        except OSError:
            return None

    def fdinfo(self, descriptor: int, key: str) -> str:
        """One line of /proc/PID/fdinfo/N; empty when it is not there."""
        try:
            text = self._path("fdinfo", str(descriptor)).read_text()
        except OSError:
            return ""
        found = re.search(rf"^{key}:\s+(.*)$", text, re.MULTILINE)
        return found.group(1) if found else ""

    def namespace(self, kind: str) -> str:
        """Which namespace of a kind it is in; empty where the kernel has no such kind, and for one that has ended meanwhile."""
        try:
            return os.readlink(self._path("ns", kind))
        except OSError:
            return ""

    @cached_property
    def mounts(self) -> dict[int, tuple[str, str, str]]:
        """Mount id -> (device, mount point, file system) of what it sees."""
        try:
            lines = self._path("mountinfo").read_text().splitlines()
        except OSError:
            return {}
        found = {}
        for line in lines:
            before, _, after = line.partition(" - ")
            words = before.split()
            found[int(words[0])] = (words[2], words[4], after.split()[0])
        return found


def find(pids: Sequence[int], configured: Sequence[str] = ()) -> list[str]:
    """Everything found, in words; `configured` are the mount points of the VE's configuration."""
    everybody = [process for process in map(Process, pids) if process.status]
    processes = [process for process in everybody if process.status.get("State", "")[:1] != "Z"]
    first = next((each for each in processes if each.status.get("NSpid", "").split()[-1:] == ["1"]), None)
    if first is None:
        return []
    found = [*_mounts(first, configured), *_terminals(processes), *_unix(processes)]
    for process in processes:
        found += [f"{process} {what}" for what in (*_relations(process, first), *_files(process))]
    return found


def visitors(pids: Sequence[int]) -> list[str]:
    """Processes that came into the VE from outside: CRIU does not refuse the VE for them, and does not carry them."""
    processes = [Process(pid) for pid in pids]
    kinds = {process.namespace("pid") for process in processes}
    found = []
    for process in processes:
        parent = Process(int(process.status.get("PPid", "0")))
        first = process.status.get("NSpid", "").split()[-1:] == ["1"]
        if not first and parent.namespace("pid") not in {"", *kinds}:
            found.append(
                f"{process} came into the VE from outside (an exec session of {parent}): it ends when the VE moves"
            )
    return found


def _relations(process: Process, first: Process) -> Iterator[str]:
    """To other processes."""
    tracer = int(process.status.get("TracerPid", "0"))
    if tracer and Process(tracer).status.get("Name") != "criu":
        yield f"is traced by {Process(tracer)}: end the debugger"
    for kind in NAMESPACES_OF_ONE:
        if process.namespace(kind) not in {"", first.namespace(kind)}:
            yield f"is in a {kind} namespace of its own: end the container or sandbox inside the VE"
    if kind := _future(process):
        yield f"has made a {kind} namespace for its children: end it"
    if os.uname().machine not in limits.MACHINES and not limits.may_set_limits() and limits.foreign(process.pid):
        yield "belongs to another user than root, whose limits may be read here only with CAP_SYS_RESOURCE"


def _future(process: Process) -> str:
    """The kind of namespace that children of it would be born into, and it is not in."""
    for kind in ("pid", "time"):
        later, now = process.namespace(f"{kind}_for_children"), process.namespace(kind)
        if later and now and later != now:
            return kind
    return ""


def _files(process: Process) -> Iterator[str]:
    for number, link in process.descriptors():
        if link.startswith("anon_inode:"):
            name = link.removeprefix("anon_inode:").strip("[]")
            if name not in ANON_INODES_CARRIED:
                remedy = ANON_INODE_REMEDIES.get(name, "end it")
                yield f"has {name} open (descriptor {number}), which CRIU cannot carry: {remedy}"
        elif link.startswith("socket:["):
            yield from _socket(process, number)
        elif link.startswith("/"):
            yield from _path(process, number, link)


def _socket(process: Process, number: int) -> Iterator[str]:
    kind = sockets.kind(process.pid, number)
    if kind is None:
        return
    if kind.domain not in FAMILIES_CARRIED:
        name = FAMILY_NAMES.get(kind.domain, f"family {kind.domain}")
        yield f"has a socket of {name} (descriptor {number}), which CRIU cannot carry: end it"
    elif kind.unread:
        yield f"has not read what its netlink socket (descriptor {number}) got: try again in a moment, or end it"
    elif kind.domain in INTERNET and kind.type != socket.SOCK_RAW and kind.protocol not in PROTOCOLS_CARRIED:
        name = PROTOCOL_NAMES.get(kind.protocol, f"protocol {kind.protocol}")
        remedy = "for Go programs set GODEBUG=multipathtcp=0" if kind.protocol == 262 else "end it"
        yield f"has a socket of {name} (descriptor {number}), which CRIU cannot carry: {remedy}"


def _path(process: Process, number: int, link: str) -> Iterator[str]:
    status = process.stat(number)
    if status is None:
        return
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        if not _device_carried(status):
            yield f"has the device {link} open (descriptor {number}), which CRIU cannot carry: end it"
    elif stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        yield from _regular(process, number, link, status)


def _device_carried(status: os.stat_result) -> bool:
    major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
    if stat.S_ISBLK(status.st_mode):
        return False
    return major == MEMORY_DEVICES or major in TERMINALS or (major, minor) == (MISC_DEVICES, TUN)


def _regular(process: Process, number: int, link: str, status: os.stat_result) -> Iterator[str]:
    if link.startswith("/memfd:"):
        if status.st_blksize > os.sysconf("SC_PAGE_SIZE"):
            yield f"has a memory file of huge pages (descriptor {number}), which CRIU cannot carry: end it"
        return
    if link.startswith(("/dev/zero (deleted)", "/SYSV", "/[aio]", "/anon_hugepage")):
        return
    mount = process.fdinfo(number, "mnt_id")
    if mount and process.mounts and int(mount) not in process.mounts:
        yield f"has {link} open (descriptor {number}), which lies outside the VE: start the VE with /dev/null or files of its own"
    elif link.endswith(" (deleted)"):
        name = link.removesuffix(" (deleted)")
        if status.st_nlink:
            yield f"has {name} open (descriptor {number}), a name that is gone while the file has others: have it reopen its files"
        elif status.st_size > GHOST_LIMIT_BYTES:
            size = f"{status.st_size >> 20} MiB, more than {GHOST_LIMIT_BYTES >> 20}"
            yield f"has a deleted file open, {name} (descriptor {number}, {size}): have it close or truncate it"


def _mounts(first: Process, configured: Sequence[str]) -> Iterator[str]:
    for _, point, kind in first.mounts.values():
        if point != "/" and point not in configured and kind not in MOUNTS_CARRIED and not _same_device(first, point):
            yield f"a file system of kind {kind} is mounted at {point} inside the VE, which CRIU cannot carry: unmount it"


def _same_device(first: Process, point: str) -> bool:
    """Whether a mount is of the root's own file system: a bind mount of a part of the VE."""
    devices = {at: device for device, at, _ in first.mounts.values()}
    return devices.get(point) == devices.get("/")


def _terminals(processes: Sequence[Process]) -> Iterator[str]:
    """Terminals whose other end nobody in the VE holds."""
    slaves: dict[int, tuple[Process, str]] = {}
    masters = set()
    for process in processes:
        for number, link in process.descriptors():
            status = process.stat(number) if link.startswith("/") else None
            if status is None or not stat.S_ISCHR(status.st_mode):
                continue
            if index := process.fdinfo(number, "tty-index"):
                masters.add(int(index))
            if os.major(status.st_rdev) in PSEUDO_TERMINALS:
                index_of = (os.major(status.st_rdev) - PSEUDO_TERMINALS.start) * 256 + os.minor(status.st_rdev)
                slaves.setdefault(index_of, (process, link))
    for index_of, (process, link) in slaves.items():
        if index_of not in masters:
            yield f"{process} has the terminal {link}, whose other end is outside the VE: start the VE without a terminal"


def _unix(processes: Sequence[Process]) -> Iterator[str]:
    """UNIX sockets that are connected to somebody outside the VE. (One that waits to be accepted has no inode yet.)"""
    own: dict[int, tuple[Process, int]] = {}
    for process in processes:
        for number, link in process.descriptors():
            if link.startswith("socket:["):
                own.setdefault(int(link[8:-1]), (process, number))
    peers: dict[int, int] = {}
    for namespace in {process.namespace("net"): process for process in processes}.values():
        peers |= sockets.unix_peers(namespace.pid)
    for inode, (process, number) in own.items():
        peer = peers.get(inode, 0)
        if peer and peer not in own:
            yield (
                f"{process} is connected by a UNIX socket (descriptor {number}) to somebody outside the VE: "
                "end that connection, and do not mount the host's sockets into the VE"
            )
