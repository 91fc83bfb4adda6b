"""What this host is to OpenVZ: its vz.conf, its directories, its vzctl and kernel, and what a coming VE would ask of it.

Rule: read anew each time; an operator may change vz.conf or load a module while the agent runs.
"""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from agents import shell
from agents.engines.openvz import output
from agents.engines.openvz.config import Config, with_id
from agents.engines.openvz.output import Dialect
from agents.engines.openvz.rewrite import Defaults

ETC = Path("/etc/vz")
GLOBAL = ETC / "vz.conf"
CONFIG_DIRECTORIES = (ETC / "conf", Path("/etc/sysconfig/vz-scripts"))
SCRIPTS = ("premount", "mount", "start", "stop", "umount", "postumount")
NETFILTER_MODULES = re.compile(r"(ip6?t(able)?_|ip_tables|ip6_tables|x_tables|xt_|nf_|ipt_|ip_conntrack|ip_nat)")
OTHER_MODULES = frozenset({"ipv6", "nfs", "nfsd", "fuse", "tun", "ppp_generic", "ppp_async", "sit", "ipip", "ip_gre"})
TOOL_PATH = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin"
BUILT_IN = {
    "LOCKDIR": "/vz/lock",
    "DUMPDIR": "/vz/dump",
    "TEMPLATE": "/vz/template",
    "VE_ROOT": "/vz/root/$VEID",
    "VE_PRIVATE": "/vz/private/$VEID",
    "VE_LAYOUT": "simfs",
    "DISK_QUOTA": "yes",
}
"""What vzctl takes where vz.conf is silent."""


@dataclass(frozen=True, slots=True)
class Host:
    """vz.conf over the built-in values."""

    values: dict[str, str]

    @classmethod
    def read(cls) -> "Host":
        """Without vz.conf: the built-in values; `present` tells."""
        try:
            data = GLOBAL.read_bytes()
        except OSError:
            data = b""
        return cls({**BUILT_IN, **Config.parse(data).values})

    @property
    def lock_directory(self) -> Path:
        """Where vzctl's lock files are."""
        return Path(self.values["LOCKDIR"])

    @property
    def dump_directory(self) -> Path:
        """Where dumps of suspended VEs are."""
        return Path(self.values["DUMPDIR"])

    @property
    def defaults(self) -> Defaults:
        """Where VEs are kept unless their config says otherwise."""
        return Defaults(self.values["VE_ROOT"], self.values["VE_PRIVATE"])

    def place(self, ve: str, values: dict[str, str], key: str) -> Path:
        """VE_ROOT or VE_PRIVATE of a VE with this config."""
        return Path(with_id(values.get(key) or self.values[key], ve))


def present() -> bool:
    """Whether this host has OpenVZ's configuration at all."""
    return GLOBAL.is_file()


def config_directory() -> Path:
    """Where the VEs' configs are."""
    return next((path for path in CONFIG_DIRECTORIES if path.is_dir()), CONFIG_DIRECTORIES[0])


def openvz_kernel() -> bool:
    """Whether the kernel is OpenVZ's: it has /proc/vz, and vzctl speaks to it by /dev/vzctl."""
    return Path("/proc/vz").is_dir() or Path("/dev/vzctl").is_char_device()


async def dialect() -> Dialect:
    """Which vzctl this is."""
    return output.dialect(await version(), openvz_kernel=openvz_kernel())


_versions: dict[tuple[str, int], str] = {}


async def version() -> str:
    """What `vzctl --version` prints; empty when there is no vzctl. Asked once of each file that has that name."""
    path = shutil.which("vzctl", path=TOOL_PATH)
    if path is None:
        return ""
    key = (path, os.stat(path).st_mtime_ns)
    if key not in _versions:
        ran = await shell.run([path, "--version"], limit_s=20)
        if not ran.ok:
            return ""
        _versions[key] = ran.stdout
    return _versions[key]


async def checkpoint_version() -> str:
    """Version of the kernel's checkpoint format, of CRIU where that makes them; empty: not known."""
    if openvz_kernel():
        ran = await shell.run(["vzcptcheck", "version"], limit_s=20)
        return ran.stdout.strip() if ran.ok and ran.stdout.strip().isdigit() else ""
    ran = await shell.run(["criu", "--version"], limit_s=20)
    found = re.search(r"Version: (\S+)", ran.stdout) if ran.ok else None
    return found.group(1) if found else ""


async def cpu_capabilities(ve: str = "") -> int | None:
    """vzcptcheck's bit mask of what checkpoints of this CPU (or of a running VE) depend on; None: not known."""
    ran = await shell.run(["vzcptcheck", "caps", *([ve] if ve else [])], limit_s=20)
    text = ran.stdout.strip()
    try:
        return int(text, 0) if ran.ok else None
    except ValueError:
        return None


def loaded_modules() -> tuple[str, ...]:
    """Of the modules that a VE may depend on, those that are in the kernel."""
    names = {path.name for path in Path("/sys/module").glob("*")}
    return tuple(sorted(name for name in names if NETFILTER_MODULES.match(name) or name in OTHER_MODULES))


async def can_load(module: str) -> bool:
    """Whether the module could be loaded; tried without doing so."""
    ran = await shell.run(["modprobe", "-n", "-q", module], limit_s=20)
    return ran.ok


def global_scripts() -> tuple[str, ...]:
    """Action scripts of this host that run for every VE."""
    return tuple(f"vps.{kind}" for kind in SCRIPTS if (config_directory() / f"vps.{kind}").exists())


def identifiers() -> tuple[str, ...]:
    """Every VE that has a config here, in vzctl's order."""
    stems = (path.stem for path in config_directory().glob("*.conf"))
    found = [stem for stem in stems if output.valid_id(stem)]
    return tuple(sorted(found, key=lambda ve: (not ve.isdigit(), int(ve) if ve.isdigit() else 0, ve)))


def mounts_below(directory: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> tuple[tuple[str, str, str], ...]:
    """(mount point, file system type, source) of all that is mounted below a directory, the directory itself not."""
    top = os.path.realpath(directory).rstrip("/") + "/"
    found = []
    try:
        lines = mountinfo.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ()
    for line in lines:
        left, _, right = line.partition(" - ")
        words, more = left.split(" "), right.split(" ")
        point = words[4].encode().decode("unicode_escape") if "\\" in words[4] else words[4]
        if point.startswith(top):
            found.append((point, more[0], words[3] if more[0] not in ("nfs", "nfs4") else more[1]))
    return tuple(found)
