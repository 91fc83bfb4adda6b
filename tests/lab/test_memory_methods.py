"""The same move by each method for memory: a client that writes all the time to a Redis in the VE is the judge."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from migrator.wire.facts import MemoryMethod
from scenarios.lab import bundles, writer
from scenarios.lab.command import CommandLine
from scenarios.lab.fleet import Lab

pytestmark = pytest.mark.lab

REDIS = "/usr/bin/redis-server"
SERVICE = [REDIS, "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--appendonly", "no", "--dir", "/data"]
FILL_BYTES = 30 << 20
NUMBERS = {
    ("crun", MemoryMethod.TRACKED): 231,
    ("crun", MemoryMethod.CONTENT): 232,
    ("crun", MemoryMethod.DUMP): 233,
    ("runc", MemoryMethod.TRACKED): 234,
    ("runc", MemoryMethod.CONTENT): 235,
    ("runc", MemoryMethod.DUMP): 236,
}


class Shop:
    """A VE with a Redis on alpha, and the command line."""

    def __init__(self, lab: Lab, journal: Path, runtime: str, method: MemoryMethod) -> None:
        self.lab, self.ve = lab, f"shop-{method}-{runtime}"
        self.command = CommandLine(lab.inventory, journal)
        for host in lab.hosts:
            self.command.run("host", "add", host.name)
        self.address, address6 = lab.ve_addresses(NUMBERS[runtime, method])
        script = Path(bundles.__file__).read_text()
        words = ["python3", "-", self.ve, runtime, self.address, address6, REDIS, "--", *SERVICE]
        lab.host("alpha").run(*words, text=script)
        self.command.run("ve", "start", self.ve)

    def remove(self) -> None:
        """From both hosts."""
        for host in self.lab.hosts:
            host.run("rm", "-rf", f"/var/lib/migrator/records/{self.ve}.json")
            if host.path(f"/var/lib/migrator/ve/{self.ve}").exists():
                self.command.run("ve", "stop", self.ve)
                host.run("rm", "-rf", f"/var/lib/migrator/ve/{self.ve}")


@pytest.fixture(params=NUMBERS, ids="-".join)
def shop(request: pytest.FixtureRequest, lab: Lab, tmp_path: Path) -> Iterator[tuple[Shop, MemoryMethod]]:
    """The VE, and the method by which its memory is to move."""
    runtime, method = request.param
    made = Shop(lab, tmp_path / "journal.db", runtime, method)
    yield made, method
    made.remove()


def test_every_acknowledged_write_is_there(shop: tuple[Shop, MemoryMethod]) -> None:
    """By any method: no write is lost, the connection is the same; plan and report name the method, and it was the one."""
    made, method = shop
    bare = made.address.split("/")[0]
    words = [sys.executable, writer.__file__, bare, str(FILL_BYTES)]
    client = made.lab.client.popen(*words, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
        plan = json.loads(made.command.run("plan", made.ve, "beta", "--memory", method, "--json"))["plan"]
        # Not compressed, whatever the line is like: the figures below are of memory as it is.
        report: dict[str, Any] = json.loads(
            made.command.run("migrate", made.ve, "beta", "--memory", method, "--no-compress", "--json")
        )
        output, _ = client.communicate("stop\n", timeout=60)
    finally:
        client.kill()
        client.communicate()
    told = json.loads(output)
    assert (told["writes_missing"], told["same_connection"], told["error"]) == (0, True, "")
    assert told["writes_acknowledged"] > 0
    assert (plan["memory"]["method"], plan["memory"]["reason"]) == (method, "as asked")
    assert (report["memory_method"], report["notes"]) == (method, [])
    if method is MemoryMethod.DUMP:
        assert report["image_bytes"] > FILL_BYTES
    else:
        assert report["image_bytes"] < FILL_BYTES < report["memory_bytes"]
    if method is MemoryMethod.CONTENT:
        assert plan["memory"]["compare_bytes"] >= plan["memory"]["cost_bytes"] > FILL_BYTES
