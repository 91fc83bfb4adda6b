"""Tests in this folder run on hosts that are virtual machines, with a kernel other than this machine's: `make test-vm`."""

import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrator.adapters import program
from scenarios.lab.fixtures import given_lab, need_root, own_name, remove_abandoned
from scenarios.lab.fleet import Lab
from scenarios.lab.topology import HostSpec, Topology
from tests.agents.transfer.memory.memory_ve import compiled

CHECKOUT = Path(__file__).parents[2]
PACKAGES = ("python3-pytest",)
"""The same on both, so that one root is made."""
MEMORY_MB = 3072


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two virtual machines, alpha and beta, for the whole run; in the /srv of both this checkout, the agent's program file
    with all that it imports, and C programs."""
    need_root()
    remove_abandoned()
    wanted = tuple(HostSpec(name, packages=PACKAGES, memory_mb=MEMORY_MB) for name in ("alpha", "beta"))
    made = given_lab(Topology(own_name("v"), wanted, flavour="vm"))
    packed = _packed(compiled("churn", tmp_path_factory.mktemp("churn")))
    for host in made.hosts:
        subprocess.run(host.argv(["tar", "-xz", "-C", "/srv"]), input=packed, check=True)
    yield made
    made.down()


def _packed(churn: Path) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for part in ("agents", "migrator", "scenarios", "tests"):
            archive.add(CHECKOUT / part, part, filter=lambda each: None if "__pycache__" in each.name else each)
        archive.add(churn, "programs/churn")
        content = program.build()[1]
        entry = tarfile.TarInfo("agent.pyz")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return made.getvalue()
