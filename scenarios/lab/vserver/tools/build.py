"""`vserver NAME build`: a guest's configuration and root, from nothing, a template, another guest or an rsync source."""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from .config import CACHE, CONFIGS, DEFAULTS, ROOTS, RUN, Config, guests
from .files import Files
from .setup import say

DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
    "ptmx": (5, 2),
}
FSTAB = (
    "none\t/proc\t\tproc\tdefaults\t\t0 0\n"
    "none\t/tmp\t\ttmpfs\tsize=16m,mode=1777\t0 0\n"
    "none\t/dev/pts\tdevpts\tgid=5,mode=620\t0 0\n"
)


def enumerate_guests() -> list[Config]:
    """As wrappers over many guests see them."""
    return guests()


def build(name: str, words: list[str]) -> int:
    """Exit status."""
    split = words.index("--") if "--" in words else len(words)
    options, method = _parser().parse_args(words[:split]), words[split + 1 :]
    root = Path(options.rootdir or ROOTS) / name
    directory = Path(options.confdir or CONFIGS / name)
    if (root.exists() or directory.exists()) and not (options.force or options.keep):
        say(
            f"vserver-topdirectory '{root}' and/or configfile '{directory}' exist\nalready; please try to use '--force', or "
            f"'--keep', or execute '{sys.argv[0]} build\n--help' to get more information"
        )
        return 1
    context = options.context or _next_context()
    taken = {guest.value("context"): guest.name for guest in guests()}
    if context in taken and taken[context] != name:
        say(f"Context '{context}' is already in use. Please select another one.")
        return 1
    if options.force:
        for path in (root, directory):
            if path.exists():
                path.rename(f"{path}.~{int(time.time())}~")
    _write_config(name, directory, root, context, options)
    _write_root(root)
    return _fill(root, options.method, method)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vserver ... build", allow_abbrev=False)
    parser.add_argument("-m", dest="method", required=True)
    for flag in ("force", "keep", "i-know-its-there"):
        parser.add_argument(f"--{flag}", action="store_true")
    for word in [
        "rootdir",
        "pkgbase",
        "context",
        "confdir",
        "lockfile",
        "hostname",
        "netdev",
        "netbcast",
        "netmask",
        "netprefix",
        "flags",
        "cpuset",
        "cpusetcpus",
        "cpusetmems",
        "initstyle",
    ]:
        parser.add_argument(f"--{word}")
    parser.add_argument("--interface", action="append", default=[])
    return parser


def _next_context() -> str:
    path = DEFAULTS / "context.next"
    number = int(path.read_text()) if path.exists() else 40000
    DEFAULTS.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{number + 1}\n")
    return str(number)


def _write_config(name: str, directory: Path, root: Path, context: str, options: argparse.Namespace) -> None:
    values = {"context": context, "name": name, "uts/nodename": options.hostname or name}
    values["apps/init/style"] = options.initstyle or "sysv"
    for number, text in enumerate(options.interface):
        values.update(_interface(number, text, options))
    for word in ("cpus", "mems"):
        value = getattr(options, f"cpuset{word}")
        values.update({f"cpuset/{word}": value} if value else {})
    if options.cpuset:
        values["cpuset/name"] = options.cpuset
    for path, value in values.items():
        file = directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")
    if options.flags:
        (directory / "flags").write_text(options.flags.replace(",", "\n") + "\n")
    (directory / "fstab").write_text(FSTAB)
    for link, target in (("vdir", root), ("run", RUN / name), ("cache", CACHE / name)):
        (directory / link).unlink(missing_ok=True)
        (directory / link).symlink_to(target)


def _interface(number: int, text: str, options: argparse.Namespace) -> dict[str, str]:
    match = re.fullmatch(r"(?:([^=]+)=)?(?:(nodev|[^:/]+):)?([0-9.]+|[0-9a-fA-F:]+)(?:/(.+))?", text)
    if match is None:
        raise SystemExit(f"Can not parse interface '{text}'")
    label, device, address, size = match.groups()
    base = f"interfaces/{number}"
    values = {f"{base}/ip": address}
    if device == "nodev":
        values[f"{base}/nodev"] = ""
    elif device or options.netdev:
        values[f"{base}/dev"] = device or options.netdev
    size = size or options.netprefix or options.netmask
    if size:
        values[f"{base}/{'prefix' if size.isdigit() else 'mask'}"] = size
    if label:
        values[f"{base}/name"] = label
    return values


def _write_root(root: Path) -> None:
    (root / "dev/pts").mkdir(parents=True, exist_ok=True)
    files = Files()
    parent = os.fsencode(root.parent)
    files.set_flags(parent, files.flags(parent) | {"barrier"})
    for name, (major, minor) in DEVICES.items():
        if not (root / "dev" / name).exists():
            os.mknod(root / "dev" / name, 0o20666, os.makedev(major, minor))
            (root / "dev" / name).chmod(0o666)
    for name, target in (("fd", "../proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        if not os.path.lexists(root / "dev" / name):
            (root / "dev" / name).symlink_to(target)
    for part in ("dev/shm", "proc", "tmp", "etc", "var/run", "var/lock"):
        (root / part).mkdir(parents=True, exist_ok=True)
    ROOTS.joinpath(".pkg").mkdir(parents=True, exist_ok=True)


def _fill(root: Path, method: str, words: list[str]) -> int:
    match method:
        case "skeleton":
            return 0
        case "template":
            archive = words[words.index("-t") + 1]
            return subprocess.run(["tar", "-C", str(root), "--numeric-owner", "-xpf", archive], check=False).returncode
        case "rsync" | "clone":
            source = words[words.index("--source") + 1]
            source = f"{ROOTS}/{source}" if method == "clone" else source
            argv = ["rsync", "-Hazx", "--numeric-ids", f"{source.rstrip('/')}/", f"{root}/"]
            return subprocess.run(argv, check=False).returncode
        case _:
            say(f"build method '{method}' is not emulated; use skeleton, template, rsync or clone")
            return 1
