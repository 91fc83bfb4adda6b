"""chkpnt and restore of vzctl on an ordinary kernel: CRIU through vzctl's scripts vps-cpt and vps-rst.

Rule: always the full checkpoint, into a directory, that ends the container; --suspend, --dump and --dumpfile are ignored.
"""

import os
import shutil

from . import checkpoint, faults, kernel, lifecycle, network, staged
from .ct import Ct, ExitError, Voice

NO_CPT = "Error: No checkpointing support, unable to open /proc/cpt: No such file or directory"


def chkpnt(ct: Ct, voice: Voice, stage: str) -> None:
    """`vzctl chkpnt`; --kill and --resume want an OpenVZ kernel."""
    if stage in ("kill", "resume"):
        raise ExitError(16, NO_CPT)
    if not ct.running:
        raise ExitError(31, "Unable to setup checkpointing: container is not running")
    shutil.rmtree(ct.dump, ignore_errors=True)
    ct.dump.mkdir(mode=0o700)
    network.part(ct.ctid, ct.values)
    try:
        faults.before("chkpnt.dump")
        checkpoint.dump_to(ct.ctid, ct.dump, str(ct.root))
    except (OSError, faults.InjectedError, checkpoint.CheckpointError) as error:
        network.join(ct.ctid, ct.values)
        _keep_failed(ct, voice)
        raise ExitError(16) from error
    kernel.kill(ct.ctid)
    lifecycle.gone(ct)
    voice.complain("Checkpointing finished successfully")
    if ct.mounted:
        lifecycle.umount_quietly(ct)
        voice.say("Container is unmounted")
    faults.after("chkpnt.full")


def _keep_failed(ct: Ct, voice: Voice) -> None:
    failed = ct.dump.with_name(f"{ct.dump.name}.fail")
    shutil.rmtree(failed, ignore_errors=True)
    os.rename(ct.dump, failed)
    voice.complain("Failed to checkpoint the Container")
    voice.complain(f"All dump files and logs were saved to {failed}")


def restore(ct: Ct, voice: Voice, stage: str) -> None:
    """`vzctl restore`; the directory goes when it succeeds and stays when it does not."""
    if stage in ("kill", "resume"):
        raise ExitError(17, NO_CPT.replace("/proc/cpt", "/proc/rst"))
    if ct.running:
        raise ExitError(32, "Unable to perform restore: container already running")
    if not ct.dump.is_dir():
        raise ExitError(17, f"Unable to open {ct.dump}: No such file or directory")
    voice.say("Restoring container ...")
    if not ct.mounted:
        lifecycle.mount_quietly(ct)
        voice.say("Container is mounted")
    try:
        faults.before("restore.undump")
        network.ensure_host()
        network.unplug(ct.ctid, ct.values)
        links = {link.inner: link.outer for link in network.links(ct.ctid, ct.values)}
        checkpoint.undump_from(ct.ctid, ct.dump, str(ct.root), links)
    except (OSError, faults.InjectedError, checkpoint.CheckpointError) as error:
        voice.complain(f"The restore log was saved in {ct.dump}/restore.log")
        lifecycle.clean_up(ct, voice)
        raise ExitError(17, f"Container restore failed {lifecycle.HINT}") from error
    lifecycle.apply_running(ct, voice, skip_detect=False)
    staged.go_on(ct, hook=False)
    voice.say("Container start in progress...")
    voice.say("Restoring completed successfully")
    staged.remove_dump(ct.dump)
    faults.after("restore.full")
