"""What tests need of the lab: one two-host lab for the whole run, brought up when the first test asks for it.

Rule: a run that was killed leaves a lab named after a dead process; the next run takes it away. A lab named by the
variable MIGRATOR_TEST_LAB is used as it is when it is up, and left up.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from scenarios.lab import fleet, record
from scenarios.lab.fleet import Lab
from scenarios.lab.record import NoLabError
from scenarios.lab.topology import Topology


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A lab of two hosts, alpha and beta, shared by the run's tests; each test leaves it as it found it."""
    need_root()
    if given := os.environ.get("MIGRATOR_TEST_LAB"):
        yield given_lab(Topology(given))
        return
    remove_abandoned()
    made = Lab.up(Topology(own_name("t")))
    yield made
    made.down()


def need_root() -> None:
    """Skip when this user cannot make a lab."""
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")


def own_name(letter: str) -> str:
    """A lab name of this process; `letter` tells several of one process apart."""
    return f"{letter}{os.getpid()}"


def remove_abandoned() -> None:
    """Take down labs of test runs whose process is gone."""
    for name in record.names():
        owner = re.fullmatch(r"[a-z](\d+)", name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            fleet.down(name)


def given_lab(wanted: Topology) -> Lab:
    """The lab somebody has named, brought up if it is not."""
    try:
        lab = Lab.load(wanted.name)
    except NoLabError:
        return Lab.up(wanted)
    return lab if lab.whole(wanted) else Lab.up(wanted)
