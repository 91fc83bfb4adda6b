"""The engine of make-believe keeps the contract, and does what simulations need of it besides."""

import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio

from agents.engines.fake import FakeEngine, Power
from agents.engines.port import Engine
from migrator.wire.facts import Interface, VeState
from migrator.wire.faults import Fault, FaultCode, FaultError
from tests.agents.engines.contract import EngineContract

ETH0 = Interface("eth0", "02:00:00:00:00:01", "ve-web", "br0", 1500, ("10.0.0.7/24", "fd00::7/64"))


class FakeHarness:
    """A fake host: its clock ticks whenever a test looks at the count."""

    tools: Mapping[str, str] = {"start": "fake", "dump": "fake", "hold": "fake"}

    def __init__(self, directory: Path, *, live: bool) -> None:
        self.ve, self.scratch, self.power, self.failing = "web", directory / "scratch", Power(), False
        self.disk = directory / "disk"
        self.fake = FakeEngine(self.disk, self.power, live=live, mishap=self._mishap)
        self.engine: Engine = self.fake

    def _mishap(self, act: str, ve: str, half: bool) -> Fault | None:
        fault = Fault(FaultCode.TOOL_FAILED, f"{act} of {ve} failed", step=act, tool="fake")
        return fault if self.failing and half else None

    async def make(self) -> None:
        self.fake.create(self.ve, (ETH0,), autostart=True)

    async def count(self) -> int | None:
        self.power.tick()
        life = self.power.lives.get(self.ve)
        return life.count if life else None

    async def joined(self) -> bool:
        return self.power.links.get(ETH0.host_name) == "br0"

    async def starts_at_boot(self) -> bool:
        after = Power()
        FakeEngine(self.disk, after).boot()
        return self.ve in after.lives

    async def remains(self) -> Sequence[str]:
        return [*self.power.lives, *self.power.links, *(path.name for path in self.disk.glob("*"))]

    async def copy(self, source: Path, to: Path, excluded: Sequence[str] = ()) -> None:
        assert not excluded
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(source, to)

    async def spoil(self, images: Path) -> None:
        for path in images.iterdir():
            path.write_bytes(path.read_bytes()[:-1])

    def broken(self, tool: str) -> AbstractAsyncContextManager[None]:
        @asynccontextmanager
        async def lasting() -> AsyncIterator[None]:
            assert tool == "fake"
            self.failing = True
            yield
            self.failing = False

        return lasting()


@pytest.fixture(params=["live", "stop-copy"])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> FakeHarness:
    """A fresh fake host."""
    return FakeHarness(tmp_path, live=request.param == "live")


class TestFake(EngineContract):
    """The contract."""


async def test_power_cut(harness: FakeHarness) -> None:
    """A power cut takes processes and links, and leaves the files; boot starts what has autostart."""
    await harness.make()
    await harness.engine.start("web")
    host = FakeEngine(harness.disk, Power())

    assert await host.look("web") is VeState.STOPPED
    host.boot()
    assert await host.look("web") is VeState.RUNNING


async def test_acts_take_their_time(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """An act lasts as long as it is told on trio's clock, and can be cancelled meanwhile."""
    engine = FakeEngine(tmp_path, Power(), pace_s=lambda act: 7.0 if act == "start" else 0.0)
    engine.create("web")
    before = trio.current_time()
    await engine.start("web")
    assert trio.current_time() - before == 7.0

    await engine.stop("web")
    with trio.move_on_after(3.0):
        await engine.start("web")
    assert await engine.look("web") is VeState.STOPPED


async def test_changes_are_told(tmp_path: Path) -> None:
    """Whoever looks for two running copies is told of every change of a VE's processes."""
    told: list[tuple[str, VeState]] = []
    power = Power()
    engine = FakeEngine(tmp_path, power)
    power.on_change = lambda ve: told.append((ve, engine.state(ve)))
    engine.create("web")
    await engine.start("web")
    await engine.freeze("web")
    await engine.thaw("web")
    await engine.stop("web")

    assert [state for _, state in told] == [VeState.RUNNING, VeState.FROZEN, VeState.RUNNING, VeState.STOPPED]


async def test_mishap_at_the_beginning(tmp_path: Path) -> None:
    """A fault at the beginning of an act leaves everything as it was."""
    fault = Fault(FaultCode.TOOL_FAILED, "no", tool="fake")
    engine = FakeEngine(tmp_path, Power(), mishap=lambda act, ve, half: fault if act == "stop" else None)
    engine.create("web")
    await engine.start("web")
    with pytest.raises(FaultError):
        await engine.stop("web")

    assert await engine.look("web") is VeState.RUNNING
