"""What a VServer kernel would know: contexts, network contexts, disk limits, the vshelper path.

Rule: who belongs to a context is a fact of the real kernel (a cgroup per context, which children inherit); only what it
cannot hold is remembered, in /run, so that a power cut forgets it as it should. A context without process vanishes.
"""

import ctypes
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import switches

RUN = Path("/run/vserver-emulation")
GROUPS = Path("/sys/fs/cgroup/vserver")
NAME_MAX = 64
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
PR_CAPBSET_DROP = 24
CAPABILITY_NUMBERS = {
    name: number
    for number, name in enumerate(
        [
            "chown",
            "dac_override",
            "dac_read_search",
            "fowner",
            "fsetid",
            "kill",
            "setgid",
            "setuid",
            "setpcap",
            "linux_immutable",
            "net_bind_service",
            "net_broadcast",
            "net_admin",
            "net_raw",
            "ipc_lock",
            "ipc_owner",
            "sys_module",
            "sys_rawio",
            "sys_chroot",
            "sys_ptrace",
            "sys_pacct",
            "sys_admin",
            "sys_boot",
            "sys_nice",
            "sys_resource",
            "sys_time",
            "sys_tty_config",
            "mknod",
            "lease",
            "audit_write",
            "audit_control",
            "setfcap",
        ]
    )
}
SECURE = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "net_bind_service",
    "sys_chroot",
    "sys_ptrace",
    "sys_tty_config",
    "lease",
    "setfcap",
    "sys_boot",
    "audit_write",
]
CCAPS = [
    "set_utsname",
    "set_rlimit",
    "fs_security",
    "fs_trusted",
    "tiocsti",
    "raw_icmp",
    "syslog",
    "oom_adjust",
    "audit_control",
    "secure_mount",
    "secure_remount",
    "binary_mount",
    "dev_mount",
    "quota_ctl",
    "admin_mapper",
    "admin_cloop",
    "kthread",
    "namespace",
]
FLAGS = [
    "lock",
    "nproc",
    "private",
    "fakeinit",
    "hideinfo",
    "ulimit",
    "namespace",
    "sched_hard",
    "sched_prio",
    "sched_pause",
    "virt_mem",
    "virt_uptime",
    "virt_cpu",
    "virt_load",
    "virt_time",
    "hide_mount",
    "hide_netif",
    "hide_vinfo",
    "state_setup",
    "state_init",
    "state_admin",
    "sc_helper",
    "persistent",
    "reboot_kill",
    "fork_rss",
    "prolific",
    "igneg_nice",
    "igneg_ionice",
]
NFLAGS = ["lock", "private", "single_ip", "lback_remap", "lback_allow", "hide_netif", "hide_lback", "persistent"]
NCAPS = ["tun_create", "raw_icmp"]
UMASK = ["fs", "newns", "newuts", "newipc", "newuser", "newpid", "newnet"]
EMPTY: dict[str, Any] = {"contexts": {}, "networks": {}, "dlimits": {}, "vshelper": "", "unhidden": False}
State = dict[str, Any]
_LIBC = ctypes.CDLL(None, use_errno=True)


@contextmanager
def state(*, change: bool = True) -> Iterator[State]:
    """The remembered part, locked; kept again at the end. Contexts that ended are gone from it."""
    RUN.mkdir(parents=True, exist_ok=True)
    with (RUN / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            known: State = json.loads((RUN / "state.json").read_text())
        except FileNotFoundError:
            known = json.loads(json.dumps(EMPTY))
        _prune(known)
        yield known
        if change:
            fresh = RUN / "state.json.new"
            fresh.write_text(json.dumps(known, indent=1))
            fresh.rename(RUN / "state.json")


def _prune(known: State) -> None:
    for xid, context in list(known["contexts"].items()):
        if not _alive(context.get("setup", 0)) and not pids(int(xid)) and "persistent" not in context["flags"]:
            del known["contexts"][xid]
            _remove_group(int(xid))
    used = {str(context["nid"]) for context in known["contexts"].values()}
    for nid in [
        nid for nid, network in known["networks"].items() if nid not in used and not _alive(network.get("setup", 0))
    ]:
        del known["networks"][nid]


def _remove_group(xid: int) -> None:
    try:
        (GROUPS / str(xid)).rmdir()
    except OSError:
        return  # not there, or a last process is just ending: the next look removes it


def context(xid: int) -> dict[str, Any] | None:
    """The context of that id, if the kernel has it."""
    with state() as known:
        found: dict[str, Any] | None = known["contexts"].get(str(xid))
        return found


def named(directory: str) -> int | None:
    """The context whose name is this configuration directory's path, with a process in it."""
    with state() as known:
        for xid, found in known["contexts"].items():
            if found["name"] == directory and pids(int(xid)):
                return int(xid)
    return None


def pids(xid: int) -> list[int]:
    """Processes of a context."""
    try:
        words = (GROUPS / str(xid) / "cgroup.procs").read_text().split()
    except OSError:
        return []
    return [int(word) for word in words if _alive(int(word))]


def _alive(pid: int) -> bool:
    if not pid:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def xid_of(pid: int) -> int:
    """Context of a process, 0 for the host's. Raises ProcessLookupError."""
    try:
        groups = Path(f"/proc/{pid}/cgroup").read_text()
    except OSError as error:
        raise ProcessLookupError(pid) from error
    path = next(line for line in groups.splitlines() if line.startswith("0::"))[3:]
    parts = path.strip("/").split("/")
    return int(parts[1]) if len(parts) > 1 and parts[0] == "vserver" and parts[1].isdigit() else 0


def truncated(name: str) -> str:
    """What the kernel keeps of a context's name."""
    return name[:NAME_MAX] if switches.on("name-limit") else name


def join(xid: int) -> None:
    """Put the calling process into the context's group."""
    group = GROUPS / str(xid)
    group.mkdir(parents=True, exist_ok=True)
    (group / "cgroup.procs").write_text("0")


def leave() -> None:
    """Put the calling process back among the host's."""
    (GROUPS.parent / "init" / "cgroup.procs").write_text("0")


def kill(xid: int, number: int) -> None:
    """Signal every process of a context; a process in uninterruptible sleep does not notice."""
    found = context(xid)
    if found and switches.hits("uninterruptible", os.path.basename(found["name"])):
        return
    for pid in pids(xid):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def wait_empty(xid: int, limit_s: float | None) -> bool:
    """Whether the context has no process left within the limit; None waits for ever."""
    end = None if limit_s is None else time.monotonic() + limit_s
    while pids(xid):
        if end is not None and time.monotonic() >= end:
            return False
        time.sleep(0.01)
    return True


def spawn(prepare: Callable[[], None], argv: Sequence[str], env: dict[str, str] | None = None, *, quiet: bool) -> int:
    """Fork, `prepare` in the child, become `argv`; the child's pid. `quiet`: its own session, /dev/null all round."""
    child = os.fork()
    if child:
        return child
    status = 255
    try:
        if quiet:
            os.setsid()
            null = os.open("/dev/null", os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(null, number)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        prepare()
        os.execvpe(argv[0], list(argv), env or {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"})
    except FileNotFoundError as error:
        status = 127
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
    except OSError as error:
        os.write(2, f"vcontext: {error}\n".encode())
    finally:
        os._exit(status)


def unshare(kinds: int) -> None:
    """Namespaces of one's own, unshare(2); Python has it from 3.12 on. Raises OSError."""
    _called(_LIBC.unshare(kinds))


def setns(descriptor: int, kind: int) -> None:
    """Join a namespace, setns(2). Raises OSError."""
    _called(_LIBC.setns(descriptor, kind))


def _called(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def enter_mounts(xid: int) -> None:
    """Join the mount namespace of a context, with the host's root, as `vspace --enter` does."""
    for pid in pids(xid):
        try:
            with open(f"/proc/{pid}/ns/mnt") as namespace:
                setns(namespace.fileno(), CLONE_NEWNS)
                return
        except OSError:
            continue
    raise ProcessLookupError(xid)


def enter_names(xid: int) -> None:
    """Join host name and IPC of a context."""
    for pid in pids(xid):
        try:
            for kind, flag in (("uts", CLONE_NEWUTS), ("ipc", CLONE_NEWIPC)):
                with open(f"/proc/{pid}/ns/{kind}") as namespace:
                    setns(namespace.fileno(), flag)
            return
        except OSError:
            continue


def drop_capabilities(kept: Sequence[str]) -> None:
    """Take all others from what this process and its children can ever have."""
    for name, number in CAPABILITY_NUMBERS.items():
        if name not in kept:
            _LIBC.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
