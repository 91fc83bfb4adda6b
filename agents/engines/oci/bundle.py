"""A bundle on disk: /var/lib/migrator/ve/ID with config.json, rootfs and network.json.

Rule: everything that makes the VE lies below its bundle; what is mounted into it from elsewhere is reported.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents import places
from migrator.wire.codec import to_plain
from migrator.wire.facts import Interface

BUNDLES = places.STATE / "ve"
RUNTIME = "org.migrator.runtime"
VIRTUAL = frozenset({"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"})


@dataclass(frozen=True, slots=True)
class Bundle:
    """One VE's directory."""

    ve: str

    @property
    def path(self) -> Path:
        """The bundle directory."""
        return BUNDLES / self.ve

    @property
    def config(self) -> dict[str, Any]:
        """config.json; empty when it has not arrived yet."""
        try:
            config: dict[str, Any] = json.loads((self.path / "config.json").read_text())
        except FileNotFoundError:
            return {}
        return config

    @property
    def runtime(self) -> str:
        """The runtime that runs it."""
        runtime = self.config.get("annotations", {}).get(RUNTIME, "crun")
        return runtime if runtime in ("crun", "runc") else "crun"

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
            del each["neighbours"]  # they are of the moment
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

    def disk_bytes(self) -> int:
        """What the bundle takes on disk."""
        return sum(
            entry.stat(follow_symlinks=False).st_blocks * 512
            for directory, _, files in os.walk(self.path)
            for entry in os.scandir(directory)
            if entry.name in files
        )


def all_bundles() -> tuple[Bundle, ...]:
    """Every bundle on this host."""
    return tuple(Bundle(path.parent.name) for path in sorted(BUNDLES.glob("*/config.json")))
