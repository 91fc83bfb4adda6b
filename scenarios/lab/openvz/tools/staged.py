"""chkpnt and restore: the four stages of each, the full ones, and what they do to routes, mounts and dump files."""

import os
import shutil
from pathlib import Path

from . import checkpoint, faults, kernel, lifecycle, network
from .ct import Ct, ExitError, Voice

STEP = "\t"


def chkpnt(ct: Ct, voice: Voice, stage: str, dump_file: Path | None, flags: str = "") -> None:
    """`vzctl chkpnt [--suspend|--dump|--resume|--kill]`; `stage` empty is the full one."""
    if not ct.running:
        lead = "" if stage in ("kill", "resume") else "Unable to setup checkpointing: container is not running"
        raise ExitError(31, lead or "Container is not running")
    if stage == "dump" and dump_file is None:
        voice.complain("Error: dumpfile is not specified")
        raise ExitError(16, "Checkpointing failed")
    match stage:
        case "suspend":
            _suspend(ct, voice, flags)
        case "dump":
            assert dump_file is not None
            voice.say("Setting up checkpoint...")
            voice.say(f"{STEP}join context..")
            _dump(ct, voice, dump_file)
            voice.say("Checkpointing completed successfully")
        case "kill":
            _simple(ct, voice, "Killing...", "kill", 16)
        case "resume":
            _simple(ct, voice, "Resuming...", "resume", 16)
        case _:
            _full(ct, voice, dump_file or ct.dump)
    faults.after(f"chkpnt.{stage or 'full'}")


def _suspend(ct: Ct, voice: Voice, flags: str) -> None:
    voice.say("Setting up checkpoint...")
    if flags:
        voice.say(f"{STEP}set CPU flags..")
    _freeze(ct, voice)
    voice.say(f"{STEP}get context...")
    voice.say("Checkpointing completed successfully")


def _freeze(ct: Ct, voice: Voice) -> None:
    voice.say(f"{STEP}suspend...")
    try:
        faults.before("chkpnt.suspend")
        network.part(ct.ctid, ct.values)
        kernel.freeze(ct.ctid, True)
    except (OSError, TimeoutError, faults.InjectedError) as error:
        kernel.freeze(ct.ctid, False)
        network.join(ct.ctid, ct.values)
        voice.complain(f"Can not suspend container: {error}")
        raise ExitError(16, "Checkpointing failed") from error


def _dump(ct: Ct, voice: Voice, dump_file: Path) -> None:
    voice.say(f"{STEP}dump...")
    try:
        if not kernel.frozen(ct.ctid):
            raise faults.InjectedError("No such file or directory")
        faults.before("chkpnt.dump")
        checkpoint.dump(ct.ctid, dump_file)
    except faults.InjectedError as error:
        _dump_failed(dump_file, voice, str(error), f"Error: {error}")
    except checkpoint.CheckpointError as error:
        _dump_failed(dump_file, voice, "Invalid argument", str(error))
    except OSError as error:
        _dump_failed(dump_file, voice, os.strerror(error.errno or 0), "")
    network.net_del(ct.ctid, network.addresses(ct.values), ct.host)


def _dump_failed(dump_file: Path, voice: Voice, reason: str, lines: str) -> None:
    dump_file.unlink(missing_ok=True)
    voice.complain(f"Can not dump container: {reason}")
    if lines:
        voice.complain(lines)
    raise ExitError(16, "Checkpointing failed")


def _full(ct: Ct, voice: Voice, dump_file: Path) -> None:
    voice.say("Setting up checkpoint...")
    _freeze(ct, voice)
    try:
        _dump(ct, voice, dump_file)
    except ExitError:
        go_on(ct)
        raise
    voice.say(f"{STEP}kill...")
    kernel.kill(ct.ctid)
    lifecycle.gone(ct)
    voice.say("Checkpointing completed successfully")
    if ct.mounted:
        lifecycle.umount_quietly(ct)
        voice.say("Container is unmounted")


def _simple(ct: Ct, voice: Voice, word: str, act: str, code: int) -> None:
    voice.say(word)
    command = "chkpnt" if code == 16 else "restore"
    try:
        faults.before(f"{command}.{act}")
        if not kernel.frozen(ct.ctid):
            raise faults.InjectedError("Invalid argument")
    except faults.InjectedError as error:
        raise ExitError(code, f"Can not {act} container: {error}") from error
    if act == "kill":
        kernel.kill(ct.ctid)
        lifecycle.gone(ct)
    else:
        go_on(ct, hook=code == 16)


def go_on(ct: Ct, *, hook: bool = True) -> None:
    """Back on the network and thawed; with `hook`, routes and proxy entries are put back first."""
    if hook and (held := network.addresses(ct.values)):
        network.net_add(ct.ctid, held, detect=False, host=ct.host)
    network.join(ct.ctid, ct.values)
    kernel.freeze(ct.ctid, False)


# --- restore ----------------------------------------------------------------------------------------


def restore(ct: Ct, voice: Voice, stage: str, dump_file: Path | None, *, skip_detect: bool) -> None:
    """`vzctl restore [--undump|--resume|--kill]`; `stage` empty is the full one, which deletes its dump."""
    if stage in ("resume", "kill"):
        if not ct.running:
            raise ExitError(31, "Container is not running")
        _simple(ct, voice, "Resuming..." if stage == "resume" else "Killing...", stage, 17)
    else:
        if ct.running:
            raise ExitError(32, "Unable to perform restore: container already running")
        if stage == "undump" and dump_file is None:
            raise ExitError(17, "Error: dumpfile is not specified")
        _restore(ct, voice, stage, dump_file or ct.dump, skip_detect=skip_detect)
    faults.after(f"restore.{stage or 'full'}")


def _restore(ct: Ct, voice: Voice, stage: str, dump_file: Path, *, skip_detect: bool) -> None:
    if not dump_file.exists():
        raise ExitError(17, f"Unable to open {dump_file}: No such file or directory")
    voice.say("Restoring container ...")
    if not ct.mounted:
        lifecycle.mount_quietly(ct)
        voice.say("Container is mounted")
    _undump(ct, voice, dump_file)
    lifecycle.apply_running(ct, voice, skip_detect=skip_detect)
    if stage == "undump":
        voice.say(f"{STEP}get context...")
    else:
        voice.say(f"{STEP}resume...")
        try:
            faults.before("restore.resume")
        except faults.InjectedError as error:
            voice.complain(f"Restore error, resume failed: {error}")
            lifecycle.clean_up(ct, voice)
            raise ExitError(17, "Container restore failed") from error
        go_on(ct, hook=False)
    voice.say("Container start in progress...")
    voice.say("Restoring completed successfully")
    if stage != "undump":
        remove_dump(dump_file)


def _undump(ct: Ct, voice: Voice, dump_file: Path) -> None:
    voice.say(f"{STEP}undump...")
    try:
        faults.before("restore.undump")
        network.ensure_host()
        network.unplug(ct.ctid, ct.values)
        links = {link.inner: link.outer for link in network.links(ct.ctid, ct.values)}
        checkpoint.undump(ct.ctid, dump_file, str(ct.root), links)
    except (OSError, faults.InjectedError, checkpoint.CheckpointError) as error:
        voice.complain(f"Restore error, undump failed: {'Invalid argument' if _is_criu(error) else error}")
        if _is_criu(error):
            voice.complain(str(error))
        voice.complain("Unable to apply network parameters: container is not running")
        lifecycle.clean_up(ct, voice)
        raise ExitError(31, f"Container restore failed {lifecycle.HINT}") from error


def _is_criu(error: Exception) -> bool:
    return isinstance(error, checkpoint.CheckpointError)


def remove_dump(path: Path) -> None:
    """Remove a dump, a file or (ordinary kernels) a directory; absent is no error."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
