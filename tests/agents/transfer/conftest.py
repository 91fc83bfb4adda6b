"""What the tests of moving data share."""

from pathlib import Path

import pytest

from migrator.adapters import program


@pytest.fixture(scope="session")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent's program file, as a host gets it."""
    path = tmp_path_factory.mktemp("agent") / "migrator-agent.pyz"
    path.write_bytes(program.build()[1])
    return path
