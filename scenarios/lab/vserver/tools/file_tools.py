"""`setattr`, `showattr`, `lsxid`, `chxid`, `vdlimit`, `vdu`, `vhashify`."""

import hashlib
import os
import sys
from collections.abc import Iterator

from . import kernel, switches
from .config import CONFIGS, DEFAULTS, Config, ConfigError
from .files import Files, walk
from .setup import check_limit, disk_use, say
from .status import by_xid

SETTABLE = {
    "iunlink": ("iunlink", "immutable"),
    "iunlink-but-not-immutable": ("iunlink",),
    "immutable": ("immutable",),
    "immu": ("immutable",),
    "barrier": ("barrier",),
    "cow": ("cow",),
}


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)


def _paths(words: list[str], *, recursive: bool) -> Iterator[bytes]:
    for word in words:
        yield from walk(os.fsencode(word), recursive=recursive)


def setattr_(words: list[str]) -> int:
    """`setattr [-R] [-x] --[~]FLAG PATH...`"""
    recursive, added, removed, paths = "-R" in words, set[str](), set[str](), []
    for word in words:
        if word.startswith("--"):
            flag = word[2:]
            if flag.lstrip("~!") not in SETTABLE:
                say(f"setattr: unrecognized option '{word}'")
                return 255
            (removed if flag[0] in "~!" else added).update(SETTABLE[flag.lstrip("~!")])
        elif word not in ("-R", "-x"):
            paths.append(word)
    files, status = Files(), 0
    for path in _paths(paths, recursive=recursive):
        try:
            files.set_flags(path, (files.flags(path) | added) - removed)
        except OSError as error:
            say(f"{os.fsdecode(path)}: {error.strerror}")
            status = 1
    return status


def showattr(words: list[str]) -> int:
    """`showattr [-R] [-a] [-d] [-x] PATH...`: nine letters and the name."""
    recursive, files, status = "-R" in words, Files(), 0
    for path in _paths([word for word in words if word not in ("-R", "-a", "-d", "-x")], recursive=recursive):
        try:
            flags = files.flags(path)
        except OSError:
            _write(b"ERR --------- " + path + b"\n")
            status = 1
            continue
        letters = [("b", "barrier"), ("u", "iunlink"), ("i", "immutable"), ("c", "cow")]
        text = "----" + "".join(letter.upper() if flag in flags else letter for letter, flag in letters)
        text += "x" if switches.on("tagging") else "-"
        _write(text.encode() + b" " + path + b"\n")
    return status


def lsxid(words: list[str]) -> int:
    """`lsxid [-R] [-a] [-d] [-n] [-x] PATH...`: tag or name, and the path."""
    recursive, numeric, files, status = "-R" in words, "-n" in words, Files(), 0
    for path in _paths([word for word in words if word not in ("-R", "-a", "-d", "-n", "-x")], recursive=recursive):
        try:
            if not switches.on("tagging"):
                raise OSError(22, "Invalid argument")
            tag = files.tag(path)
        except OSError:
            _write(b"             !!ERR!!  " + path + b"\n")
            status = 1
            continue
        guest = None if numeric else by_xid(str(tag))
        text = str(tag) if numeric or guest is None else guest.name
        _write(f"{text:>20}  ".encode() + path + b"\n")
    return status


def chxid(words: list[str]) -> int:
    """`chxid -c XID|NAME [-R] [-x] [-U] PATH...`"""
    name = words[words.index("-c") + 1] if "-c" in words else ""
    rest = [word for at, word in enumerate(words) if word != "-c" and (at == 0 or words[at - 1] != "-c")]
    paths = [word for word in rest if word not in ("-R", "-x", "-U")]
    if not name or not paths:
        say("chxid: No xid specified; try '--help' for more information")
        return 255
    if not switches.on("tagging"):
        for path in paths:
            say(f"{path}: Invalid argument")
        return 1
    tag = int(name) if name.isdigit() else Config(CONFIGS / name).xid or 0
    files = Files()
    found = _paths(paths, recursive="-R" in rest)
    if "-U" in rest:
        found = (path for path in found if "iunlink" not in files.flags(path))
    failed = files.set_tags(found, tag)
    for error in failed:
        say(f"{error.filename}: {error.strerror}")
    return 1 if failed else 0


def vdlimit(words: list[str]) -> int:
    """`vdlimit --xid X [--set K=V]... [--remove] MNT`"""
    xid, directory = words[words.index("--xid") + 1], words[-1]
    sets = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
    key = f"{xid}|{directory}"
    with kernel.state() as known:
        limit = known["dlimits"].get(key)
        if "--remove" in words and limit is not None:
            del known["dlimits"][key]
            return 0
        if sets:
            limit = limit or dict.fromkeys(("space_used", "space_total", "inodes_used", "inodes_total"), -1) | {
                "reserved": 0
            }
            limit = {**limit, **{name: int(value) for name, _, value in (text.partition("=") for text in sets)}}
            try:
                check_limit(limit)
            except ConfigError as error:
                say(str(error))
                return 1
            known["dlimits"][key] = limit
            return 0
    if limit is None:
        say("vdlimit: vc_get_dlimit(): No such process")
        return 1
    print(f"{xid} {directory}")
    for name in ("space_used", "space_total", "inodes_used", "inodes_total", "reserved"):
        print(f"{name}={limit[name]}")
    return 0


def vdu(words: list[str]) -> int:
    """`vdu --xid X --space --inodes [--script] DIR`"""
    xid = int(words[words.index("--xid") + 1])
    space, inodes = disk_use(os.fsencode(words[-1]), xid)
    if "--script" in words:
        print(f"{space} {inodes}")
    else:
        print(f"{words[-1]} {space} {inodes}")
    return 0


def hashify(config: Config) -> int:
    """Link equal files of a guest to the pool and make them unlinkable but not writable."""
    pool = DEFAULTS / "apps/vunify/hash"
    links = sorted(path for path in pool.glob("*") if path.is_dir())
    if not links:
        say(f"vhashify: {pool}: No such file or directory")
        return 1
    files = Files()
    for path in walk(os.fsencode(os.path.realpath(config.root)), recursive=True):
        if os.path.islink(path) or not os.path.isfile(path) or not os.path.getsize(path):
            continue
        _unify(path, os.fsencode(links[0]), files)
    return 0


def _unify(path: bytes, pool: bytes, files: Files) -> None:
    found = os.stat(path)
    digest = hashlib.sha1(
        repr((found.st_mode, found.st_uid, found.st_gid, found.st_size, int(found.st_mtime))).encode()
    )
    with open(path, "rb") as file:
        digest.update(file.read())
    member = os.path.join(pool, digest.hexdigest().encode())
    if not os.path.exists(member):
        os.link(path, member)
    elif os.stat(member).st_ino != found.st_ino:
        fresh = path + b".vhashify"
        os.link(member, fresh)
        os.rename(fresh, path)
    files.set_flags(member, {"iunlink", "immutable"})


def vhashify(words: list[str]) -> int:
    """`vhashify NAME`"""
    names = [word for word in words if not word.startswith("-")]
    return max((hashify(Config(CONFIGS / name)) for name in names), default=1)
