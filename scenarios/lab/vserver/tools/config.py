"""The configuration directory as the emulated tools read it, file by file, whenever they need a value."""

import ipaddress
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CONFIGS = Path("/etc/vservers")
DEFAULTS = CONFIGS / ".defaults"
ROOTS = Path("/vservers")
RUN = Path("/var/run/vservers")
CACHE = Path("/var/cache/vservers")
VSHELPER_STATE = Path("/var/run/vshelper")
LOCKS = Path("/var/lock")
VSHELPER = "/usr/lib/util-vserver/vshelper"
IGNORED = re.compile(r".*(\.rpmsave|\.rpmnew|\.rpmorig|\.cfsaved.*|\.~.*~|~)$")


class ConfigError(Exception):
    """The configuration cannot be used; the message is what the tools print."""


@dataclass(frozen=True)
class Interface:
    """One entry below `interfaces`."""

    ip: str
    prefix: int
    device: str
    label: str
    nodev: bool
    broadcast: str
    up: bool
    vlan: bool

    def words(self) -> list[str]:
        """Arguments of `ip addr add` and `del`."""
        version4 = ":" not in self.ip
        label = ["label", f"{self.device}:{self.label}"] if self.label else []
        return [
            f"{self.ip}/{self.prefix}",
            *(["broadcast", self.broadcast or "+"] if version4 else []),
            *label,
            "dev",
            self.device,
        ]


class Config:
    """One guest's directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.name = directory.name

    def __str__(self) -> str:
        return str(self.directory)

    def value(self, path: str, default: str = "") -> str:
        """First line of a file; a missing final newline is complained of, as the tools do."""
        try:
            text = (self.directory / path).read_text(errors="surrogateescape")
        except (FileNotFoundError, NotADirectoryError):
            return default
        if text and not text.endswith("\n"):
            print(f"{self.directory / path} does not end on newline", file=sys.stderr)
        return (text.splitlines() or [""])[0].strip()

    def has(self, path: str) -> bool:
        """Whether the file is there."""
        return os.path.lexists(self.directory / path)

    def words(self, path: str) -> list[str]:
        """Names in a list file."""
        try:
            lines = (self.directory / path).read_text().splitlines()
        except FileNotFoundError:
            return []
        return [line.strip() for line in lines if line.strip() and not line.startswith("#")]

    @property
    def xid(self) -> int | None:
        """Static context id."""
        text = self.value("context")
        return int(text) if text.isdigit() else None

    @property
    def root(self) -> Path:
        """Root directory."""
        return self.directory / "vdir"

    @property
    def run_file(self) -> Path:
        """Where the running context's id is kept."""
        return self.directory / "run"

    @property
    def style(self) -> str:
        """Of its init."""
        return self.value("apps/init/style", "sysv")

    @property
    def sync_timeout_s(self) -> float:
        """How long stop waits before it kills."""
        local = self.value("apps/vshelper/sync-timeout") or Config(DEFAULTS).value("apps/vshelper/sync-timeout")
        return float(local or 30)

    @property
    def own_namespace(self) -> bool:
        """Whether it has a mount namespace of its own."""
        return self.has("namespace") or not (self.has("nonamespace") or (DEFAULTS / "nonamespace").exists())

    def entries(self, directory: str) -> Iterator[str]:
        """Numbered entries of a directory, in order."""
        found = [path.name for path in (self.directory / directory).glob("*") if path.is_dir()]
        return iter(sorted(found, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name)))

    def interfaces(self) -> list[Interface]:
        """Every entry that is not disabled. Raises ConfigError."""
        return [
            self._interface(f"interfaces/{entry}")
            for entry in self.entries("interfaces")
            if not self.has(f"interfaces/{entry}/disabled")
        ]

    def _interface(self, base: str) -> Interface:
        def either(word: str) -> str:
            return self.value(f"{base}/{word}") or self.value(f"interfaces/{word}")

        ip, _, suffix = self.value(f"{base}/ip").partition("/")
        if not ip:
            raise ConfigError(f"No interface-address configured in {self.directory}/{base}")
        nodev = self.has(f"{base}/nodev") or self.has(f"{base}/only_ip") or self.has("interfaces/nodev")
        device = either("dev")
        if not device and not nodev:
            raise ConfigError(f"No device specified for interface '{base.rpartition('/')[2]}'; this is an error")
        text = suffix or either("prefix") or either("mask") or ("32" if ":" not in ip else "128")
        prefix = int(text) if text.isdigit() else ipaddress.ip_network(f"0.0.0.0/{text}").prefixlen
        vlan = self.has(f"{base}/vlandev") or self.has("interfaces/vlandev")
        return Interface(
            ip, prefix, device, self.value(f"{base}/name"), nodev, either("bcast"), not self.has(f"{base}/down"), vlan
        )


def guests() -> list[Config]:
    """Every guest that is enumerated."""
    found = sorted(path for path in CONFIGS.glob("*") if path.is_dir() and not path.name.startswith("."))
    return [Config(path) for path in found if not IGNORED.match(path.name) and not (path / "disabled").exists()]


def canonical(directory: str) -> str:
    """Name of the start-up lock of a configuration directory."""
    return re.sub(r"[^A-Za-z0-9]", "", directory)
