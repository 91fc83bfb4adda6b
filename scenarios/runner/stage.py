"""A scenario's lab: hosts with their tools and agents, addresses, clients, and the `migrator` program with its inventory.

Rule: nothing here is special: hosts are what anyone would have, the program is the one of this checkout run as a program,
and all of it is taken away with `close`, however the scenario ended.
"""

import json
import re
import select
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scenarios.lab import fleet, record
from scenarios.lab.command import CommandLine
from scenarios.lab.fleet import Lab
from scenarios.lab.hosts import Host
from scenarios.lab.openvz import install as openvz
from scenarios.lab.topology import Topology
from scenarios.lab.vserver import install as vserver
from scenarios.lab.vserver import template
from scenarios.runner import survey
from scenarios.runner.steps import Scenario

NAME = re.compile(r"\{([a-z][a-z0-9-]*/?)\}")
REPORT_LIMIT_S = 120.0
READY_LIMIT_S = 60.0


class StageError(RuntimeError):
    """Something could not be done at all; says what."""


class Client:
    """A `visitor` in the lab's outside place."""

    def __init__(self, lab: Lab, address: str, port: str) -> None:
        words = [sys.executable, "-m", "scenarios.runner.visitor", address, port]
        self._process = lab.client.popen(*words, stdin=subprocess.PIPE, stderr=None)
        try:
            if self._line(READY_LIMIT_S) != "ready\n":
                raise StageError(f"nobody at {address} port {port} acknowledged a write within {READY_LIMIT_S:g} s")
        except BaseException:
            self.close()
            raise

    def report(self) -> dict[str, Any]:
        """What it saw since its last report. Raises StageError when it does not answer."""
        assert self._process.stdin is not None
        self._process.stdin.write("report\n")
        self._process.stdin.flush()
        line = self._line(REPORT_LIMIT_S)
        if not line:
            raise StageError(f"the client outside did not answer within {REPORT_LIMIT_S:g} s")
        told: dict[str, Any] = json.loads(line)
        return told

    def _line(self, limit_s: float) -> str:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], limit_s)
        return self._process.stdout.readline() if ready else ""

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


class Stage:
    """Everything a scenario's steps are done with."""

    def __init__(self, lab: Lab, scenario: Scenario) -> None:
        self.lab = lab
        self.clients: dict[str, Client] = {}
        self.remembered: dict[str, list[str]] = {}
        self._words = _words(lab, scenario.addresses)
        self._command = CommandLine(lab.inventory, lab.directory / "journal.db")

    @classmethod
    def up(cls, scenario: Scenario, name: str) -> "Stage":
        """A fresh lab with tools and agents on its hosts. Raises StageError; then nothing of it is left."""
        _sweep_dead()
        try:
            stage = cls(Lab.up(Topology(name, scenario.hosts)), scenario)
            for host in stage.lab.hosts:
                install(host)
                done = stage.migrator(["host", "add", host.name], 120)
                if done.returncode:
                    raise StageError(f"migrator host add {host.name} ended with {done.returncode}: {done.stderr}")
        except BaseException:
            fleet.down(name)
            raise
        return stage

    def close(self, *, keep: bool = False) -> None:
        """End the clients, and take the lab away unless it is to be kept."""
        for client in self.clients.values():
            client.close()
        if not keep:
            self.lab.down()

    def filled(self, text: str) -> str:
        """The text with addresses for `{name}`, with their prefix length for `{name/}`; other braces stay."""
        return NAME.sub(lambda found: self._words.get(found[1], found[0]), text)

    def host(self, name: str) -> Host:
        """A host of the lab."""
        return self.lab.host(name)

    def typed(self, host: str, line: str, limit_s: float) -> "subprocess.CompletedProcess[str]":
        """A line at the prompt of the host's root shell. Raises TimeoutExpired."""
        return self.host(host).run("bash", "-c", line, check=False, limit_s=limit_s)

    def migrator(self, words: list[str], limit_s: float) -> "subprocess.CompletedProcess[str]":
        """The program, run to its end. Raises TimeoutExpired."""
        return self._command.attempt(*words, limit_s=limit_s)

    def survey(self, host: str) -> list[str]:
        """What is on a host now."""
        said = self.host(host).run("python3", "-", text=Path(survey.__file__).read_text()).stdout
        lines: list[str] = json.loads(said)
        return lines

    def reaches(self, address: str, port: str) -> bool:
        """Whether somebody outside can connect."""
        words = ["python3", "-c", "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 1)"]
        return self.lab.client.run(*words, address, port, check=False).returncode == 0


def install(host: Host) -> None:
    """The tools that a host's roles name."""
    for role in host.record.spec.roles:
        if role == "vserver":
            vserver.install(host)
            for each in (template.SMALL, template.SERVER):
                template.make(host, each)
        else:
            openvz.install(host, ordinary_kernel=role == "openvz-ordinary")


def _words(lab: Lab, addresses: Mapping[str, int]) -> dict[str, str]:
    """What stands for each `{name}`."""
    found = {"client": lab.client.address, "client6": lab.client.address6}
    for host in lab.hosts:
        found |= {host.name: host.address, f"{host.name}6": host.address6}
    for name, number in addresses.items():
        for word, address in zip((name, f"{name}6"), lab.ve_addresses(number), strict=True):
            found |= {f"{word}/": address, word: address.split("/")[0]}
    return found


def _sweep_dead() -> None:
    """Take down what runs that were killed have left: their labs are named after their processes."""
    for name in record.names():
        owner = re.fullmatch(r"s(\d+)", name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            fleet.down(name)
