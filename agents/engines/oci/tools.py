"""The tools this engine needs: which are here, what is wrong with each, and how to get a usable one.

Rule: a tool has a problem only if a migration would certainly fail by it; what depends on the VE is `fitness`'s to say.
Versions are asked once per installed file.
"""

import os
import platform
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from agents import shell
from agents.engines.oci import limits
from agents.engines.oci.cgroup import MOUNT
from agents.engines.oci.runtime import RUNTIMES
from migrator.wire.facts import ToolFact

Version = tuple[int, ...]
ASK_LIMIT_S, CHECK_LIMIT_S = 10.0, 20.0
NEWER_CRIU = (
    "install CRIU 4.2 or newer; on Debian, with `deb http://deb.debian.org/debian forky main` as a source pinned to 100 "
    "(apt_preferences(5)): apt-get install criu/forky libcriu2/forky libcompel1/forky"
)
TOO_OLD: tuple[tuple[Version, Version, str], ...] = (
    ((6, 13), (4, 1), "cannot start on Linux 6.13 and newer (its vDSO has another layout; checkpoint-restore/criu issue 2532)"),
    ((6, 16), (4, 2), "cannot dump internet sockets on Linux 6.16 and newer (checkpoint-restore/criu issue 2705)"),
)  # fmt: skip
"""(kernel from, CRIU before, what is wrong)."""
PACKAGES = {"criu": "criu", "crun": "crun", "runc": "runc", "rsync": "rsync"}
CGROUP_KILL_KERNEL = (5, 14)


@dataclass(frozen=True, slots=True)
class HostTools:
    """What matters of a host for a VE that comes from or goes to it. Empty version: not there."""

    kernel: str
    criu: str
    crun: str
    runc: str
    rsync: str
    lsm: tuple[str, ...]
    cgroup_controllers: tuple[str, ...]
    may_set_limits: bool
    """Whether root here has CAP_SYS_RESOURCE."""

    def version(self, name: str) -> str:
        """Of a program by its name."""
        return str(asdict(self).get(name, ""))


_versions: dict[tuple[str, int, int], str] = {}


async def here() -> HostTools:
    """This host."""
    found = {name: await version(name) for name in PACKAGES}
    return HostTools(
        kernel=platform.release(),
        lsm=tuple(filter(None, _read(Path("/sys/kernel/security/lsm")).strip().split(","))),
        cgroup_controllers=tuple(_read(MOUNT / "cgroup.controllers").split()),
        may_set_limits=limits.may_set_limits(),
        **found,
    )


async def version(name: str) -> str:
    """A program's version; empty when it is not there or cannot be run."""
    path = shutil.which(name)
    if path is None:
        return ""
    status = os.stat(path)
    key = (path, status.st_mtime_ns, status.st_size)
    if key not in _versions:
        ran = await shell.run([path, "--version"], limit_s=ASK_LIMIT_S)
        found = re.search(r"(\d+(?:\.\d+)+)", ran.stdout) if ran.ok else None
        if found is None:
            return ""
        _versions[key] = found.group(1)
    return _versions[key]


def numbers(text: str) -> Version:
    """A version for comparing: its leading numbers."""
    found = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(map(int, found.group().split("."))) if found else ()


async def probe() -> tuple[Sequence[ToolFact], Sequence[str]]:
    """The facts `migrator host check` prints, and what this engine offers: `oci/crun`, `oci/runc`."""
    host = await here()
    facts = [await _criu(host), _rsync(host), _cgroup(host), await _crun(host), _plain("runc", host.runc)]
    usable = {fact.name for fact in facts if fact.version and not fact.problem}
    offers = [f"oci/{name}" for name in RUNTIMES if {"criu", "rsync", "cgroup", name} <= usable]
    if not offers:
        return facts, offers
    # With one runtime the host is complete; the other one's absence is nothing that has to be mended.
    return [fact for fact in facts if fact.name not in RUNTIMES or fact.version], offers


def _plain(name: str, version: str) -> ToolFact:
    if version:
        return ToolFact(name, version)
    return ToolFact(name, "", "it is not installed", f"apt-get install {PACKAGES[name]}")


def _rsync(host: HostTools) -> ToolFact:
    return _plain("rsync", host.rsync)


async def _criu(host: HostTools) -> ToolFact:
    if not host.criu:
        return ToolFact("criu", "", "it is not installed", NEWER_CRIU)
    for kernel, before, problem in TOO_OLD:
        if numbers(host.kernel) >= kernel and numbers(host.criu) < before:
            return ToolFact("criu", host.criu, f"CRIU {host.criu} {problem}; this is Linux {host.kernel}", NEWER_CRIU)
    check = await shell.run(["criu", "check"], limit_s=CHECK_LIMIT_S)
    if check.ok:
        return ToolFact("criu", host.criu)
    said = shell.tail(check.stdout + check.stderr)
    remedy = f"read `criu check`; a kernel module may be missing (modprobe -a {' '.join(MODULES)}); else {NEWER_CRIU}"
    return ToolFact("criu", host.criu, f"`criu check` says: {said}", remedy)


MODULES = (
    "veth",
    "bridge",
    "nf_tables",
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    "unix_diag",
    "netlink_diag",
    "af_packet_diag",
)


async def _crun(host: HostTools) -> ToolFact:
    fact = _plain("crun", host.crun)
    if not host.crun:
        return fact
    said = (await shell.run(["crun", "--version"], limit_s=ASK_LIMIT_S)).stdout
    if "+CRIU" not in said:
        remedy = "install a crun that has +CRIU in `crun --version` (Debian's has), or runc"
        return ToolFact("crun", host.crun, "it was built without CRIU", remedy)
    known = await shell.run(["/sbin/ldconfig", "-p"], limit_s=ASK_LIMIT_S)
    if known.ok and "libcriu.so.2" not in known.stdout:
        return ToolFact("crun", host.crun, "it cannot checkpoint without libcriu.so.2", "apt-get install libcriu2")
    return fact


def _cgroup(host: HostTools) -> ToolFact:
    remedy = "boot with cgroup v2: systemd.unified_cgroup_hierarchy=1 on the kernel's command line, Linux 5.14 or newer"
    if not (MOUNT / "cgroup.controllers").exists():
        return ToolFact("cgroup", "", f"{MOUNT} is no cgroup v2 hierarchy", remedy)
    if numbers(host.kernel) < CGROUP_KILL_KERNEL:
        return ToolFact("cgroup", "2", f"Linux {host.kernel} has no cgroup.kill", remedy)
    return ToolFact("cgroup", "2")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
