"""The Debian root that all lab hosts share, read-only: made once by debootstrap, kept in a cache.

Rule: the cache holds whole roots only: one is made beside it and renamed when it is complete.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

SUITE = "trixie"
MIRROR = "http://deb.debian.org/debian"
PACKAGES = """
    acl attr conntrack criu crun ebtables iproute2 iptables iputils-arping iputils-ping libcriu2 ndisc6 nftables
    nginx-light openssh-client openssh-server procps psmisc python3 redis-server rsync runc util-linux zstd
"""
NEWER = ("criu", "libcompel1", "libcriu2")
"""CRIU 4.1.1 asks every socket for SO_PASSCRED, which Linux >= 6.16 refuses for internet sockets, so that no VE with a
TCP socket can be dumped (github.com/checkpoint-restore/criu, issue 2705); 4.2 does not. They come from NEWER_SUITE."""
NEWER_SUITE = "forky"
RECIPE = 2
"""Raised whenever what is done to the root after debootstrap changes, so that a cached one is not taken for it."""
MORTAL = ["setpriv", "--pdeathsig", "KILL", "unshare", "-m", "-p", "-f", "--kill-child", "--propagation", "private"]
"""Whoever is killed while it makes a root takes every process and mount of that work along."""
CACHE = Path(os.environ.get("MIGRATOR_LAB_CACHE", "/var/cache/migrator-lab"))
NEEDED = {
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "ssh-keygen": "openssh-client",
    "nsenter": "util-linux",
    "mke2fs": "e2fsprogs",
    "rsync": "rsync",
}
"""Programs that the lab runs on this machine, and the Debian package of each."""


class RootError(RuntimeError):
    """The root could not be made; names the step and the log."""


def ensure(extra: Sequence[str] = ()) -> Path:
    """The directory of a root with the usual packages and `extra`; made now (about a minute) if it is not there yet."""
    need(NEEDED)
    CACHE.mkdir(parents=True, exist_ok=True)
    packages = sorted({*PACKAGES.split(), *extra})
    recipe = " ".join((SUITE, *packages, NEWER_SUITE, *NEWER, str(RECIPE)))
    root = CACHE / f"{SUITE}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if not root.is_dir():
        with (CACHE / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not root.is_dir():
                _make(root, packages)
    return root


def need(programs: Mapping[str, str]) -> None:
    """Install the packages of those programs that this machine lacks. Raises RootError."""
    missing = sorted({package for program, package in programs.items() if shutil.which(program) is None})
    if not missing:
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing]
    for argv in (["apt-get", "update", "-q"], install):  # a new machine's lists are empty or old
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise RootError(f"{', '.join(missing)} are needed, and {' '.join(argv)} failed: {done.stderr.strip()}")


def _make(root: Path, packages: Sequence[str]) -> None:
    partial = root.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    print(f"making the lab's Debian root in {root} (once, about a minute)", flush=True)
    include = f"--include={','.join(packages)}"
    _step(["debootstrap", "--variant=minbase", include, SUITE, str(partial), MIRROR], mode="w")
    _install_newer(partial)
    _make_neutral(partial)
    partial.rename(root)


def _step(argv: Sequence[str], mode: str = "a") -> None:
    log = CACHE / "debootstrap.log"
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    with log.open(mode) as out:
        done = subprocess.run([*MORTAL, *argv], stdout=out, stderr=subprocess.STDOUT, env=environment, check=False)
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise RootError(f"{' '.join(argv)} ended with {done.returncode}; the end of {log}:\n{tail}")


def _install_newer(root: Path) -> None:
    """The few packages that this kernel needs newer than the release; nothing else of that suite is preferred."""
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    apt = root / "etc/apt"
    # A mirror that lags behind the clock must not keep the lab away; signatures are checked all the same.
    source = f"deb [check-valid-until=no] {MIRROR} {NEWER_SUITE} main\n"
    (apt / "sources.list.d/newer.list").write_text(source)
    (apt / "preferences.d/newer").write_text(f"Package: *\nPin: release n={NEWER_SUITE}\nPin-Priority: 100\n")
    wanted = [f"{package}/{NEWER_SUITE}" for package in NEWER]
    _step(["chroot", str(root), "apt-get", "update", "-q"])
    _step(["chroot", str(root), "apt-get", "install", "-y", "-q", "--no-install-recommends", *wanted])
    _step(["chroot", str(root), "apt-get", "clean"])


def _make_neutral(root: Path) -> None:
    """Nothing in the shared root belongs to one host: no SSH host keys, no machine id, no service started at boot."""
    for pattern in ("etc/ssh/ssh_host_*", "etc/rc?.d/[SK]*", "var/lib/apt/lists/*_*", "var/cache/apt/*.bin"):
        for path in root.glob(pattern):
            path.unlink()
    for name in ("etc/machine-id", "etc/hostname"):
        (root / name).unlink(missing_ok=True)
