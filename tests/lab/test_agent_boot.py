"""An agent's life with its host: it comes up with it, starts what starts with it, and again when it ends."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agents import supervise
from scenarios.lab import bundles
from scenarios.lab.command import CommandLine
from scenarios.lab.fleet import Lab
from scenarios.lab.hosts import Host

pytestmark = pytest.mark.lab
SLEEP = "/usr/bin/sleep"
LIMIT_S = 30.0


def migrator(lab: Lab, *words: str) -> str:
    """Run the program against the lab; its standard output."""
    return CommandLine(lab.inventory, lab.directory / "journal.db").run(*words)


def make(host: Host, lab: Lab, ve: str, number: int) -> None:
    """A VE that sleeps."""
    script = Path(bundles.__file__).read_text()
    host.run("python3", "-", ve, "crun", *lab.ve_addresses(number), SLEEP, "--", SLEEP, "100000", text=script)


def state(lab: Lab, ve: str) -> str:
    """What its host says of it."""
    return str(json.loads(migrator(lab, "ve", "show", ve, "--json"))[0]["state"])


def until(good: Callable[[], bool]) -> None:
    """Wait for something that has no event to wait for."""
    deadline = time.monotonic() + LIMIT_S
    while not good():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def answers(lab: Lab, host: str) -> bool:
    """Whether the host's agent answers."""
    return json.loads(migrator(lab, "host", "list", "--json"))[0]["answers"] is True and bool(host)


def test_agent_and_ves_come_up_with_their_host(lab: Lab) -> None:
    """After a power cut the agent is there again, has started the VE that starts with its host, and no other."""
    host = lab.host("alpha")
    for name in ("alpha", "beta"):
        migrator(lab, "host", "add", name)
    make(host, lab, "boots", 201)
    make(host, lab, "rests", 202)
    host.run("touch", "/var/lib/migrator/ve/boots/autostart")

    host.crash()
    host.boot()
    until(lambda: answers(lab, "alpha"))
    until(lambda: state(lab, "boots") == "running")

    assert state(lab, "rests") == "stopped"
    for ve in ("boots", "rests"):
        migrator(lab, "ve", "stop", ve, "--on", "alpha")
        host.run("rm", "-r", f"/var/lib/migrator/ve/{ve}")


def test_agent_comes_back_when_it_ends(lab: Lab) -> None:
    """An agent that is killed is started again by its supervisor, and nothing that runs is touched."""
    host = lab.host("alpha")
    migrator(lab, "host", "add", "alpha")
    find = "ss -xlpH src /run/migrator/agent.sock | sed 's/.*pid=//; s/,.*//'"
    before = host.run("sh", "-c", find).stdout.strip()

    host.run("kill", "-9", before)
    until(lambda: host.run("sh", "-c", find).stdout.strip() not in ("", before))

    assert answers(lab, "alpha")


def test_agent_is_replaced_in_order(lab: Lab) -> None:
    """A supervisor that is told to end takes its agent with it at once: nobody has to kill it, and one agent is left."""
    host = lab.host("alpha")
    migrator(lab, "host", "add", "alpha")

    began_s = time.monotonic()
    host.run("python3", "-I", "/var/lib/migrator/agent/current", "stop")

    assert time.monotonic() - began_s < supervise.END_LIMIT_S / 2
    assert "serve" not in host.run("ps", "-eo", "args").stdout
    migrator(lab, "host", "add", "alpha")
    assert answers(lab, "alpha")
