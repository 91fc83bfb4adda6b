"""A bundle on disk: /var/lib/migrator/ve/ID with config.json, rootfs and network.json.

Rule: everything that makes the VE lies below its bundle; what is mounted into it from elsewhere is reported. A bundle that is
coming has a mark beside it until the move is over: only what has the mark may be dropped.
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents import places
from agents.engines.oci.runtime import RUNTIMES, Runtime
from migrator.wire.codec import to_plain
from migrator.wire.facts import Interface

BUNDLES = places.STATE / "ve"
ARRIVING = places.STATE / "arriving"
RUNTIME = "org.migrator.runtime"
VIRTUAL = frozenset({"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"})
USAGE_AGE_S = 60.0
_usage: dict[Path, tuple[float, int]] = {}
"""When the files of a bundle were last counted, and what they took."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """One VE's directory."""

    ve: str

    @property
    def path(self) -> Path:
        """The bundle directory."""
        return BUNDLES / self.ve

    @property
    def arriving(self) -> Path:
        """The mark of one that is coming."""
        return ARRIVING / self.ve

    def mark(self, *, arriving: bool) -> None:
        """Set or remove the mark, durably."""
        ARRIVING.mkdir(parents=True, exist_ok=True, mode=0o700)
        if arriving:
            self.arriving.touch()
        else:
            self.arriving.unlink(missing_ok=True)
        directory = os.open(ARRIVING, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    @property
    def config(self) -> dict[str, Any]:
        """config.json; empty when it has not arrived yet, or only in part."""
        try:
            config = json.loads((self.path / "config.json").read_text())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return {}
        return config if isinstance(config, dict) else {}

    @property
    def runtime(self) -> Runtime:
        """The runtime that runs it."""
        return runtime_of(self.config)

    @property
    def autostart(self) -> bool:
        """Whether the host starts it at boot."""
        return (self.path / "autostart").exists()

    def interfaces(self) -> tuple[Interface, ...]:
        """network.json as facts; none when there is no such file."""
        try:
            data = json.loads((self.path / "network.json").read_text())
        except FileNotFoundError:
            return ()
        return tuple(
            Interface(
                each["name"],
                each["mac"],
                each["host_name"],
                each["bridge"],
                each.get("mtu", 1500),
                tuple(each["addresses"]),
                tuple((route["to"], route.get("via", "")) for route in each.get("routes", [])),
            )
            for each in data["interfaces"]
        )

    def write_interfaces(self, interfaces: tuple[Interface, ...]) -> None:
        """Write network.json."""
        plain = [to_plain(each) for each in interfaces]
        for each in plain:
            each["routes"] = [{"to": to, "via": via} for to, via in each["routes"]]
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "network.json").write_text(json.dumps({"interfaces": plain}, indent=1))

    def foreign_mounts(self) -> tuple[str, ...]:
        """Host directories mounted into the VE that lie outside the bundle."""
        sources = (
            str(mount.get("source", ""))
            for mount in self.config.get("mounts", [])
            if mount.get("type") not in VIRTUAL or "bind" in mount.get("options", [])
        )
        return tuple(
            source
            for source in sources
            if source.startswith("/") and not Path(source).resolve().is_relative_to(self.path)
        )

    def mount_points(self) -> tuple[str, ...]:
        """Where in the VE the runtime mounts something."""
        return tuple(str(mount.get("destination", "")) for mount in self.config.get("mounts", []))

    def disk_bytes(self) -> int:
        """What the bundle took on disk when it was last counted, at most USAGE_AGE_S ago. Walks the tree: for a thread."""
        counted_s, taken = _usage.get(self.path, (0.0, 0))
        if not counted_s or time.monotonic() - counted_s > USAGE_AGE_S:
            taken = usage_bytes(self.path)
            _usage[self.path] = (time.monotonic(), taken)
        return taken


def runtime_of(config: dict[str, Any]) -> Runtime:
    """The runtime that a configuration names; crun when it names none that is known."""
    name = config.get("annotations", {}).get(RUNTIME, RUNTIMES[0])
    return Runtime(name if name in RUNTIMES else RUNTIMES[0])


def usage_bytes(top: Path) -> int:
    """What a tree takes on disk, each hard-linked file once; what vanishes meanwhile does not count."""
    total, seen, waiting = 0, set(), [str(top)]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:
            continue
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if status.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
            total += status.st_blocks * 512
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
    return total


def all_bundles() -> tuple[Bundle, ...]:
    """Every bundle on this host; parts of files that are on their way lie in directories whose names are none of a VE."""
    names = (path.parent.name for path in sorted(BUNDLES.glob("*/config.json")))
    return tuple(Bundle(name) for name in names if places.valid_name(name))
