"""The oci engine keeps the contract, under crun and under runc, inside a lab host."""

from collections.abc import AsyncIterator, Iterator

import pytest

from migrator.wire.facts import VeState
from scenarios.lab.fleet import Lab
from tests.agents.engines.contract import EngineContract, arrived, moving, still
from tests.agents.engines.oci_harness import OciHarness, engine_on
from tests.agents.engines.remote import RemoteEngine

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def engine(engine_lab: Lab) -> Iterator[RemoteEngine]:
    """The engine on host alpha."""
    with engine_on(engine_lab.host("alpha")) as engine:
        yield engine


@pytest.fixture(params=["crun", "runc"])
async def harness(request: pytest.FixtureRequest, engine_lab: Lab, engine: RemoteEngine) -> AsyncIterator[OciHarness]:
    """A VE of each runtime."""
    made = OciHarness(engine_lab, engine_lab.host("alpha"), engine, request.param)
    yield made
    await made.clean()


class TestOci(EngineContract):
    """The contract."""

    async def test_mounts_of_a_killed_restore(self, harness: OciHarness) -> None:
        """A killed restore leaves the VE's root mounted in its runtime's state: no file of it is removed through that."""
        await harness.make()
        root = f"/var/lib/migrator/ve/{harness.ve}/rootfs"
        left = f"/run/{harness.runtime}/{harness.ve}/criu-root"
        before = harness.host.run("find", root, "-xdev").stdout
        harness.host.run("mkdir", "-p", left)
        harness.host.run("mount", "--bind", root, left)

        await harness.engine.stop(harness.ve)

        assert harness.host.run("find", root, "-xdev").stdout == before
        assert not harness.host.path(left).exists()
        await harness.engine.start(harness.ve)
        await moving(harness)

    async def test_restore_started_ahead_for_nothing(self, harness: OciHarness) -> None:
        """What waits for images that never come is no process of the VE, and goes with all that was made for it."""
        await arrived(harness)
        await harness.apart.hold_ahead(harness.ve, harness.scratch / "images")
        await harness.apart.hold_soon(harness.ve)

        assert doors(harness) == 1
        assert await harness.engine.look(harness.ve) is VeState.STOPPED
        await harness.engine.drop(harness.ve)

        assert doors(harness) == 0
        assert await harness.remains() == []

    async def test_restore_started_ahead_of_another_kind(self, harness: OciHarness) -> None:
        """What waits to restore lazily is no use for complete images: it ends, and they are restored."""
        before = await arrived(harness)
        await harness.apart.hold_ahead(harness.ve, harness.scratch / "images")
        await harness.engine.hold(harness.ve, harness.scratch / "images")

        assert doors(harness) == 0
        assert await still(harness) == before


def doors(harness: OciHarness) -> int:
    """How many stand in CRIU's place for the VE."""
    words = harness.host.run("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
    return words.count(f"{harness.ve}/door/door.py ")
