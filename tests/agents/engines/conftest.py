"""Lab hosts for engines under test."""

from collections.abc import Iterator

import pytest

from scenarios.lab.fixtures import need_root, own_name, remove_abandoned
from scenarios.lab.fleet import Lab
from scenarios.lab.topology import Topology


@pytest.fixture(scope="session")
def engine_lab() -> Iterator[Lab]:
    """A lab of two hosts, alpha and beta, for tests of engines."""
    need_root()
    remove_abandoned()
    made = Lab.up(Topology(own_name("e")))
    yield made
    made.down()
