"""What start and stop do on the host around a context: addresses, mounts, disk limits, scripts, lock."""

import fcntl
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import kernel, switches
from .config import CACHE, DEFAULTS, LOCKS, Config, ConfigError
from .files import Files, walk

VIRTUAL = ("proc", "sysfs", "tmpfs", "devpts", "ramfs", "mqueue")


def say(text: str) -> None:
    """To standard error."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def locked(config: Config) -> Iterator[None]:
    """The start-up lock; waited for at most 300 s, and gone on without it, as the real one does."""
    path = LOCKS / f"vserver.{_canonical(config)}.startup"
    with path.open("w") as file:
        end = time.monotonic() + switches.number("lock-wait-s", 300)
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > end:
                    break
                time.sleep(0.05)
        yield


def _canonical(config: Config) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", str(config))


def ip(*words: str) -> int:
    """The real `ip`, whose complaints the caller's caller sees."""
    return subprocess.run(["ip", *words], check=False).returncode


# --- addresses ----------------------------------------------------------------------------------------


def add_addresses(config: Config) -> bool:
    """As configured, on the host's devices; whether all went well."""
    well = True
    for interface in config.interfaces():
        if interface.vlan and not Path("/proc/net/vlan").is_dir():
            raise ConfigError("VLAN device-name used, but vlan subsystem not enabled\nTry to execute 'modprobe 8021q'")
        if interface.nodev:
            continue
        well &= ip("addr", "add", *interface.words()) == 0
        if interface.up:
            well &= ip("link", "set", interface.device, "up") == 0
    return well


def remove_addresses(config: Config) -> None:
    """In reverse order, whoever set them; a device is never set down."""
    for interface in reversed(config.interfaces()):
        if not interface.nodev:
            ip("addr", "del", *interface.words())


# --- mounts -------------------------------------------------------------------------------------------


def fstab(config: Config, *, strict: bool = True) -> list[tuple[str, int, list[str]]]:
    """(file, line number, words) of every entry. `strict`: raises ConfigError on a line that is none."""
    found = []
    for name in ("fstab", "fstab.local", "fstab.remote"):
        path = config.directory / name
        if not path.exists():
            continue
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if len(words) < 3 and not strict:
                continue
            if len(words) < 3:
                raise ConfigError(f"{path}:{number}:{len(line)}: syntax error in fstab-entry")
            found.append((str(path), number, words))
    return found


def mount(config: Config) -> bool:
    """Each fstab entry below the guest's root, in the namespace of the caller; whether all went well."""
    well = True
    root = os.path.realpath(config.root)
    for path, number, words in fstab(config):
        source, target, kind = words[:3]
        options = (words[3] if len(words) > 3 else "defaults").split(",")
        binding = "bind" in options or "rbind" in options
        if binding and not os.path.exists(source):
            say(f"secure-mount: failed to stat {source}: No such file or directory")
            say(f"{path}:{number}:1: failed to mount fstab-entry")
            well = False
            continue
        where = root + "/" + target.lstrip("/")
        plain = [word for word in options if word not in ("defaults", "bind", "rbind", "noauto")]
        kind_words = [] if binding else ["-t", kind]
        argv = ["mount", "-n", *kind_words, *(["--rbind" if "rbind" in options else "--bind"] if binding else [])]
        argv += ["-o", ",".join(plain)] if plain else []
        if subprocess.run([*argv, source, where], check=False, capture_output=True).returncode:
            say("secure-mount: mount(): No such file or directory")
            say(f"{path}:{number}:1: failed to mount fstab-entry")
            well = False
    return well


def unmount(config: Config) -> None:
    """Each fstab entry, in reverse order, in the namespace of the caller; silently."""
    root = os.path.realpath(config.root)
    mounted = {line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()}
    for _, _, words in reversed(fstab(config, strict=False)):
        where = (root + "/" + words[1].lstrip("/")).rstrip("/")
        if where in mounted:
            subprocess.run(["umount", "-n", "-l", where], check=False, capture_output=True)


# --- scripts ------------------------------------------------------------------------------------------


def scripts(config: Config, name: str) -> bool:
    """Run the guest's and the host's scripts of that name; whether all ended with 0."""
    well = True
    for base in (config.directory / "scripts", DEFAULTS / "scripts"):
        directory = base / f"{name}.d"
        found = [base / name, *(sorted(directory.iterdir()) if directory.is_dir() else [])]
        for path in found:
            if path.is_file():
                argv = [str(path)] if os.access(path, os.X_OK) else ["sh", str(path)]
                well &= subprocess.run([*argv, name, config.name], check=False, cwd=config.root).returncode == 0
    return well


# --- disk limits --------------------------------------------------------------------------------------


def cache_file(config: Config, xid: int, directory: str) -> Path:
    """Where a limit's counters are kept between stop and start."""
    return CACHE / config.name / "dlimits" / f"{xid}_{directory.replace('/', '_')}"


def set_disk_limits(config: Config, xid: int) -> None:
    """From the counters that stop left, else counted now. Raises ConfigError when more is used than allowed."""
    for entry in config.entries("dlimits"):
        directory = config.value(f"dlimits/{entry}/directory")
        if not directory or config.has(f"dlimits/{entry}/disabled"):
            continue
        kept = cache_file(config, xid, directory)
        if kept.exists():
            used = {
                key: int(value) for key, _, value in (line.partition("=") for line in kept.read_text().splitlines())
            }
            kept.unlink()
        else:
            space, inodes = disk_use(os.fsencode(directory), xid)
            used = {"space_used": space, "inodes_used": inodes}
        limit = {
            "space_used": used["space_used"],
            "space_total": int(config.value(f"dlimits/{entry}/space_total", "-1")),
            "inodes_used": used["inodes_used"],
            "inodes_total": int(config.value(f"dlimits/{entry}/inodes_total", "-1")),
            "reserved": int(config.value(f"dlimits/{entry}/reserved", "0")),
        }
        check_limit(limit)
        with kernel.state() as known:
            known["dlimits"][f"{xid}|{directory}"] = limit


def check_limit(limit: dict[str, int]) -> None:
    """Raises ConfigError as vdlimit complains."""
    for kind in ("space", "inodes"):
        if 0 <= limit[f"{kind}_total"] < limit[f"{kind}_used"]:
            raise ConfigError(f"vdlimit: invalid parameters: '{kind}_used' is larger than '{kind}_total'")


def save_disk_limits(config: Config, xid: int) -> None:
    """Counters into the cache, limits out of the kernel."""
    with kernel.state() as known:
        for key in [key for key in known["dlimits"] if key.startswith(f"{xid}|")]:
            directory = key.partition("|")[2]
            del known["dlimits"][key]
            space, inodes = disk_use(os.fsencode(directory), xid)
            path = cache_file(config, xid, directory)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"space_used={space}\ninodes_used={inodes}\n")


def disk_use(directory: bytes, tag: int) -> tuple[int, int]:
    """(KiB, inodes) of the files with that tag, hard links once, one file system."""
    files, seen, blocks = Files(), set(), 0
    for path in walk(directory, recursive=True):
        try:
            found = os.lstat(path)
            if found.st_ino not in seen and files.tag(path) == tag:
                seen.add(found.st_ino)
                blocks += found.st_blocks
        except FileNotFoundError:
            continue
    return blocks // 2, len(seen)
