"""The checkpoint and restore of the emulation: CRIU under a frozen cgroup, images packed into one dump file.

Rule: a dump leaves the frozen container frozen; an undump ends with all processes there and none running.
"""

import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
from pathlib import Path

from . import kernel

COMMON = ("--tcp-established", "--file-locks", "--link-remap", "--manage-cgroups=ignore", "--network-lock", "skip")
GHOST_BYTES = 256 << 20


class CheckpointError(Exception):
    """CRIU's errors, as the kernel module's lines would be."""


def dump(ctid: int, dump_file: Path) -> None:
    """Checkpoint the frozen container into one file, mode 0600, on disk when this returns."""
    with tempfile.TemporaryDirectory(dir=dump_file.parent, prefix=f".cpt.{ctid}.") as images:
        words = ["dump", "-t", str(kernel.init_pid(ctid)), "--leave-running", "--ghost-limit", str(GHOST_BYTES)]
        words += ["--freeze-cgroup", str(kernel.group(ctid))]
        _criu(words, images, "dump.log")
        if not kernel.frozen(ctid):
            raise CheckpointError("the container ran on during the dump")
        _pack(Path(images), dump_file)


def _pack(images: Path, dump_file: Path) -> None:
    descriptor = os.open(dump_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        with tarfile.open(fileobj=out, mode="w") as archive:
            for path in sorted(images.iterdir()):
                archive.add(path, path.name)
        out.flush()
        os.fsync(out.fileno())


def dump_to(ctid: int, images: Path, root: str) -> None:
    """Checkpoint a running container into a directory and end it; a failed one goes on running."""
    words = ["dump", "-t", str(kernel.init_pid(ctid)), "--root", root, "--evasive-devices"]
    _criu([*words, "--ghost-limit", str(GHOST_BYTES)], str(images), "dump.log")


def undump(ctid: int, dump_file: Path, root: str, links: dict[str, str]) -> None:
    """Restore from a dump file and hold; `links` maps a container's interface to its host end."""
    with tempfile.TemporaryDirectory(dir=dump_file.parent, prefix=f".rst.{ctid}.") as work:
        images = Path(work) / "images"
        _unpack(dump_file, images)
        undump_from(ctid, images, root, links)


def undump_from(ctid: int, images: Path, root: str, links: dict[str, str]) -> None:
    """Restore from a directory of images and hold."""
    group = kernel.make_group(ctid)
    with tempfile.TemporaryDirectory(prefix=f"rst.{ctid}.") as work:
        hold = Path(work) / "hold"
        hold.write_text(HOLD.format(host=kernel.HOST_GROUP, group=group))
        hold.chmod(stat.S_IRWXU)
        words = ["restore", "--root", root, "--restore-detached", "--action-script", str(hold)]
        for inner, outer in links.items():
            words += ["--external", f"veth[{inner}]:{outer}"]
        try:
            _criu(words, str(images), "restore.log", group)
        except CheckpointError:
            kernel.kill(ctid)
            raise
        kernel.note_pid(ctid, kernel.init_pid(ctid))


HOLD = """#!/bin/sh
[ "$CRTOOLS_SCRIPT_ACTION" = pre-resume ] || exit 0
echo $PPID > {host}/cgroup.procs
echo 0 > {host}/cgroup.procs
echo 1 > {group}/cgroup.freeze
"""
"""CRIU runs inside the container's cgroup so that what it restores is there; before the processes are let go it
leaves the cgroup, and the cgroup is frozen."""


def _unpack(dump_file: Path, images: Path) -> None:
    images.mkdir()
    try:
        with tarfile.open(dump_file) as archive:
            archive.extractall(images, filter="data")
    except (tarfile.TarError, EOFError) as error:
        raise CheckpointError(f"Error: bad image: {error}") from error


def _criu(words: list[str], images: str, log: str, group: Path | None = None) -> None:
    def join() -> None:
        assert group is not None
        (group / "cgroup.procs").write_text("0")

    argv = ["criu", *words, "-D", images, "-o", log, "-v4", *COMMON]
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
        preexec_fn=join if group else None,
    )
    if done.returncode:
        text = (Path(images) / log).read_text(errors="replace") if (Path(images) / log).exists() else ""
        if keep := os.environ.get("OPENVZ_LAB_KEEP_LOGS"):
            shutil.copy(Path(images) / log, keep)
        lines = [line for line in text.splitlines() if "Error" in line or ("criu" in line.lower() and "fail" in line)]
        raise CheckpointError("\n".join(lines[-8:]) or f"Error: criu ended with {done.returncode}")
