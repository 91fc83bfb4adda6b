"""PURE. The fleet as the operator describes it: hosts, how they are reached, how names map between them, limits."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Host:
    """One host of the fleet."""

    name: str
    address: str
    port: int = 22
    user: str = "root"
    identity_file: str = ""
    """Private key; empty: what the user's SSH agent offers."""
    known_hosts: str = ""
    """File with the host's key; empty: the user's own known_hosts."""
    migration_address: str = ""
    """Address on the network that bulk data takes; empty: `address`."""
    tags: tuple[str, ...] = ()
    parallel: int = 2
    """How many migrations may leave or reach this host at the same time."""
    bandwidth_mbit: int = 0
    """What migrations may take of this host's line together; 0: no limit."""
    names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """What the fleet calls a thing -> what this host calls it, by kind: {"bridge": {"lan": "br0"}}."""

    @property
    def bulk_address(self) -> str:
        """Where other hosts send bulk data to."""
        return self.migration_address or self.address


@dataclass(frozen=True, slots=True)
class Inventory:
    """The whole fleet."""

    hosts: tuple[Host, ...] = ()

    def find(self, name: str) -> Host | None:
        """The host of that name."""
        return next((host for host in self.hosts if host.name == name), None)

    @property
    def names(self) -> str:
        """All names, for messages."""
        return ", ".join(sorted(host.name for host in self.hosts)) or "none"


def names_between(source: Host, target: Host) -> dict[str, str]:
    """How names of the source are called on the target, as `wire.messages.Vet` wants it."""
    found = {}
    for kind, names in source.names.items():
        there = target.names.get(kind, {})
        found.update({f"{kind}:{here}": there[common] for common, here in names.items() if common in there})
    return found
