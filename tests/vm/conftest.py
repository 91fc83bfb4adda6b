"""Tests in this folder run on hosts that are virtual machines, with a kernel other than this machine's: `make test-vm`."""

from collections.abc import Iterator

import pytest

from scenarios.lab.fixtures import given_lab, need_root, own_name, remove_abandoned
from scenarios.lab.fleet import Lab
from scenarios.lab.topology import HostSpec, Topology


@pytest.fixture(scope="session")
def machines() -> Iterator[Lab]:
    """Two virtual machines, alpha and beta, for the whole run; pytest is on alpha."""
    need_root()
    remove_abandoned()
    wanted = (HostSpec("alpha", packages=PACKAGES, memory_mb=3072), HostSpec("beta", packages=PACKAGES, memory_mb=3072))
    made = given_lab(Topology(own_name("v"), wanted, flavour="vm"))
    yield made
    made.down()


PACKAGES = ("python3-pytest",)
"""The same on both, so that one root is made."""
