"""start, stop, mount, umount, destroy, exec: the life of a container without checkpoints."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from . import faults, kernel, network, staged
from .ct import Ct, ExitError, Voice

HINT = '(try to check kernel messages, e.g. "dmesg | tail")'


def mount(ct: Ct, voice: Voice) -> None:
    """`vzctl mount`."""
    if ct.mounted:
        voice.complain("Container is already mounted")
        return
    mount_quietly(ct)
    voice.say("Container is mounted")


def mount_quietly(ct: Ct) -> None:
    """The private area bound to the root, and the mount scripts around it."""
    if not ct.private.is_dir():
        raise ExitError(43, f"Container private area {ct.private} does not exist")
    _host_script(ct, "premount")
    ct.root.mkdir(parents=True, exist_ok=True)
    try:
        faults.before("mount")
        kernel.mount(str(ct.private), str(ct.root), flags=kernel.MS_BIND)
    except (OSError, faults.InjectedError) as error:
        raise ExitError(50, f"Can't mount: {ct.private} {ct.root}: {_reason(error)}") from error
    _host_script(ct, "mount")


def umount(ct: Ct, voice: Voice) -> None:
    """`vzctl umount`."""
    if ct.running:
        raise ExitError(32, "Container is running -- stop it first")
    if not ct.mounted:
        raise ExitError(40, "CT is not mounted")
    umount_quietly(ct)
    voice.say("Container is unmounted")


def umount_quietly(ct: Ct) -> None:
    """The root unmounted, what was mounted below it first."""
    _host_script(ct, "umount")
    point = os.path.realpath(ct.root)
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for below in sorted((one for one in points if one.startswith(point + "/")), reverse=True):
        kernel.unmount(below)
    end = time.monotonic() + 2
    while True:
        try:
            faults.before("umount")
            kernel.unmount(point)
            break
        except faults.InjectedError as error:
            raise ExitError(51, f"Can't umount {ct.root}: {error}") from error
        except OSError as error:
            if time.monotonic() > end:
                raise ExitError(51, f"Can't umount {ct.root}: {os.strerror(error.errno or 0)}") from error
            time.sleep(0.02)
    _host_script(ct, "postumount")


def start(ct: Ct, voice: Voice, *, force: bool = False) -> None:
    """`vzctl start`; a leftover dump is tried first, and lost when it does not restore, as in vzctl."""
    if ct.running:
        raise ExitError(32, "Container is already running")
    if ct.values.get("DISABLED") == "yes" and not force:
        raise ExitError(105, "Container start disabled")
    if ct.dump.exists():
        voice.say(f"Dump file {ct.dump} exists, trying to restore from it")
        try:
            staged.restore(ct, voice, "", ct.dump, skip_detect=False)
            return
        except ExitError as error:
            voice.complain(error.message)
    voice.say("Starting container...")
    try:
        _boot(ct, voice)
    except ExitError as error:
        if error.message:
            voice.complain(error.message)
        clean_up(ct, voice)
        raise ExitError(error.code, f"Container start failed {HINT}") from error
    if ct.dump.exists():
        staged.remove_dump(ct.dump)
    voice.say("Container start in progress...")


def _boot(ct: Ct, voice: Voice) -> None:
    if not ct.mounted:
        mount_quietly(ct)
        voice.say("Container is mounted")
    try:
        faults.before("start")
        birth = kernel.create(ct.ctid, str(ct.root), ct.values.get("HOSTNAME", f"ct{ct.ctid}"))
    except (OSError, faults.InjectedError) as error:
        raise ExitError(7, f"Unable to start init: {_reason(error)}") from error
    network.plug(ct.ctid, ct.values, birth.pid)
    apply_running(ct, voice, skip_detect=False)
    birth.go()
    script = ct.script("start")
    if script.exists() and inside(ct, ["/bin/bash", "-s"], script.read_bytes()).returncode:
        raise ExitError(79, f"Error executing start script {script}")


def apply_running(ct: Ct, voice: Voice, *, skip_detect: bool) -> None:
    """Addresses on the host and CPU units: the lines start and restore share."""
    held = network.addresses(ct.values)
    if held:
        detect = not skip_detect and ct.host.get("SKIP_ARPDETECT") != "yes"
        voice.say(f"Adding IP address(es): {' '.join(held)}")
        try:
            network.net_add(ct.ctid, held, detect=detect, host=ct.host)
        except network.AddressInUseError as error:
            if ct.host.get("ERROR_ON_ARPFAIL") == "yes":
                raise ExitError(78, f"IP address {error} is already in use") from error
            voice.complain(f"arpsend: {error} is detected on another computer")
    if units := ct.values.get("CPUUNITS"):
        voice.say(f"Setting CPU units: {units}")


def stop(ct: Ct, voice: Voice, *, fast: bool = False, skip_umount: bool = False) -> None:
    """`vzctl stop`: halt inside, a poll a second, then the axe. Not running is no error."""
    if not ct.running:
        voice.complain("Unable to stop: container is not running")
        return
    voice.say("Killing container ..." if fast else "Stopping container ...")
    if not fast and not _halt(ct):
        voice.say("Killing container ...")
    try:
        faults.before("stop")
        kernel.kill(ct.ctid)
    except (TimeoutError, faults.InjectedError) as error:
        raise ExitError(33, f"Unable to stop container: {error}") from error
    gone(ct)
    voice.say("Container was stopped")
    if not skip_umount and ct.mounted:
        umount_quietly(ct)
        voice.say("Container is unmounted")


def _halt(ct: Ct) -> bool:
    if not kernel.frozen(ct.ctid):
        script = ct.script("stop")
        if script.exists():
            inside(ct, ["/bin/bash", "-s"], script.read_bytes())
        kernel.signal_init(ct.ctid, signal.SIGPWR)
    end = time.monotonic() + float(ct.host.get("STOP_TIMEOUT", "120"))
    while kernel.running(ct.ctid):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def gone(ct: Ct) -> None:
    """What goes when the last process of a container has ended."""
    network.net_del(ct.ctid, network.addresses(ct.values), ct.host)
    network.unplug(ct.ctid, ct.values)
    kernel.forget(ct.ctid)


def clean_up(ct: Ct, voice: Voice) -> None:
    """After a failed start or restore: as far as it came, back."""
    if ct.running:
        voice.complain("Killing container ...")
        kernel.kill(ct.ctid)
        voice.complain("Container was stopped")
    gone(ct)
    if ct.mounted:
        umount_quietly(ct)
        voice.complain("Container is unmounted")


def destroy(ct: Ct, voice: Voice) -> None:
    """`vzctl destroy`: private area away, config and scripts renamed, dump and name link away."""
    if ct.running:
        voice.say("Container is currently running. Stop it first.")
        raise ExitError(32)
    if ct.mounted:
        voice.say("Container is currently mounted (umount first)")
        raise ExitError(41)
    voice.say(f"Destroying container private area: {ct.private}")
    try:
        faults.before("destroy")
        shutil.rmtree(ct.private)
    except (OSError, faults.InjectedError) as error:
        raise ExitError(52, f"Unable to delete {ct.private}: {_reason(error)}") from error
    name = ct.values.get("NAME", "")
    link = ct.config.parent.parent / "names" / name
    if name and link.is_symlink():
        link.unlink()
    for path in [ct.config, *(ct.script(kind) for kind in SCRIPTS)]:
        if path.exists():
            path.rename(path.with_name(path.name + ".destroyed"))
    staged.remove_dump(ct.dump)
    shutil.rmtree(ct.root, ignore_errors=True)
    voice.say("Container private area was destroyed")


SCRIPTS = ("start", "stop", "mount", "umount", "premount", "postumount")


def execute(ct: Ct, verb: str, words: list[str]) -> int:
    """`vzctl exec`, `exec2`, `exec3`; the exit code."""
    if not ct.running:
        raise ExitError(8 if verb == "exec" else 31, "Container is not running")
    argv = words if verb == "exec3" else ["/bin/bash", "-c", " ".join(words)]
    done = inside(ct, ["/bin/bash", "-s"] if words == ["-"] else argv, None)
    if verb == "exec":
        return 8 if done.returncode else 0
    return done.returncode


def inside(ct: Ct, argv: list[str], text: bytes | None) -> subprocess.CompletedProcess[bytes]:
    """Run a program in the container, in its cgroup. `text` is its input; None passes ours on."""

    def join() -> None:
        (kernel.group(ct.ctid) / "cgroup.procs").write_text("0")

    enter = ["nsenter", "-t", str(kernel.init_pid(ct.ctid)), "-m", "-u", "-i", "-n", "-p", "-r", "-w"]
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "TERM": "linux"}
    return subprocess.run([*enter, *argv], input=text, check=False, env=env, preexec_fn=join)


def _host_script(ct: Ct, kind: str) -> None:
    env = {**os.environ, "VEID": str(ct.ctid), "VE_CONFFILE": str(ct.config)}
    for path in (ct.config.parent / f"vps.{kind}", ct.script(kind)):
        if path.exists() and subprocess.run([str(path)], env=env, check=False).returncode:
            raise ExitError(79, f"Error executing {kind} script {path}")


def _reason(error: Exception) -> str:
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
