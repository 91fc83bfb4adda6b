"""What a source tells a target of one VE beyond the common facts: VeFacts.config of this engine, JSON.

Rule: everything that the target's `vet` compares is in here, as the source saw it in the same moment.
"""

import json
import os
import stat
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from agents.engines.openvz import host, parameters
from agents.engines.openvz.config import Config
from agents.engines.openvz.container import Container
from agents.engines.openvz.host import Host
from agents.engines.openvz.output import Dialect
from agents.network import venet
from agents.network.filters import Firewalls
from migrator.wire.facts import Interface
from migrator.wire.faults import FaultCode, fault_error


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the source host is."""

    dialect: str = Dialect.KERNEL
    version: str = ""
    openvz_kernel: bool = True
    checkpoint: str = ""
    """Version of the checkpoint format, or of CRIU."""
    modules: tuple[str, ...] = ()
    scripts: tuple[str, ...] = ()
    root: str = ""
    private: str = ""
    quota: bool = False
    macs: tuple[str, ...] = ()
    """Hardware addresses with which it answers for VEs' addresses."""


@dataclass(frozen=True, slots=True)
class Description:
    """One VE."""

    config: str = ""
    surroundings: Surroundings = field(default_factory=Surroundings)
    capabilities: int | None = None
    """vzcptcheck's bits of this VE; None: not known."""
    scripts: tuple[str, ...] = ()
    bound: tuple[str, ...] = ()
    mounts: tuple[tuple[str, str, str], ...] = ()
    devices: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    """DEVNODES that exist at the source: name -> kind, major, minor."""
    rules: tuple[dict[str, Any], ...] = ()
    dump_bytes: int = 0

    def to_bytes(self) -> bytes:
        """For VeFacts.config."""
        return json.dumps(asdict(self)).encode()

    @property
    def parsed(self) -> Config:
        """The config."""
        return Config.parse(self.config.encode(errors="surrogateescape"))


def from_bytes(data: bytes) -> Description:
    """The inverse of to_bytes; fields of a newer agent are passed over. Raises FaultError(BAD_REQUEST)."""
    try:
        plain = json.loads(data)
        around = _known(Surroundings, plain.pop("surroundings", {}))
        rest = _known(Description, plain)
        return Description(**rest, surroundings=Surroundings(**around))
    except (ValueError, TypeError, AttributeError) as error:
        raise fault_error(FaultCode.BAD_REQUEST, f"no description of an OpenVZ VE: {error}", step="vet") from error


def _known(kind: type[Any], plain: dict[str, Any]) -> dict[str, Any]:
    names = {each.name for each in fields(kind)}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items() if key in names}


async def surroundings() -> Surroundings:
    """This host now."""
    here = Host.read()
    version = await host.version()
    return Surroundings(
        dialect=await host.dialect(),
        version=version.strip(),
        openvz_kernel=host.openvz_kernel(),
        checkpoint=await host.checkpoint_version(),
        modules=host.loaded_modules(),
        scripts=host.global_scripts(),
        root=here.defaults.root,
        private=here.defaults.private,
        quota=here.values["DISK_QUOTA"] == "yes",
        macs=tuple(each.mac for each in venet.neighbour_devices(here.values.get("NEIGHBOUR_DEVS", ""))),
    )


async def describe(
    one: Container, around: Surroundings, firewalls: Firewalls, interfaces: tuple[Interface, ...], *, runs: bool
) -> Description:
    """The VE as it is now."""
    config = one.own_config
    names = [device.name for device in parameters.devnodes(config.get("DEVNODES"))]
    numbers = {name: number for name in names if (number := node(name)) is not None}
    return Description(
        config=config.render().decode(errors="surrogateescape"),
        surroundings=around,
        capabilities=await host.cpu_capabilities(one.ve if runs else "") if around.openvz_kernel else None,
        scripts=one.scripts,
        bound=one.bound,
        mounts=one.mounts,
        devices=numbers,
        rules=tuple(rule.plain() for rule in firewalls.of(one.named(interfaces))),
        dump_bytes=size_bytes(one.dump),
    )


def node(name: str) -> tuple[str, int, int] | None:
    """Kind, major and minor of a device node below /dev."""
    try:
        entry = os.stat(Path("/dev", name))
    except OSError:
        return None
    if not (stat.S_ISCHR(entry.st_mode) or stat.S_ISBLK(entry.st_mode)):
        return None
    return ("c" if stat.S_ISCHR(entry.st_mode) else "b"), os.major(entry.st_rdev), os.minor(entry.st_rdev)


def size_bytes(path: Path) -> int:
    """A file, or all files of a directory; 0 when there is none."""
    if path.is_dir():
        return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
    return path.stat().st_size if path.exists() else 0
