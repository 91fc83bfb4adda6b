"""Memory by soft-dirty bits, on a kernel that has them: exact, and paying for what changed instead of for all there is."""

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
from tests.agents.transfer.memory.memory_ve import PROGRAMS

pytestmark = pytest.mark.vm

CHECKOUT = Path(__file__).parents[2]
CASES = "-k soft-dirty"
EXACTNESS = "tests/agents/transfer/memory/test_exactness.py"
REDIS = "/usr/bin/redis-server"
SERVICE = [REDIS, "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--appendonly", "no", "--dir", "/data"]
FILL_BYTES = 128 << 20
EMULATED_LIMIT_S = 600.0
DEADLINE_S = "120"
"""A dump of all that takes longer than the usual 10 s on an emulated processor."""


def test_held_is_what_the_frozen_ve_holds(machines: Lab) -> None:
    """The suite of all methods, run there: page by page, under every kind of change, what is held is what the VE holds."""
    words = f"python3 -m pytest -c /dev/null --rootdir /srv -q --import-mode=importlib -p no:cacheprovider {CASES}"
    places = f"PYTHONPATH=/srv:/srv/agent.pyz {PROGRAMS}=/srv/programs"
    script = f"cd /srv && {places} {words} {EXACTNESS} 2>&1"
    done = machines.host("alpha").run("sh", "-c", script, check=False, limit_s=EMULATED_LIMIT_S)
    assert done.returncode == 0, done.stdout
    assert f"{len(cases())} passed" in done.stdout, done.stdout


def cases() -> list[str]:
    """What the suite has for this method: none of them may be skipped there."""
    words = [sys.executable, "-m", "pytest", "--collect-only", *CASES.split(), EXACTNESS]
    said = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    return [line for line in said.splitlines() if "::" in line]


class Shop:
    """A VE with a Redis on alpha, a client that has filled it and writes, and the command line."""

    def __init__(self, lab: Lab, journal: Path) -> None:
        self._command = CommandLine(lab.inventory, journal)
        for host in lab.hosts:
            self._command.run("host", "add", host.name)
        address, address6 = lab.ve_addresses(101)
        script = Path(bundles.__file__).read_text()
        lab.host("alpha").run("python3", "-", "shop", "crun", address, address6, REDIS, "--", *SERVICE, text=script)
        self._command.run("ve", "start", "shop")
        words = [sys.executable, writer.__file__, address.split("/")[0], str(FILL_BYTES)]
        self.client = lab.client.popen(*words, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self.client.stdout is not None
        assert self.client.stdout.readline() == "ready\n"

    def move(self, target: str, method: MemoryMethod) -> dict[str, Any]:
        """One move; its report."""
        words = ["migrate", "shop", target, "--memory", method, "--deadline", DEADLINE_S, "--json"]
        told: dict[str, Any] = json.loads(self._command.run(*words))
        return told


@pytest.fixture
def shop(machines: Lab, tmp_path: Path) -> Iterator[Shop]:
    """The VE with its client."""
    made = Shop(machines, tmp_path / "journal.db")
    yield made
    made.client.kill()
    made.client.communicate()


def test_a_quarter_of_the_blackout_of_a_single_dump(shop: Shop) -> None:
    """There with soft-dirty bits, back in one dump: no write is lost, and the first blackout is a quarter of the second at most."""
    marked = shop.move("beta", MemoryMethod.SOFT_DIRTY)
    dumped = shop.move("alpha", MemoryMethod.DUMP)
    output, _ = shop.client.communicate("stop\n", timeout=EMULATED_LIMIT_S)
    told = json.loads(output)
    assert (told["writes_missing"], told["same_connection"], told["error"]) == (0, True, "")
    assert (marked["memory_method"], dumped["memory_method"]) == (MemoryMethod.SOFT_DIRTY, MemoryMethod.DUMP)
    blackouts_ms = marked["blackout"]["blackout_ms"], dumped["blackout"]["blackout_ms"]
    print(f"blackout by soft-dirty bits {blackouts_ms[0]:.0f} ms, in one dump {blackouts_ms[1]:.0f} ms")
    assert blackouts_ms[0] <= blackouts_ms[1] / 4
