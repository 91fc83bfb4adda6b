"""What an OpenVZ kernel would do, done with this kernel: a container is a cgroup, namespaces and their processes.

Rule: whether a container runs or is frozen is asked of the cgroup, never remembered.
"""

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
HOST_GROUP = CGROUPS / "init"
VEPID = Path("/var/lib/vzctl/vepid")
VZCTL = Path("/dev/vzctl")
"""The device of an OpenVZ kernel. While it is there the emulation behaves as on such a kernel; without it as vzctl does
on an ordinary one."""
CLONE_NEW = 0x00020000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000  # mount, UTS, IPC, PID, net
MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 4096, 16384, 1 << 18, 2
PIVOT_ROOT = 155  # x86-64
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    words = [source.encode(), target.encode(), kind.encode() or None]
    _check(_libc.mount(*words, ctypes.c_ulong(flags), data.encode() or None), f"mount {target}")


def unmount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc.umount2(target.encode(), flags), target)


def openvz() -> bool:
    """Whether this passes for an OpenVZ kernel."""
    return VZCTL.exists()


def group(ctid: int) -> Path:
    """The container's cgroup."""
    return CGROUPS / f"vz-{ctid}"


def processes(ctid: int) -> list[int]:
    """Process numbers of the container, as the host counts them."""
    try:
        return [int(word) for word in (group(ctid) / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def running(ctid: int) -> bool:
    """Whether the container has processes."""
    return _event(ctid, "populated")


def frozen(ctid: int) -> bool:
    """Whether all of them stand still."""
    return _event(ctid, "frozen")


def _event(ctid: int, key: str) -> bool:
    try:
        return f"{key} 1" in (group(ctid) / "cgroup.events").read_text().splitlines()
    except OSError:
        return False


def init_pid(ctid: int) -> int:
    """Process 1 of the container as the host numbers it; 0 when there is none."""
    for pid in processes(ctid):
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            numbers = status.split("NSpid:", 1)[1].split("\n", 1)[0].split()
            if len(numbers) >= 2 and numbers[-1] == "1":
                return pid
    return 0


def freeze(ctid: int, on: bool, limit_s: float = 10) -> None:
    """Freeze or thaw; returns when it is so. Raises TimeoutError."""
    (group(ctid) / "cgroup.freeze").write_text("1" if on else "0")
    _until(lambda: frozen(ctid) == on or not running(ctid), limit_s, "freezer")


def kill(ctid: int, limit_s: float = 20) -> None:
    """End every process, frozen ones too, without letting one run."""
    if group(ctid).is_dir():
        (group(ctid) / "cgroup.kill").write_text("1")
        _until(lambda: not running(ctid), limit_s, "kill")


def forget(ctid: int) -> None:
    """Remove what is left of a container without processes."""
    (VEPID / str(ctid)).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        group(ctid).rmdir()


def make_group(ctid: int) -> Path:
    """An empty, thawed cgroup for the container."""
    group(ctid).mkdir(exist_ok=True)
    (group(ctid) / "cgroup.freeze").write_text("0")
    return group(ctid)


def note_pid(ctid: int, pid: int) -> None:
    """Keep process 1's number where vzctl keeps it on ordinary kernels."""
    VEPID.mkdir(parents=True, exist_ok=True)
    (VEPID / str(ctid)).write_text(f"{pid}\n")


def signal_init(ctid: int, number: int) -> None:
    """Send a signal to process 1."""
    if pid := init_pid(ctid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class Birth:
    """A container whose process 1 waits, in its namespaces, to be let go."""

    def __init__(self, pid: int, gate: int) -> None:
        self.pid = pid
        self._gate = gate

    def go(self) -> None:
        """Let process 1 become /sbin/init."""
        os.write(self._gate, b"g")
        os.close(self._gate)


def create(ctid: int, root: str, hostname: str) -> Birth:
    """Namespaces and process 1 in the container's cgroup; it waits for `Birth.go`."""
    make_group(ctid)
    wait_end, gate = os.pipe()
    told, tell = os.pipe()
    middle = os.fork()
    if middle == 0:
        try:
            os.setsid()
            (group(ctid) / "cgroup.procs").write_text("0")
            _check(_libc.unshare(CLONE_NEW), "unshare")
            first = os.fork()
            if first == 0:
                os.close(gate)
                _become_init(root, hostname, wait_end)
            os.write(tell, str(first).encode())
        finally:
            os._exit(0)
    os.close(tell)
    os.close(wait_end)
    os.waitpid(middle, 0)
    pid = int(os.read(told, 16) or b"0")
    os.close(told)
    if not pid:
        raise OSError("no process for the container")
    note_pid(ctid, pid)
    return Birth(pid, gate)


def _become_init(root: str, hostname: str, wait_end: int) -> None:
    try:
        os.setsid()
        _libc.sethostname(hostname.encode(), len(hostname.encode()))
        mount("none", "/", flags=MS_REC | MS_PRIVATE)
        os.chdir(root)
        mount("proc", "proc", "proc")
        mount("sysfs", "sys", "sysfs")
        mount("devpts", "dev/pts", "devpts", data="newinstance,ptmxmode=0666,mode=620")
        _check(_libc.syscall(PIVOT_ROOT, b".", b"."), "pivot_root")
        unmount(".", MNT_DETACH)
        os.chdir("/")
        if os.read(wait_end, 1) != b"g":
            os._exit(1)
        null = os.open("/dev/null", os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        os.closerange(3, 4096)
        for number in range(1, 32):
            if number not in (signal.SIGKILL, signal.SIGSTOP):
                signal.signal(number, signal.SIG_DFL)
        os.execve("/sbin/init", ["init"], {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/", "TERM": "linux"})
    finally:
        os._exit(127)


def _until(true: object, limit_s: float, what: str) -> None:
    end = time.monotonic() + limit_s
    assert callable(true)
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.005)
