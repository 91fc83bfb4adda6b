"""The acts at a target: what was held is let run, or given back, and never started without its memory."""

import hashlib
import shutil
from pathlib import Path

import pytest

from agents import places
from agents.engines.fake import FakeEngine, Power
from agents.engines.port import Coming
from agents.handover.vocabulary import Act
from agents.works import VeWorks
from migrator.wire.facts import Claim, Mode, Record, VeState
from migrator.wire.faults import FaultError
from migrator.wire.messages import PeerRestore

VE, MIGRATION = "web", "m1"
RECORD = Record(VE, Claim.OWNER, 3, MIGRATION, mode=Mode.LIVE, rest=VeState.RUNNING)


@pytest.fixture
async def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[VeWorks, Power]:
    """A VE that came live and is held; and what has its processes."""
    monkeypatch.setattr(places, "RUN", tmp_path / "run")
    source, power = FakeEngine(tmp_path / "source", Power()), Power()
    source.create(VE)
    await source.start(VE)
    facts = await source.inspect(VE)
    assert facts is not None
    images = places.images(MIGRATION)
    await source.freeze(VE)
    await source.dump(VE, images)
    target = FakeEngine(tmp_path / "target", power)
    there = {tree.name: tree.path for tree in await target.accept(Coming(facts, VE, Mode.LIVE))}
    for tree in source.trees(VE):
        shutil.copytree(tree.path, there[tree.name], dirs_exist_ok=True)
    works = VeWorks(VE, target)
    manifest = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in images.iterdir()}
    works.expect(PeerRestore(MIGRATION, 2, VE, manifest))
    await works.act(Act.HOLD, RECORD)
    return works, power


async def test_what_was_held_goes_on(held: tuple[VeWorks, Power]) -> None:
    """It runs, and is the VE that was frozen."""
    works, power = held

    await works.act(Act.RUN, RECORD)

    assert not power.lives[VE].frozen


async def test_what_ended_while_it_was_held_is_not_started(held: tuple[VeWorks, Power]) -> None:
    """Its source has it yet, memory and all: that it cannot be run is said. Who asks again after that means it."""
    works, power = held
    power.let(VE, None)

    with pytest.raises(FaultError, match="ended while it was held"):
        await works.act(Act.RUN, RECORD)

    assert VE not in power.lives
    await works.act(Act.RUN, RECORD)
    assert VE in power.lives
