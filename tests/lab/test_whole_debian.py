"""A VE that nobody prepared, a whole Debian with PostgreSQL and nginx, goes there and back with its clients connected."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from scenarios.lab import debian_ve, fleet
from scenarios.lab.command import CommandLine
from scenarios.lab.fixtures import need_root, own_name, remove_abandoned
from scenarios.lab.fleet import Lab
from scenarios.lab.topology import HostSpec, Topology
from scenarios.lab.workloads import Outsider

pytestmark = pytest.mark.lab

TIMES = int(os.environ.get("MIGRATOR_TEST_ROUNDTRIPS", "1"))
"""How often there and back; the long run has 10."""
START_LIMIT_S = 60.0
NUMBERS = {"crun": 243, "runc": 244}
HOSTS = tuple(HostSpec(name, packages=debian_ve.PACKAGES) for name in ("alpha", "beta", "gamma"))


@pytest.fixture(scope="module")
def debian_lab() -> Iterator[Lab]:
    """Two hosts that VEs move between, and one that has a client of PostgreSQL."""
    need_root()
    remove_abandoned()
    lab = Lab.up(Topology(own_name("d"), HOSTS))
    try:
        yield lab
    finally:
        fleet.down(lab.name)


@pytest.fixture(scope="module")
def command(debian_lab: Lab) -> CommandLine:
    """With agents on the two."""
    made = CommandLine(debian_lab.inventory, debian_lab.directory / "journal.db")
    for name in ("alpha", "beta"):
        made.run("host", "add", name)
    return made


class Session:
    """One session of PostgreSQL, in a transaction with a temporary table; nothing of it would outlive its connection."""

    def __init__(self, lab: Lab, address: str) -> None:
        psql = ("psql", "-h", address, "-U", "postgres", "-X", "-q", "-A", "-t")
        self._process = lab.host("gamma").popen(*psql, stdin=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.backend = self.ask("SELECT pg_backend_pid();")
        self.ask("BEGIN; CREATE TEMP TABLE kept (n int); SELECT 'begun';")
        self._rows = 0

    def ask(self, statements: str) -> str:
        """The one line that they answer with."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(statements + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def sound(self) -> None:
        """The same session, with all that was put into it."""
        self._rows += 1
        told = self.ask(f"INSERT INTO kept VALUES ({self._rows}); SELECT pg_backend_pid(), count(*), sum(n) FROM kept;")
        assert told == f"{self.backend}|{self._rows}|{self._rows * (self._rows + 1) // 2}"

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


def answers(lab: Lab, address: str) -> bool:
    """Whether both services do."""
    query = ("psql", "-h", address, "-U", "postgres", "-X", "-c", "SELECT 1")
    web = ("python3", "-c", f"import urllib.request as u; u.urlopen('http://{address}/small', timeout=5)")
    return all(not lab.host("gamma").run(*words, check=False).returncode for words in (query, web))


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_there_and_back(debian_lab: Lab, command: CommandLine, runtime: str) -> None:
    """An open transaction, a kept-alive connection and an answer half read go along; both services go on."""
    lab, ve = debian_lab, f"debian-{runtime}"
    addresses = lab.ve_addresses(NUMBERS[runtime])
    address = addresses[0].split("/", maxsplit=1)[0]
    debian_ve.install(lab.host("alpha"), ve, runtime, addresses)
    whole = lab.host("alpha").run("sha256sum", f"/var/lib/migrator/ve/{ve}/rootfs/var/www/html/big").stdout.split()[0]
    command.run("ve", "start", ve)
    deadline_s = time.monotonic() + START_LIMIT_S
    while not answers(lab, address):
        assert time.monotonic() < deadline_s, "the services did not start"
    with contextlib.ExitStack() as clients:
        session, reader = Session(lab, address), Outsider(lab, "reader.py", address)
        clients.callback(session.close)
        clients.callback(reader.close)
        session.sound()
        for target in ["beta", "alpha"] * TIMES:
            command.run("migrate", ve, target)
            session.sound()
            told = reader.report()
            assert told["wrong"] == []
            assert told["answers"] > 0
        assert told["big_bytes"] < debian_ve.BIG_BYTES, "the long answer ended before the last move"
        assert reader.report("finish")["big_sha256"] == whole
        assert session.ask("COMMIT; SELECT 'kept';") == "kept"
    assert answers(lab, address)
    command.run("ve", "stop", ve)
