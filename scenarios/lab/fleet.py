"""A whole lab: brought up, found again, taken down.

Rule: `up` begins by removing whatever an earlier one of the name left, however that one ended; `down` leaves nothing.
"""

from dataclasses import replace
from pathlib import Path
from typing import Self

from scenarios.lab import access, groups, hosts, record, root, switch, topology
from scenarios.lab.hosts import Host
from scenarios.lab.programs import Outside
from scenarios.lab.record import CLIENT, LabRecord, NoLabError
from scenarios.lab.topology import Topology
from scenarios.lab.vm import KERNEL_PACKAGES, VmHost


class Lab:
    """A lab that is up. Made by `up` or `load`."""

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def up(cls, wanted: Topology | None = None) -> Self:
        """Bring a fresh lab up; an earlier one of its name goes, with its disks."""
        wanted = wanted or Topology()
        for spec in wanted.hosts:
            root.ensure((*spec.packages, *(KERNEL_PACKAGES if wanted.flavour == "vm" else ())))
        with record.locked():
            _sweep(wanted.name)
            _make(wanted)
        return cls(wanted.name)

    @classmethod
    def load(cls, name: str = "lab") -> Self:
        """A lab that is up already. Raises NoLabError."""
        record.load(name)
        return cls(name)

    def down(self) -> None:
        """Take everything of the lab away. May be called again."""
        down(self.name)

    @property
    def record(self) -> LabRecord:
        """What the lab has noted about itself."""
        return record.load(self.name)

    @property
    def hosts(self) -> list[Host]:
        """All hosts, in the topology's order."""
        return [_host(self.record, host.spec.name) for host in self.record.hosts]

    def host(self, name: str) -> Host:
        """The named host. Raises NoLabError."""
        return _host(self.record, self.record.host(name).spec.name)

    @property
    def client(self) -> Outside:
        """The place outside from which clients run."""
        lab = self.record
        (group,) = groups.make(self.name, "client")
        return Outside(lab.client, group, lab.address(CLIENT), lab.address6(CLIENT))

    def ve_addresses(self, number: int) -> tuple[str, str]:
        """IPv4 and IPv6 address with prefix length for a VE; numbers 100 to 249 are free."""
        lab = self.record
        return f"{lab.address(number)}/{lab.prefix}", f"{lab.address6(number)}/64"

    @property
    def directory(self) -> Path:
        """Where the lab keeps what it has."""
        return record.directory(self.name)

    @property
    def inventory(self) -> Path:
        """The inventory file for migrator."""
        return self.directory / "inventory.toml"

    @property
    def ssh_config(self) -> Path:
        """For `ssh -F`."""
        return self.directory / "ssh_config"

    def whole(self, wanted: Topology) -> bool:
        """Whether it is completely up, as `wanted`."""
        lab = self.record
        return lab.complete and lab.topology == wanted and all(host.alive for host in self.hosts)


def _host(lab: LabRecord, name: str) -> Host:
    return VmHost(lab.name, name) if lab.topology.flavour == "vm" else Host(lab.name, name)


def down(name: str) -> bool:
    """Take a lab away by its name, whatever is left of it. Returns whether there was anything noted of it."""
    topology.Topology(name)
    noted = record.directory(name).exists()
    with record.locked():
        _sweep(name)
    return noted


def _make(wanted: Topology) -> None:
    record.directory(wanted.name).mkdir(mode=0o700)
    lab = LabRecord.planned(wanted, *topology.subnets(wanted, switch.taken_networks()))
    record.save(lab)
    access.make_user_key(lab)
    for host in lab.hosts:
        access.write_seed(lab, host)
    access.write_files(lab)
    switch.build(lab)
    for host in lab.hosts:
        _host(lab, host.spec.name).boot_locked()
    record.save(replace(record.load(lab.name), complete=True))


def _sweep(name: str) -> None:
    """Processes first, then the network they used, then their disks."""
    try:
        for host in record.load(name).hosts:
            groups.kill(host.pid, host.started)
            groups.kill(host.keeper_pid, host.keeper_started)
    except NoLabError:
        pass  # killed before it noted anything, or noted by another version: the groups have all there is
    groups.clear(name)
    switch.sweep(name)
    hosts.forget_disk(name)
