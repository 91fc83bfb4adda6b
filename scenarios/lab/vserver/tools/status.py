"""Whether guests run, and what they use: `status`, `vserver-stat`, `vserver-info`, `vps`."""

import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

from . import kernel, switches
from .config import CONFIGS, ROOTS, Config, guests

CLOCK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
TAGS = [
    "CONTEXT",
    "ID",
    "RUNNING",
    "VDIR",
    "NAME",
    "CFGDIR",
    "APPDIR",
    "INITPID",
    "INITPID_PID",
    "XID",
    "NID",
    "TAG",
    "APIVER",
    "UTS",
    "SYSINFO",
    "FEATURE",
    "PXID",
    "CANONIFY",
    "VERIFYCAP",
    "VERIFYPROC",
    "XIDTYPE",
]


def running_xid(config: Config) -> int | None:
    """The context it runs in. A run file that tells of a dead one is deleted by the very question."""
    try:
        text = config.run_file.read_text().strip()
    except OSError:
        return None
    if text.isdigit():
        found = kernel.context(int(text))
        if found is not None and found["name"] == str(config) and kernel.pids(int(text)):
            return int(text)
    try:
        os.unlink(os.path.realpath(config.run_file))
    except OSError:
        return None
    return None


def print_status(config: Config, *, silent: bool) -> int:
    """Exit status: 0 running, 3 stopped."""
    try:
        age = time.time() - config.run_file.stat().st_mtime
    except OSError:
        age = 0.0
    xid = running_xid(config)
    if xid is None:
        if not silent:
            print(f"Vserver '{config.name}' is stopped")
        return 3
    if not silent:
        days, minutes = divmod(int(age) // 60, 1440)
        uptime = f"{minutes // 60:02d}:{minutes % 60:02d}"
        uptime = f"{days} days, {uptime}" if days else uptime
        print(f"Vserver '{config.name}' is running at context '{xid}'")
        print(f"{'Number of processes: ':<21} {len(kernel.pids(xid))}")
        print(f"{'Uptime:':<21} {uptime}")
    return 0


# --- vserver-stat -------------------------------------------------------------------------------------


def print_stat() -> int:
    """The table, by context id."""
    with kernel.state() as known:
        contexts = {int(xid): found for xid, found in known["contexts"].items()}
    print("CTX   PROC    VSZ    RSS  userTIME   sysTIME    UPTIME NAME")
    for xid in sorted(contexts):
        processes = kernel.pids(xid)
        if not processes:
            continue
        vsz, rss, user, system = _use(processes)
        name = Config(Path(contexts[xid]["name"])).value("name") or os.path.basename(contexts[xid]["name"])
        name = name[:20] if switches.on("stat-cuts-names") else name
        uptime = _duration(time.time() - contexts[xid]["began"])
        print(
            f"{xid:<5}{len(processes):>5}{_size(vsz):>7}{_size(rss):>7}{_duration(user):>10}{_duration(system):>10}"
            f"{uptime:>10} {name}"
        )
    return 0


def _use(processes: list[int]) -> tuple[int, int, float, float]:
    vsz = rss = 0
    user = system = 0.0
    for pid in processes:
        try:
            with open(f"/proc/{pid}/stat") as file:
                words = file.read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        user += int(words[11]) / CLOCK
        system += int(words[12]) / CLOCK
        vsz += int(words[20])
        rss += int(words[21]) * PAGE
    return vsz, rss, user, system


def _size(count: int) -> str:
    value = float(count)
    for suffix in (" ", "K", "M", "G"):
        if value < 1000:
            return f"{value:.1f}{suffix}" if suffix != " " else f"{int(value)} "
        value /= 1024
    return f"{value:.1f}T"


def _duration(seconds: float) -> str:
    whole, milli = int(seconds), int(seconds * 1000) % 1000
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if whole < 3600:
        return f"{minutes}m{whole % 60:02d}s{f'{milli:02d}'[:2]}"
    if whole < 86400:
        return f"{hours}h{minutes:02d}m{whole % 60:02d}"
    return f"{days}d{hours:02d}h{minutes:02d}" if days < 1000 else f"{days // 365}y{days % 365:02d}d{hours:02d}"


# --- vserver-info -------------------------------------------------------------------------------------


def info(words: list[str]) -> int:
    """`vserver-info`: exit status."""
    quiet = "-q" in words
    if "-l" in words:
        print("Valid tags are: " + ", ".join(TAGS), file=sys.stderr)
        return 0
    rest = [word for word in words if word not in ("-q", "-l")]
    if not rest:
        print("Assumed 'SYSINFO' as no other option given; try '--help' for more information.", file=sys.stderr)
        rest = ["-", "SYSINFO"]
    if len(rest) < 2 or rest[1] not in TAGS:
        return 1
    answer = _answer(rest[0], rest[1], rest[2:])
    if answer is None:
        return 1
    if answer and not quiet:
        print(answer)
    return 0


def _answer(subject: str, tag: str, more: list[str]) -> str | None:
    """None: no answer (status 1); empty: status 0 without a line."""
    match tag:
        case "SYSINFO":
            return _sysinfo()
        case "APIVER":
            return "0x00020308" if switches.on("vserver-kernel") else None
        case "FEATURE":
            return "" if more and more[0] in ("vkill", "iattr", "spaces", "vnet", "vwait", "persistent") else None
        case "VERIFYCAP":
            return ""
        case "VERIFYPROC":
            with kernel.state() as known:
                return "" if known["unhidden"] else None
        case "CANONIFY":
            return "".join(char for char in subject if char.isalnum())
        case "CONTEXT" | "RUNNING" | "VDIR" | "NAME" | "CFGDIR" | "APPDIR" if not (
            tag == "RUNNING" and subject.isdigit()
        ):
            return _of_guest(Config(_path(subject)), tag, more)
        case "PXID":
            return None
        case "XID" | "NID" | "TAG" | "INITPID_PID":
            return _of_process(subject, tag)
        case _:
            return _of_context(subject, tag, more)


def _path(subject: str) -> Path:
    return Path(subject) if subject.startswith("/") else CONFIGS / subject


def _of_guest(config: Config, tag: str, more: list[str]) -> str | None:
    if not config.directory.is_dir():
        return None
    match tag:
        case "CONTEXT":
            xid = running_xid(config) or (config.xid if not more or more[0] not in ("0", "false", "") else None)
            return None if xid is None else str(xid)
        case "RUNNING":
            return "1" if running_xid(config) is not None else None
        case "VDIR":
            return os.path.realpath(config.root) if more[:1] == ["1"] else str(config.root)
        case "NAME":
            return config.value("name") or config.name
        case "APPDIR":
            return f"{config}/apps/{more[0]}" if more else None
        case _:
            return str(config)


def _of_process(subject: str, tag: str) -> str | None:
    try:
        xid = kernel.xid_of(int(subject))
    except (ValueError, ProcessLookupError):
        return None
    found = kernel.context(xid)
    match tag:
        case "XID":
            return str(xid)
        case "INITPID_PID":
            return str(found["init"]) if found else "1"
        case _:
            return str(found["nid" if tag == "NID" else "tag"]) if found else "0"


def _of_context(subject: str, tag: str, more: list[str]) -> str | None:
    if not subject.isdigit():
        return None
    xid = int(subject)
    found = kernel.context(xid)
    if tag == "XIDTYPE":
        kind = {0: "main", 1: "watch"}.get(xid, "invalid" if not found else "static" if xid < 49152 else "dynamic")
        return kind if not more or kind in more else None
    if found is None:
        return None
    match tag:
        case "ID":
            return str(found["name"])
        case "RUNNING":
            return "1" if kernel.pids(xid) else None
        case "INITPID":
            return str(found["init"])
        case _:
            fields = more or ["context", "sysname", "nodename", "release", "version", "machine", "domainname"]
            return " ".join(_uts(found, field) for field in fields)


def _uts(found: dict[str, object], field: str) -> str:
    own = found["uts"]
    assert isinstance(own, dict)
    system = platform.uname()
    values = {
        "context": found["name"], "sysname": system.system, "release": system.release, "version": system.version,
        "machine": system.machine, "nodename": own.get("nodename") or system.node, "domainname": own.get("domainname") or "(none)",
    }  # fmt: skip
    return str(values.get(field, "???"))


def _sysinfo() -> str:
    vserver = switches.on("vserver-kernel")
    vci = 0x13001011 | (0x300 if switches.on("cow") else 0) | (0x800 if switches.on("ipv6") else 0) | 0x400
    vci &= ~1 if switches.hits("dynamic-contexts") else ~0
    rows = {
        "Versions": {
            "Kernel": os.uname().release,
            "VS-API": "0x00020308" if vserver else "???",
            "VCI": f"0x{vci:016x}" if vserver else "???",
            "util-vserver": "0.30.216-pre3131; Jan 28 2018, 22:02:00",
        },
        "Features": {
            "Use dietlibc": "yes",
            "Available APIs": "compat,v11,fscompat,v13,net,v21,v22,v23,netv2",
            "vserver(2) syscall#": "236/glibc",
        },
        "Paths": {
            "prefix": "/usr",
            "sysconf-Directory": "/etc",
            "cfg-Directory": str(CONFIGS),
            "initrd-Directory": "/etc/init.d",
            "pkgstate-Directory": "/var/run/vservers",
            "vserver-Rootdir": str(ROOTS),
        },
    }
    parts = [
        f"{title}:\n" + "\n".join(f"{label:>25}: {value}" for label, value in labels.items())
        for title, labels in rows.items()
    ]
    return "\n\n".join(parts)


# --- vps ----------------------------------------------------------------------------------------------


def vps(words: list[str], *, only: int | None = None, out: TextIO | None = None) -> int:
    """`ps` as the watch context sees it, with a column for the context after the pid."""
    done = subprocess.run(["ps", *words], check=False, stdout=subprocess.PIPE, text=True, errors="replace")
    lines = done.stdout.splitlines()
    end = lines[0].find("PID") + 3 if lines else 2
    if end == 2:
        print("Failed to parse ps-output", file=sys.stderr)
        return 254
    for number, line in enumerate(lines):
        column = f" {'CONTEXT':<19}"
        if number:
            found = line[:end].split()
            xid = _context_of(int(found[-1]) if found and found[-1].isdigit() else 0)
            if only is not None and xid != only:
                continue
            name = {0: "MAIN", 1: "ALL_PROC"}.get(xid, _short(xid)) if xid >= 0 else "ERR"
            column = f"{xid if xid >= 0 else '?':>5} {name:<14}"[:20]
        print(line[:end] + column + line[end:], file=out or sys.stdout)
    return done.returncode


def _context_of(pid: int) -> int:
    try:
        return kernel.xid_of(pid)
    except ProcessLookupError:
        return -1


def _short(xid: int) -> str:
    found = kernel.context(xid)
    return os.path.basename(found["name"])[:14] if found else "?"


def by_xid(text: str) -> Config | None:
    """The guest configured or running with that id."""
    found = kernel.context(int(text)) if text.isdigit() else None
    if found:
        return Config(_path(found["name"]))
    return next((guest for guest in guests() if str(guest.xid) == text), None)
