"""This host as a VServer host: where its guests are, which run, and what their processes and mounts are.

Rule: whether a guest runs is asked of `vserver NAME running` and of nothing else, and an answer that does not come is a
fault, never a state.
"""

import re
import tomllib
from pathlib import Path

from agents.engines.vserver import disk, maps, output, tools
from agents.engines.vserver.guest import Guest, read
from agents.engines.vserver.maps import Maps
from agents.engines.vserver.output import SysInfo
from agents.engines.vserver.rewrite import HostPaths
from agents.engines.vserver.tree import Tree
from agents.shell import failed
from migrator.wire.faults import FaultCode, fault_error

SETTINGS = Path("/etc/migrator/vserver.toml")
MIGRATED = ".~migrated~"
"""Put behind the name of a configuration directory that must not start any more: the tools skip it."""
IGNORED = re.compile(r"(\.rpmsave|\.rpmnew|\.rpmorig|\.cfsaved.*|\.~.*~|~)$")
RUNS, RUNS_NOT, NO_SUCH_GUEST = 0, 1, 5


class Site:
    """Asks the host each time, except for what cannot change while it is up."""

    def __init__(self) -> None:
        self._info: SysInfo | None = None

    async def info(self) -> SysInfo:
        """Versions and paths. Raises FaultError(ENGINE_MISSING) where there is no util-vserver."""
        if self._info is None:
            ran = await tools.run("vserver-info", "-", "SYSINFO", limit_s=15)
            info = output.sysinfo(ran.stdout)
            if not ran.ok or "cfg-Directory" not in info.labels:
                raise fault_error(FaultCode.ENGINE_MISSING, "there is no util-vserver here", tool="vserver-info")
            self._info = info
        return self._info

    async def paths(self) -> HostPaths:
        """Where guests are kept here."""
        info = await self.info()
        defaults = Path(info.configs) / ".defaults"
        roots, cache = _link(defaults / "vdirbase"), _link(defaults / "cachebase")
        return HostPaths(info.configs, roots or info.roots, info.run, cache or "/var/cache/vservers")

    def maps(self) -> Maps:
        """This host's own settings. Raises FaultError(BAD_REQUEST) that names what is wrong with the file."""
        try:
            text = SETTINGS.read_text()
        except FileNotFoundError:
            return Maps()
        try:
            return maps.parse(text)
        except (ValueError, tomllib.TOMLDecodeError) as error:
            raise fault_error(FaultCode.BAD_REQUEST, f"{SETTINGS}: {error}", step="read settings") from error

    async def directory(self, ve: str) -> Path:
        """Where a guest's configuration is, or would be."""
        return Path((await self.paths()).configs) / ve

    async def fenced(self, ve: str) -> Path:
        """Where it is once the guest has moved away."""
        return (await self.directory(ve)).with_name(f"{ve}{MIGRATED}")

    async def place(self, ve: str) -> Path | None:
        """Where it is: as it should be, else fenced; None when it is not here."""
        await self.info()
        return self.place_now(ve)

    def place_now(self, ve: str) -> Path | None:
        """The same, where `info` has been asked before; else where util-vserver is by default."""
        configs = Path(self._info.configs if self._info is not None else HostPaths().configs)
        return next((path for path in (configs / ve, configs / f"{ve}{MIGRATED}") if path.is_dir()), None)

    async def names(self) -> tuple[str, ...]:
        """Every guest that is configured here, each once; also those that moved away and are kept."""
        configs = Path((await self.paths()).configs)
        if not configs.is_dir():
            return ()
        found = [path.name.removesuffix(MIGRATED) for path in sorted(configs.iterdir()) if path.is_dir()]
        return tuple(dict.fromkeys(name for name in found if name[0] != "." and not IGNORED.search(name)))

    async def legacy_names(self) -> tuple[str, ...]:
        """Guests of the old kind, which have a NAME.conf and no directory."""
        configs = Path((await self.paths()).configs)
        return tuple(path.stem for path in sorted(configs.glob("*.conf")) if not path.with_suffix("").is_dir())

    async def tree(self, ve: str) -> Tree:
        """A guest's configuration. Raises FaultError(UNKNOWN_VE)."""
        place = await self.place(ve)
        if place is None:
            raise fault_error(FaultCode.UNKNOWN_VE, f"there is no guest {ve} on this host")
        return disk.read(place)

    async def guest(self, ve: str) -> Guest:
        """A guest as configured. Raises FaultError(UNKNOWN_VE)."""
        return read(ve, str(await self.directory(ve)), await self.tree(ve))

    async def running(self, ve: str) -> bool:
        """Whether it runs now. Raises FaultError when that cannot be said."""
        ran = await tools.run("vserver", ve, "running")
        if ran.status not in (RUNS, RUNS_NOT, NO_SUCH_GUEST):
            raise failed(ran, "ask whether it runs")
        return ran.status == RUNS

    async def running_guests(self) -> tuple[Guest, ...]:
        """Every guest that runs now."""
        return tuple([await self.guest(name) for name in await self.names() if await self.running(name)])

    async def context(self, ve: str) -> int | None:
        """The context a running guest is in."""
        ran = await tools.run("vserver-info", ve, "CONTEXT", "0")
        return int(ran.stdout) if ran.ok and ran.stdout.strip().isdigit() else None

    async def context_exists(self, xid: int) -> bool:
        """Whether the kernel has a context of that id, whoever made it."""
        ran = await tools.run("vserver-info", str(xid), "XIDTYPE")
        return ran.ok and ran.stdout.strip() not in ("", "invalid")

    async def network_exists(self, nid: int) -> bool:
        """Whether the kernel has a network context of that id: a guest started with it would join it silently."""
        return (await tools.run("nattribute", "--nid", str(nid), "--get")).ok

    async def processes(self, xid: int) -> dict[int, str]:
        """Process id -> command line, of one context."""
        ran = await tools.run("vps", "ax")
        rows = (line.split(None, 6) for line in ran.stdout.splitlines()[1:])
        return {int(row[0]): row[-1] for row in rows if len(row) == 7 and row[0].isdigit() and row[1] == str(xid)}

    async def mountinfo(self, xid: int) -> str:
        """The mounts of a running context, with the host's paths. Raises FaultError."""
        ran = await tools.run("vnamespace", "--enter", str(xid), "cat", "/proc/self/mountinfo")
        if not ran.ok:
            raise failed(ran, "read the guest's mounts")
        return ran.stdout

    async def tags(self, directory: str) -> bool:
        """Whether the file system there keeps a tag with each file."""
        ran = await tools.run("showattr", "-d", directory)
        return ran.ok and ran.stdout[8:9].lower() == "x"

    async def sees_proc(self) -> bool:
        """Whether guests may see of /proc what they need (vprocunhide has run)."""
        return (await tools.run("vserver-info", "-", "VERIFYPROC")).ok

    async def unhidden(self) -> tuple[str, ...]:
        """This host's own list of what guests see of /proc; empty: the one that util-vserver brings."""
        path = Path((await self.paths()).configs) / ".defaults/apps/vprocunhide/files"
        try:
            lines = path.read_text().splitlines()
        except OSError:
            return ()
        return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))

    async def defaults(self) -> dict[str, str]:
        """Values for all guests of this host that change how a guest behaves; files only, one value each."""
        base = Path((await self.paths()).configs) / ".defaults"
        tree = disk.read(base) if base.is_dir() else Tree({})
        chosen = ("apps/vshelper/sync-timeout", "nonamespace", "shell", "context.dynamic", "interfaces/vlandev")
        found = {path: tree.value(path) or "" for path in chosen if tree.has(path)}
        return found | {path: "script" for path in tree.nodes if path.startswith("scripts/")}


def _link(path: Path) -> str:
    """Where a link leads; empty when there is none."""
    return str(path.resolve()) if path.is_symlink() else ""
