"""What an oci VE has of the network beside its addresses comes with it."""

from collections.abc import AsyncIterator

import pytest

from scenarios.lab.fleet import Lab
from tests.agents.engines.contract import leave_and_arrive
from tests.agents.engines.oci_harness import OciHarness, allow, engine_on

pytestmark = pytest.mark.lab


@pytest.fixture
async def harness(engine_lab: Lab) -> AsyncIterator[OciHarness]:
    """A VE on alpha."""
    with engine_on(engine_lab.host("alpha")) as engine:
        made = OciHarness(engine_lab, engine_lab.host("alpha"), engine, "crun")
        yield made
        await made.clean()


async def test_settings_and_rules(harness: OciHarness) -> None:
    """sysctls of its namespace, general and of one interface, and its nftables rules are there before it is held."""
    await harness.make()
    allow(harness, "NET_ADMIN")
    await harness.engine.start(harness.ve)
    inside = ("nsenter", f"--net=/run/netns/{harness.ve}", "--", "sh", "-c")
    sysctls = ("ipv4/ping_group_range", "ipv4/conf/all/forwarding", "ipv4/conf/eth0/rp_filter", "core/somaxconn")
    harness.host.run(
        *inside,
        "cd /proc/sys/net; echo 0 1000 > ipv4/ping_group_range; echo 1 > ipv4/conf/all/forwarding;"
        "echo 2 > ipv4/conf/eth0/rp_filter; echo 77 > core/somaxconn;"
        "nft 'table inet own { chain input { type filter hook input priority 0; tcp dport 9 drop; }; }'",
    )
    look = (*inside, f"cd /proc/sys/net; cat {' '.join(sysctls)}; nft list ruleset")
    before = harness.host.run(*look).stdout
    assert "dport 9 drop" in before

    await leave_and_arrive(harness)
    await harness.engine.hold(harness.ve, harness.scratch / "images")

    assert harness.host.run(*look).stdout == before
