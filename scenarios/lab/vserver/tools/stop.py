"""`vserver NAME stop`: grace, force, and the clean-up that happens even when nothing ran."""

import os
import signal
import subprocess
import sys
import time

from . import kernel, switches
from .config import VSHELPER_STATE, Config
from .files import Files
from .setup import remove_addresses, save_disk_limits, say, scripts, unmount
from .status import running_xid, vps


def stop(config: Config) -> int:
    """Exit status: 0, whatever happened."""
    xid = running_xid(config)
    if xid is None:
        say(f"vserver '{config.name}' is not running")
        if switches.on("stop-removes-addresses"):
            unmount(config)
            remove_addresses(config)
        return 0
    if switches.hits("still-running", config.name):
        return _still_running(config)
    scripts(config, "pre-stop")
    _shut_down(config, xid)
    scripts(config, "post-stop")
    found = kernel.context(xid)
    tag = found["tag"] if found else config.xid or xid
    unmount(config)
    remove_addresses(config)
    Files().ended(str(config.root))
    save_disk_limits(config, tag)
    (VSHELPER_STATE / str(xid)).unlink(missing_ok=True)
    scripts(config, "postpost-stop")
    if kernel.pids(xid):
        return _still_running(config)
    return 0


def _still_running(config: Config) -> int:
    say(f"Vserver '{config}' still running unexpectedly; please investigate it manually...")
    return 0 if switches.on("stop-always-0") else 1


def _shut_down(config: Config, xid: int) -> None:
    end = time.monotonic() + config.sync_timeout_s
    child = _ask(config, xid)
    with kernel.state() as known:
        if str(xid) in known["contexts"]:
            flags = known["contexts"][str(xid)]["flags"]
            known["contexts"][str(xid)]["flags"] = [flag for flag in flags if flag != "persistent"]
    while kernel.pids(xid) and time.monotonic() < end:
        if child and os.waitpid(child, os.WNOHANG)[0]:
            child = 0
            break
        time.sleep(0.01)
    # init's own script is done; what it left gets the rest of the time
    if not kernel.wait_empty(xid, max(0.0, end - time.monotonic())):
        say(
            "A timeout occured while waiting for the vserver to finish and it will be killed by sending a SIGKILL "
            "signal. The following process list might be useful for finding out the reason of this behavior:\n"
        )
        vps(["ax"], only=xid, out=sys.stderr)
        kernel.kill(xid, signal.SIGKILL)
        kernel.wait_empty(xid, None)
    if child:
        os.waitpid(child, 0)


def _ask(config: Config, xid: int) -> int:
    """Tell init to end; the pid of what runs meanwhile, or 0."""
    found = kernel.context(xid)
    assert found is not None
    if config.style == "sysv":
        level = config.value("apps/init/runlevel.stop", "6")
        return kernel.spawn(
            lambda: enter(config, xid), config.words("apps/init/cmd.stop") or ["/etc/init.d/rc", level], quiet=True
        )
    if not switches.hits("uninterruptible", config.name):
        try:
            os.kill(found["init"], signal.SIGINT)
        except ProcessLookupError:
            kernel.kill(xid, signal.SIGTERM)
    return 0


def enter(config: Config, xid: int) -> None:
    """Become a process of the guest."""
    found = kernel.context(xid)
    assert found is not None
    root = os.path.realpath(config.root)
    kernel.enter_mounts(xid)
    kernel.enter_names(xid)
    kernel.join(xid)
    os.chroot(root)
    os.chdir("/")
    kernel.drop_capabilities(found["bcaps"])


def run_inside(config: Config, xid: int, argv: list[str], uid: int | None = None) -> int:
    """Exit status of a program in the guest."""

    def prepare() -> None:
        enter(config, xid)
        if uid:
            os.setgid(uid)
            os.setuid(uid)

    child = kernel.spawn(prepare, argv, quiet=False)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def remove(config: Config) -> int:
    """`delete`, after the question; exit status."""
    packages = config.directory / "apps/pkgmgmt/base"
    base = os.path.dirname(os.path.realpath(config.root)) + "/.pkg"
    if not os.path.isdir(base):
        say(f"pkgcfgbase-dir '{base}' does not exist or is invalid")
        return 1
    if running_xid(config) is not None:
        stop(config)
    doomed = [os.path.realpath(config.root), *(os.path.realpath(config.directory / name) for name in ("cache", "run"))]
    if packages.exists():
        doomed.append(os.path.realpath(packages))
    return subprocess.run(["rm", "-rf", *doomed, str(config)], check=False).returncode
