"""A VE with one of everything in it goes there and back by `migrator migrate`, its clients connected all the time."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scenarios.lab import workloads
from scenarios.lab.command import CommandLine
from scenarios.lab.fleet import Lab
from scenarios.lab.hosts import Host

pytestmark = pytest.mark.lab

TIMES = int(os.environ.get("MIGRATOR_TEST_ROUNDTRIPS", "1"))
"""How often there and back; the long run has 10."""
EXHIBITS = 29
NUMBERS = {"crun": 241, "runc": 242}


class Fleet:
    """The lab's two hosts with agents on them, and the command line."""

    def __init__(self, lab: Lab, journal: Path) -> None:
        self.lab = lab
        self.command = CommandLine(lab.inventory, journal)


@pytest.fixture(scope="module")
def fleet(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """Agents on both hosts."""
    made = Fleet(lab, tmp_path_factory.mktemp("journal") / "journal.db")
    for host in lab.hosts:
        made.command.run("host", "add", host.name)
    return made


@pytest.fixture(params=["crun", "runc"])
def ve(request: pytest.FixtureRequest, fleet: Fleet) -> Iterator[str]:
    """A running VE on alpha, whose payload is `tree.py`."""
    runtime, alpha = request.param, fleet.lab.host("alpha")
    name = f"tree-{runtime}"
    workloads.install_tree(alpha, name, runtime, fleet.lab.ve_addresses(NUMBERS[runtime]))
    fleet.command.run("ve", "start", name)
    yield name
    for host in fleet.lab.hosts:
        host.run("rm", "-rf", f"/var/lib/migrator/records/{name}.json")
        if host.path(f"/var/lib/migrator/ve/{name}").exists():
            fleet.command.run("ve", "stop", name)
            host.run("rm", "-rf", f"/var/lib/migrator/ve/{name}")


def test_there_and_back(fleet: Fleet, ve: str) -> None:
    """Nothing of the VE is lost on any way, both clients keep their connection, and the network sees the same card."""
    lab = fleet.lab
    addresses = lab.ve_addresses(NUMBERS[ve.removeprefix("tree-")])
    clients = [workloads.Outsider(lab, "client.py", address) for address in addresses]
    sound(workloads.check_tree(lab, addresses[0]))
    mac, last = neighbour(lab, addresses[0]), 0
    try:
        for target in ["beta", "alpha"] * TIMES:
            fleet.command.run("migrate", ve, target)
            told = workloads.check_tree(lab, addresses[0])
            sound(told)
            sound(workloads.check_tree(lab, addresses[1]))
            assert told["count"] > last
            last = told["count"]
            assert neighbour(lab, addresses[0]) == mac
            for client in clients:
                seen = client.report()
                assert seen["wrong"] == []
                assert seen["answers"] > 0
            [other] = [host for host in lab.hosts if host.name != target]
            assert remains(other, ve) == []
    finally:
        for client in clients:
            client.close()


def sound(told: dict[str, Any]) -> None:
    """Everything was checked and is as it was."""
    assert told["broken"] == []
    assert told["exhibits"] == EXHIBITS


def neighbour(lab: Lab, address: str) -> str:
    """The hardware address by which the client's place knows the VE."""
    bare = address.split("/", maxsplit=1)[0]
    [entry] = json.loads(lab.client.run("ip", "-json", "neigh", "show", "to", bare).stdout)
    return str(entry["lladdr"])


def remains(host: Host, ve: str) -> list[str]:
    """What a VE that left has left."""
    found: list[str] = []
    for top in ("/run", "/var/lib/migrator/ve", "/sys/fs/cgroup/migrator", "/sys/class/net"):
        found += host.run("find", top, "-xdev", "-name", f"*{ve}*", check=False).stdout.split()
    return found
