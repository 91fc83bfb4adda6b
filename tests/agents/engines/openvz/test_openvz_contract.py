"""The `openvz` engine keeps the contract of engines, on a lab host, over vzctl on an OpenVZ kernel (emulated)."""

from collections.abc import AsyncIterator

import pytest

from scenarios.lab.hosts import Host
from scenarios.lab.openvz import fixtures
from tests.agents.engines.contract import EngineContract
from tests.agents.engines.openvz.harness import OpenVzHarness
from tests.lab.remote_engine import remote

pytestmark = pytest.mark.lab
openvz_lab = fixtures.openvz_lab
alpha = fixtures.alpha


class TestOpenVz(EngineContract):
    """Every promise."""

    @pytest.fixture
    async def harness(self, alpha: Host) -> AsyncIterator[OpenVzHarness]:
        """One VE on the first host."""
        async with remote(alpha, "agents.engines.openvz.engine", "OpenVzEngine") as engine:
            yield OpenVzHarness(alpha, engine)
