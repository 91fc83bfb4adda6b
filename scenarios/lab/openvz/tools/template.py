"""Makes an OS template from the host's own programs: a small tree with an init, a shell, iproute2, redis and Python.

Runs inside the host: `python3 -m tools.template NAME`. Writes TEMPLATE/cache/NAME.tar.gz whole or not at all.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

CACHE = Path("/vz/template/cache")
PROGRAMS = [
    "bash", "cat", "chmod", "cp", "date", "dd", "echo", "env", "grep", "head", "ip", "kill", "ls", "mkdir",
    "mount", "mv", "nohup", "ps", "python3", "redis-cli", "redis-server", "rm", "sed", "setsid", "sleep",
    "sort", "sync", "tail", "tar", "touch", "tr", "true", "umount", "uname", "wc",
]  # fmt: skip
DIRECTORIES = [
    "dev/pts", "dev/shm", "etc/rc.d", "home", "proc", "root", "run", "sys", "tmp", "var/lib", "var/log",
    "var/run",
]  # fmt: skip
NODES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
STDLIB_LEAVES_OUT = {"test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "__pycache__", "pydoc_data"}
INIT = """#!/bin/bash
# Init of a small system: runs /etc/rc.d/*, reaps, and on SIGPWR ends all others and itself.
trap 'trap "" PWR TERM; kill -TERM -1; for i in 1 2 3 4 5 6 7 8 9 10; do \
  [ "$(ls -d /proc/[0-9]* | wc -l)" -le 2 ] && break; sleep 0.1; done; exit 0' PWR TERM
for script in /etc/rc.d/*; do [ -x "$script" ] && "$script" </dev/null >/dev/null 2>&1; done
while :; do sleep 3600 & wait $!; kill $! 2>/dev/null; done
"""
REDIS = """#!/bin/bash
exec setsid redis-server --port 6379 --protected-mode no --save "" --dir /var/lib --daemonize yes
"""


def make(name: str) -> Path:
    """The template; an existing one is kept."""
    archive = CACHE / f"{name}.tar.gz"
    if archive.exists():
        return archive
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        root = Path(work) / "root"
        _fill(root)
        part = Path(work) / "part.tar.gz"
        subprocess.run(["tar", "--numeric-owner", "-I", "gzip -1", "-cpf", part, "-C", root, "."], check=True)
        os.replace(part, archive)
    return archive


def _fill(root: Path) -> None:
    for name in ["bin", "sbin", "lib", "lib64"]:
        (root / "usr" / name).mkdir(parents=True)
        os.symlink(f"usr/{name}", root / name)
    for name in DIRECTORIES:
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    for program in PROGRAMS:
        if path := shutil.which(program):
            _copy_program(Path(path), root)
    _copy_python(root)
    for name, (major, minor) in NODES.items():
        os.mknod(root / "dev" / name, 0o20666, os.makedev(major, minor))
        (root / "dev" / name).chmod(0o666)
    os.symlink("pts/ptmx", root / "dev/ptmx")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/:/bin/false\n")
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    os.symlink("bash", root / "usr/bin/sh")
    for name, text in (("usr/sbin/init", INIT), ("etc/rc.d/50redis", REDIS)):
        (root / name).write_text(text)
        (root / name).chmod(0o755)


def _copy_program(program: Path, root: Path) -> None:
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    paths = [Path(word) for line in listed.splitlines() for word in line.split() if word.startswith("/")]
    for path in [program, *paths]:
        into = root / str(path).lstrip("/")
        if not into.exists():
            into.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(os.path.realpath(path), into)


def _copy_python(root: Path) -> None:
    library = Path(sysconfig.get_paths()["stdlib"])
    shutil.copytree(
        library, root / str(library).lstrip("/"), ignore=shutil.ignore_patterns(*STDLIB_LEAVES_OUT), dirs_exist_ok=True
    )
    for extension in (library / "lib-dynload").glob("*.so"):
        _copy_program(extension, root)


if __name__ == "__main__":
    print(make(sys.argv[1]))
