"""Ten migrations among three hosts at the same time, in both directions: one journal, one agent a host, nobody disturbed."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from scenarios.lab import bundles, fleet
from scenarios.lab.command import CommandLine
from scenarios.lab.fixtures import need_root, own_name, remove_abandoned
from scenarios.lab.fleet import Lab
from scenarios.lab.topology import Topology, hosts
from scenarios.runner.stage import Client

pytestmark = pytest.mark.lab
REDIS = "/usr/bin/redis-server"
SERVICE = [REDIS, "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--appendonly", "no", "--dir", "/data"]
WAYS = (
    ("alpha", "beta"),
    ("beta", "gamma"),
    ("gamma", "alpha"),
    ("beta", "alpha"),
    ("gamma", "beta"),
    ("alpha", "gamma"),
)
MOVES = {f"ve{number}": WAYS[number % len(WAYS)] for number in range(10)}
"""VE -> where it is and where it goes."""
LIMIT_S = 240.0


@pytest.fixture
def trio_of_hosts() -> Iterator[Lab]:
    """Three hosts with their agents."""
    need_root()
    remove_abandoned()
    lab = Lab.up(Topology(own_name("t"), hosts("alpha", "beta", "gamma")))
    try:
        yield lab
    finally:
        fleet.down(lab.record.topology.name)


def deploy(lab: Lab, ve: str, number: int) -> str:
    """A Redis in a bundle where it starts from; its address."""
    address, address6 = lab.ve_addresses(100 + number)
    script, runtime = Path(bundles.__file__).read_text(), ("crun", "runc")[number % 2]
    words = [ve, runtime, address, address6, REDIS, "--", *SERVICE]
    lab.host(MOVES[ve][0]).run("python3", "-", *words, text=script)
    return address.split("/", maxsplit=1)[0]


def test_ten_among_three_hosts(trio_of_hosts: Lab) -> None:
    """Six programs at once: every VE arrives, with its client's connection and every write; no host has more than its limit."""
    lab = trio_of_hosts
    command = CommandLine(lab.inventory, lab.directory / "journal.db")
    for host in lab.hosts:
        command.run("host", "add", host.name)
    addresses = {ve: deploy(lab, ve, number) for number, ve in enumerate(MOVES)}
    for ve in MOVES:
        command.run("ve", "start", ve)
    with contextlib.ExitStack() as clients:
        visitors = {ve: Client(lab, address, "6379") for ve, address in addresses.items()}
        for each in visitors.values():
            clients.callback(each.close)
        ways: dict[tuple[str, str], list[str]] = {}
        for ve, way in MOVES.items():
            ways.setdefault(way, []).append(ve)
        under_way = [command.start("migrate", *ves, target) for (_, target), ves in ways.items()]
        ends = [(each.communicate(timeout=LIMIT_S), each.returncode) for each in under_way]
        reports = {ve: each.report() for ve, each in visitors.items()}

    assert [code for _, code in ends] == [0] * len(WAYS), ends
    assert {
        ve: (told["missing"], told["connections"], told["served"]) for ve, told in reports.items()
    } == dict.fromkeys(MOVES, (0, 1, True))
    listed = json.loads(command.run("ve", "list", "--json"))
    assert {each["ve"]: each["host"] for each in listed["ves"]} == {ve: target for ve, (_, target) in MOVES.items()}
    history = json.loads(command.run("history", "--json"))
    assert [each["phase"] for each in history] == ["done"] * 10
    assert most_at_once(history) <= 2
    assert max(each["blackout"]["blackout_ms"] for each in history) < 10_000


def most_at_once(history: list[dict[str, object]]) -> int:
    """The most migrations that any host ever had at the same time."""
    spans = [
        (float(str(each["began_unix_s"])), float(str(each["began_unix_s"])) + float(str(each["total_s"])), each)
        for each in history
    ]
    return max(
        sum(1 for began, ended, each in spans if began <= at < ended and host in (each["source"], each["target"]))
        for host in ("alpha", "beta", "gamma")
        for at, _, _ in spans
    )
