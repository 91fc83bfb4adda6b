"""The Debian root that all lab hosts share, read-only: made once by debootstrap, kept in a cache.

Rule: the cache holds whole roots only: one is made beside it and renamed when it is complete.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

SUITE = "trixie"
PACKAGES = (
    "acl attr criu crun iproute2 iptables iputils-arping iputils-ping libcriu2 nftables openssh-client "
    "openssh-server procps python3 redis-server rsync runc util-linux zstd"
).split()
CACHE = Path(os.environ.get("MIGRATOR_LAB_CACHE", "/var/cache/migrator-lab"))


def ensure() -> Path:
    """The root's directory; made now (about a minute) if it is not there yet."""
    CACHE.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(" ".join((SUITE, *PACKAGES)).encode()).hexdigest()[:12]
    root = CACHE / f"{SUITE}-{key}"
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.is_dir():
            _make(root)
    return root


def _make(root: Path) -> None:
    partial = root.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    if shutil.which("debootstrap") is None:
        subprocess.run(["apt-get", "install", "-y", "-q", "debootstrap"], check=True, stdout=subprocess.DEVNULL)
    print(f"making the lab's Debian root in {root} (once, about a minute)", flush=True)
    log = CACHE / "debootstrap.log"
    with log.open("w") as out:
        done = subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, partial],
            stdout=out,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"debootstrap ended with {done.returncode}; its log is {log}")
    partial.rename(root)
