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
NEWER = ("criu", "libcompel1", "libcriu2")
"""CRIU 4.1.1 asks every socket for SO_PASSCRED, which Linux >= 6.16 refuses for internet sockets, so that no VE with a
TCP socket can be dumped (github.com/checkpoint-restore/criu, issue 2705); 4.2 does not. They come from NEWER_SUITE."""
NEWER_SUITE = "forky"
MIRROR = "http://deb.debian.org/debian"
CACHE = Path(os.environ.get("MIGRATOR_LAB_CACHE", "/var/cache/migrator-lab"))


def ensure() -> Path:
    """The root's directory; made now (about a minute) if it is not there yet."""
    CACHE.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(" ".join((SUITE, *PACKAGES, *NEWER)).encode()).hexdigest()[:12]
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
    _install_newer(partial)
    partial.rename(root)


def _install_newer(root: Path) -> None:
    """The few packages that this kernel needs newer than the release; nothing else of that suite is preferred."""
    apt = root / "etc/apt"
    # A mirror that lags behind the clock must not keep the lab away; signatures are checked all the same.
    (apt / "sources.list.d/newer.list").write_text(f"deb [check-valid-until=no] {MIRROR} {NEWER_SUITE} main\n")
    (apt / "preferences.d/newer").write_text(f"Package: *\nPin: release n={NEWER_SUITE}\nPin-Priority: 100\n")
    install = [f"{package}/{NEWER_SUITE}" for package in NEWER]
    steps = (
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-y", "-q", "--no-install-recommends", *install],
        ["apt-get", "clean"],
    )
    with (CACHE / "debootstrap.log").open("a") as out:
        for words in steps:
            subprocess.run(["chroot", root, *words], check=True, stdout=out, stderr=out)
