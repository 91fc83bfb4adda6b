"""What a lab notes about itself in lab.json: everything that `down` and other programs need to find it again.

Rule: a thing is noted before it is made; the file is replaced whole, so that it is never half written.
"""

import fcntl
import ipaddress
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from scenarios.lab import topology
from scenarios.lab.topology import HostSpec, Topology

STATE = Path(os.environ.get("MIGRATOR_LAB_STATE", "/var/lib/migrator-lab"))
CLIENT, MACHINE = 250, 254
"""Numbers of the client and of this machine in the lab's networks; hosts count from 1, 100 to 249 are for VEs."""


class NoLabError(LookupError):
    """There is no lab of that name, or no host of that name in it."""


@dataclass(frozen=True, slots=True)
class Line:
    """How a host's line to the switch is set."""

    rate: str = ""
    loss_percent: float = 0.0
    latency_ms: float = 0.0
    flow_mbit: float = 0.0
    """What one connection of the line gets; 0: as much as there is."""
    up: bool = True


@dataclass(frozen=True, slots=True)
class HostRecord:
    """One host as it is, or was before it crashed."""

    spec: HostSpec
    number: int
    netns: str
    address: str
    address6: str
    line: Line
    pid: int = 0
    """Its process 1 as this machine numbers it; 0: not booted."""
    started: str = ""
    keeper_pid: int = 0
    """The process outside that waits for process 1."""
    keeper_started: str = ""


@dataclass(frozen=True, slots=True)
class LabRecord:
    """One lab."""

    topology: Topology
    subnet: str
    subnet6: str
    hosts: tuple[HostRecord, ...]
    complete: bool = False
    """Whether `up` came to its end."""

    @property
    def name(self) -> str:
        """The lab's name."""
        return self.topology.name

    @property
    def switch(self) -> str:
        """Network namespace of the switch."""
        return f"{self.name}-sw"

    @property
    def client(self) -> str:
        """Network namespace of the place outside."""
        return f"{self.name}-client"

    def address(self, number: int) -> str:
        """IPv4 address of a number in the lab's network."""
        return str(ipaddress.IPv4Network(self.subnet)[number])

    def address6(self, number: int) -> str:
        """IPv6 address of a number in the lab's network."""
        return str(ipaddress.IPv6Network(self.subnet6)[number])

    @property
    def prefix(self) -> int:
        """Length of the IPv4 prefix."""
        return ipaddress.IPv4Network(self.subnet).prefixlen

    def host(self, name: str) -> HostRecord:
        """One host. Raises NoLabError."""
        for host in self.hosts:
            if host.spec.name == name:
                return host
        known = ", ".join(host.spec.name for host in self.hosts)
        raise NoLabError(f"no host {name!r} in lab {self.name!r}; it has {known}")

    def with_host(self, host: HostRecord) -> "LabRecord":
        """The same lab with one host's record replaced."""
        same = tuple(host if old.spec.name == host.spec.name else old for old in self.hosts)
        return replace(self, hosts=same)

    @classmethod
    def planned(cls, wanted: Topology, subnet: str, subnet6: str) -> Self:
        """The record of a lab that is about to be made."""
        bare = cls(wanted, subnet, subnet6, ())
        made = tuple(
            HostRecord(
                spec,
                number,
                f"{wanted.name}-{spec.name}",
                bare.address(number),
                bare.address6(number),
                Line(wanted.rate),
            )
            for number, spec in enumerate(wanted.hosts, start=1)
        )
        return cls(wanted, subnet, subnet6, made)


def directory(name: str) -> Path:
    """Where a lab keeps what it has."""
    return STATE / name


def save(lab: LabRecord) -> None:
    """Note it, whole or not at all."""
    fresh = directory(lab.name) / "lab.json.new"
    fresh.write_text(json.dumps(asdict(lab), indent=1) + "\n")
    fresh.rename(directory(lab.name) / "lab.json")


def load(name: str) -> LabRecord:
    """What a lab noted. Raises NoLabError when there is none, or none that this program understands."""
    path = directory(name) / "lab.json"
    try:
        return _from_plain(json.loads(path.read_text()))
    except FileNotFoundError:
        raise NoLabError(f"no lab {name!r} is up (there is no {path})") from None
    except (KeyError, TypeError, ValueError) as error:
        raise NoLabError(f"{path} cannot be read ({error!r}); take the lab down with: down --name {name}") from error


def names() -> list[str]:
    """Every lab that has a directory."""
    return sorted(path.name for path in STATE.iterdir() if path.is_dir()) if STATE.is_dir() else []


@contextmanager
def locked() -> Iterator[None]:
    """Hold the only right to change labs on this machine."""
    STATE.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(STATE, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _from_plain(data: dict[str, Any]) -> LabRecord:
    hosts = [
        HostRecord(**host | {"spec": topology.from_plain_host(host["spec"]), "line": Line(**host["line"])})
        for host in data.pop("hosts")
    ]
    return LabRecord(**data | {"topology": topology.from_plain(data["topology"]), "hosts": tuple(hosts)})
