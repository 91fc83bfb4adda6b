"""Programs that run in a VE or use one from outside; each is one file that needs Python's standard library only."""

import json
import subprocess
from pathlib import Path
from typing import Any

from scenarios.lab import bundles
from scenarios.lab.fleet import Lab
from scenarios.lab.hosts import Host

HERE = Path(__file__).parent


def install_tree(host: Host, ve: str, runtime: str, addresses: tuple[str, str]) -> None:
    """Make a stopped VE on a host whose payload is `tree.py`; addresses with prefix length, IPv4 and IPv6."""
    install(host, ve, runtime, addresses, "tree.py")


def install(host: Host, ve: str, runtime: str, addresses: tuple[str, str], program: str, *words: str) -> None:
    """The same with any program of this folder."""
    source = host.path(f"/run/{program}")
    source.write_bytes((HERE / program).read_bytes())
    first = ["/usr/bin/python3", "-I", "-S", "-B", f"/srv/{program}", *words]
    host.run(
        "python3",
        "-",
        ve,
        runtime,
        *addresses,
        f"/run/{program}",
        "--",
        *first,
        text=Path(bundles.__file__).read_text(),
    )
    source.unlink()


class Outsider:
    """A client in the lab's outside place, a program of this folder, that keeps its connections and tells what it saw."""

    def __init__(self, lab: Lab, program: str, address: str) -> None:
        """`address` may carry a prefix length. Raises RuntimeError when it cannot connect."""
        words = ["python3", "-I", str(HERE / program), address.split("/", maxsplit=1)[0]]
        self.process = lab.client.popen(*words, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{program} did not connect to {address}: {self.process.communicate()[1]}")

    def report(self, word: str = "report") -> dict[str, Any]:
        """What it saw since the last report."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        told: dict[str, Any] = json.loads(self.process.stdout.readline())
        return told

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()


CHECK = """
import socket, sys
with socket.create_connection((sys.argv[1], 7000), timeout=60) as connection:
    connection.sendall(b"check\\n")
    print(connection.makefile().readline())
"""


def check_tree(lab: Lab, address: str) -> dict[str, Any]:
    """The tree's own word on all it holds: {"exhibits", "broken", "count"}; asked over the network."""
    words = ["python3", "-I", "-c", CHECK, address.split("/", maxsplit=1)[0]]
    told: dict[str, Any] = json.loads(lab.client.run(*words).stdout)
    return told
