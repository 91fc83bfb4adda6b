"""What the memory tests share: a cgroup for a VE of their own, and programs that change their memory all the time.

Rule: everything a test starts is in its cgroup, and ends with it.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from scenarios.lab import groups
from scenarios.lab.fixtures import need_root, own_name
from tests.agents.transfer.memory.memory_ve import Ve, compiled


@pytest.fixture
def ve() -> Iterator[Ve]:
    """A VE without processes."""
    need_root()
    name = own_name("p")
    groups.clear(name)
    (group,) = groups.make(name, "ve")
    made = Ve(group)
    yield made
    made.end()


@pytest.fixture(scope="session")
def churn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See churn.c."""
    return compiled("churn", tmp_path_factory.mktemp("churn"))
