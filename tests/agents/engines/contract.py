"""What every engine promises, as one suite: a new engine passes it by giving a Harness.

A test module for an engine has a class that inherits `EngineContract` and a fixture `harness`:

    class TestMine(EngineContract):
        @pytest.fixture
        async def harness(self): yield MyHarness(...)

Rule: nothing is believed that the engine says of itself where the harness can see it from outside. Each test's
docstring is one promise of `agents.engines.port`.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest
import trio

from agents.engines.port import Coming, Engine, Tree
from migrator.wire.facts import Mode, VeFacts, VeState
from migrator.wire.faults import FaultCode, FaultError


class Harness(Protocol):
    """One engine on one host, and what a test has to do and see there without asking the engine."""

    engine: Engine
    ve: str
    """Id of the VE that this test may use; nothing of that id is on the host before the test, nor after it."""
    scratch: Path
    """A directory on the host for this test's files: images, copies of trees."""
    tools: Mapping[str, str]
    """Act -> a program without which that act cannot succeed. An act that is not named needs none."""

    async def make(self) -> None:
        """Make the VE, stopped, with autostart and an address; when it runs it counts in its memory, many times a second."""
        ...

    async def count(self) -> int | None:
        """The count in the memory of the VE's processes, read from outside; None: there is no process."""
        ...

    async def joined(self) -> bool:
        """Whether the network can reach the VE."""
        ...

    async def starts_at_boot(self) -> bool:
        """Whether the host's own scripts would start it when the host boots."""
        ...

    async def remains(self) -> Sequence[str]:
        """What there is of the VE on the host: processes, mounts, links, namespaces, cgroups, files; in words."""
        ...

    async def copy(self, source: Path, to: Path, excluded: Sequence[str] = ()) -> None:
        """On the host: make directory `to` like `source`, as rsync --archive --delete would; what is excluded stays as it is."""
        ...

    async def spoil(self, images: Path) -> None:
        """Cut the images short, as a transfer that broke off would."""
        ...

    def broken(self, tool: str) -> AbstractAsyncContextManager[None]:
        """As long as it lasts, `tool` ends with an error whenever the engine runs it."""
        ...


class EngineContract:
    """The promises. Tests that need a live engine are skipped where `live` is false."""

    # --- seeing and power -----------------------------------------------------------------------

    async def test_absent(self, harness: Harness) -> None:
        """A VE that is not here is absent, has no facts and is not discovered."""
        assert await harness.engine.look(harness.ve) is VeState.ABSENT
        assert await harness.engine.inspect(harness.ve) is None
        assert harness.ve not in [facts.ve for facts in await harness.engine.discover()]

    async def test_facts(self, harness: Harness) -> None:
        """Facts of a stopped and of a running VE are what is so: state, processes, memory, files, address, autostart."""
        await harness.make()
        stopped = await facts(harness)
        await harness.engine.start(harness.ve)
        running = await facts(harness)

        assert (stopped.state, stopped.processes, stopped.memory_bytes) == (VeState.STOPPED, 0, 0)
        assert (running.state, running.engine, running.ve) == (VeState.RUNNING, harness.engine.name, harness.ve)
        assert running.processes >= 1
        assert running.memory_bytes > 0
        assert stopped.disk_bytes > 0
        assert stopped.autostart
        assert stopped.addresses == running.addresses != ()
        assert running.live == harness.engine.live
        assert replace(running, memory_bytes=0, disk_bytes=0, processes=0) in [
            replace(each, memory_bytes=0, disk_bytes=0, processes=0) for each in await harness.engine.discover()
        ]

    async def test_start_twice(self, harness: Harness) -> None:
        """A VE that was started runs and is on the network; starting it again changes nothing."""
        await running(harness)
        before = await moving(harness)
        await harness.engine.start(harness.ve)

        assert await harness.engine.look(harness.ve) is VeState.RUNNING
        assert await moving(harness) > before
        assert await harness.joined()

    async def test_start_of_nothing(self, harness: Harness) -> None:
        """Starting a VE that is not here is refused and leaves nothing."""
        with pytest.raises(FaultError):
            await harness.engine.start(harness.ve)

        assert await harness.remains() == []

    async def test_start_that_fails(self, harness: Harness) -> None:
        """A start that fails says which tool it was, leaves no process, and can be tried again."""
        await harness.make()
        await fails(harness, "start", harness.engine.start(harness.ve))

        assert await harness.engine.look(harness.ve) is VeState.STOPPED
        assert await harness.count() is None
        assert not await harness.joined()
        await harness.engine.start(harness.ve)
        await moving(harness)

    async def test_stop_twice(self, harness: Harness) -> None:
        """A stopped VE has no process; stopping it again changes nothing, and it can be started again."""
        await running(harness)
        for _ in range(2):
            await harness.engine.stop(harness.ve)
            assert await harness.engine.look(harness.ve) is VeState.STOPPED
            assert await harness.count() is None
        await harness.engine.start(harness.ve)
        await moving(harness)

    async def test_start_given_up(self, harness: Harness) -> None:
        """A start that is cancelled at any moment leaves what a stop cleans."""
        await harness.make()
        for after_s in (0.0, 0.005, 0.02, 0.05):
            with trio.move_on_after(after_s):
                await harness.engine.start(harness.ve)
            await harness.engine.stop(harness.ve)
            assert await harness.count() is None
        await harness.engine.start(harness.ve)
        await moving(harness)

    # --- source ---------------------------------------------------------------------------------

    async def test_fence(self, harness: Harness) -> None:
        """A fenced VE is not started by its host's boot, a running one goes on; unfenced it is as before."""
        await running(harness)
        assert await harness.starts_at_boot()
        for _ in range(2):
            await harness.engine.fence(harness.ve)
            assert not await harness.starts_at_boot()
        await moving(harness)
        for _ in range(2):
            await harness.engine.unfence(harness.ve)
            assert await harness.starts_at_boot()
        await moving(harness)

    async def test_freeze_and_thaw(self, harness: Harness) -> None:
        """Frozen: no process runs and the network reaches none; thawed: all goes on. Each twice does nothing more."""
        need_live(harness)
        await running(harness)
        for _ in range(2):
            await harness.engine.freeze(harness.ve)
            await still(harness)
            assert not await harness.joined()
        before = await harness.count()
        for _ in range(2):
            await harness.engine.thaw(harness.ve)
            assert await harness.engine.look(harness.ve) is VeState.RUNNING
            assert await harness.joined()
        assert await moving(harness) >= (before or 0)

    async def test_freeze_of_nothing(self, harness: Harness) -> None:
        """A VE without a process cannot be frozen, and stays stopped."""
        need_live(harness)
        await harness.make()
        with pytest.raises(FaultError):
            await harness.engine.freeze(harness.ve)

        assert await harness.engine.look(harness.ve) is VeState.STOPPED

    async def test_dump_twice(self, harness: Harness) -> None:
        """A dumped VE is still frozen, may be dumped again, and goes on where it was when it is thawed."""
        need_live(harness)
        before = await frozen(harness)
        for _ in range(2):
            dump = await harness.engine.dump(harness.ve, harness.scratch / "images")
            assert dump.bytes > 0
            assert await still(harness) == before
        await harness.engine.thaw(harness.ve)

        assert await moving(harness) >= before

    async def test_dump_that_fails(self, harness: Harness) -> None:
        """A dump that fails names its tool; the VE is still frozen and can be thawed."""
        need_live(harness)
        before = await frozen(harness)
        await fails(harness, "dump", harness.engine.dump(harness.ve, harness.scratch / "images"))

        assert await still(harness) == before
        await harness.engine.thaw(harness.ve)
        assert await moving(harness) >= before

    async def test_dump_given_up(self, harness: Harness) -> None:
        """A dump that is cancelled at any moment is mended by thaw: the VE goes on, and can be frozen and dumped again."""
        need_live(harness)
        await running(harness)
        for after_s in (0.0, 0.003, 0.01, 0.02, 0.03, 0.045, 0.06):
            await harness.engine.freeze(harness.ve)
            with trio.move_on_after(after_s):
                await harness.engine.dump(harness.ve, harness.scratch / "images")
            await harness.engine.thaw(harness.ve)
            assert await harness.engine.look(harness.ve) is VeState.RUNNING
            await moving(harness)
        await harness.engine.freeze(harness.ve)
        await harness.engine.dump(harness.ve, harness.scratch / "images")
        await still(harness)

    async def test_discard(self, harness: Harness) -> None:
        """Discarding ends the frozen processes and keeps the files; once more does nothing."""
        need_live(harness)
        await frozen(harness)
        for _ in range(2):
            await harness.engine.discard(harness.ve)
            assert await harness.engine.look(harness.ve) is VeState.STOPPED
            assert await harness.count() is None
            assert not await harness.joined()
        assert (await facts(harness)).disk_bytes > 0

    async def test_destroy(self, harness: Harness) -> None:
        """Destroying leaves nothing of the VE, and once more does nothing."""
        await running(harness)
        await harness.engine.fence(harness.ve)
        await harness.engine.stop(harness.ve)
        await harness.engine.note(harness.ve)
        for _ in range(2):
            await harness.engine.destroy(harness.ve)
            assert await harness.engine.look(harness.ve) is VeState.ABSENT
            assert await harness.remains() == []

    async def test_destroy_of_a_running_ve(self, harness: Harness) -> None:
        """A VE with a process is not destroyed."""
        await running(harness)
        with pytest.raises(FaultError):
            await harness.engine.destroy(harness.ve)

        await moving(harness)

    # --- target ---------------------------------------------------------------------------------

    async def test_vet(self, harness: Harness) -> None:
        """Nothing stands against a VE that just left; its being here does."""
        await running(harness)
        coming = Coming(await facts(harness), harness.ve, mode(harness))
        taken = await harness.engine.vet(coming)
        await harness.engine.stop(harness.ve)
        await harness.engine.destroy(harness.ve)

        assert [each.name for each in taken if not each.waivable] != []
        assert all(each.evidence and each.remedy for each in taken)
        assert await harness.engine.vet(coming) == []
        assert await harness.remains() == []

    async def test_vet_names_a_missing_bridge(self, harness: Harness) -> None:
        """A VE whose bridge has no counterpart here cannot come, and the objection names it."""
        await harness.make()
        here = await facts(harness)
        if not any(each.bridge for each in here.interfaces):
            pytest.skip("no bridge in this engine's network")
        await harness.engine.destroy(harness.ve)
        names = {f"bridge:{each.bridge}": "nowhere0" for each in here.interfaces}

        objections = await harness.engine.vet(Coming(here, harness.ve, mode(harness), names))

        assert [each.name for each in objections if "nowhere0" in each.evidence] != []

    async def test_accept_twice(self, harness: Harness) -> None:
        """Accepting makes room under the names of the source's trees; nothing runs; once more is the same."""
        coming, trees = await departed(harness)
        for _ in range(2):
            accepted = await harness.engine.accept(coming)
            assert [tree.name for tree in accepted] == [tree.name for tree in trees]
            assert await harness.count() is None
            assert not await harness.joined()
            assert not await harness.starts_at_boot()

    async def test_accept_of_what_is_here(self, harness: Harness) -> None:
        """A VE that is here stays untouched by an arrival of its name, and by the drop that follows."""
        await running(harness)
        coming = Coming(await facts(harness), harness.ve, mode(harness))
        with pytest.raises(FaultError) as caught:
            await harness.engine.accept(coming)
        await harness.engine.drop(harness.ve)

        assert caught.value.fault.code is FaultCode.CONFLICT
        assert await harness.engine.look(harness.ve) is VeState.RUNNING
        await moving(harness)

    async def test_drop_of_nothing(self, harness: Harness) -> None:
        """Dropping a VE of which nothing came does nothing."""
        await harness.engine.drop(harness.ve)

        assert await harness.remains() == []

    async def test_drop_after_accept(self, harness: Harness) -> None:
        """A VE of which only some files came is dropped without a trace; twice is the same."""
        coming, _ = await departed(harness)
        await harness.engine.accept(coming)
        for _ in range(2):
            await harness.engine.drop(harness.ve)
            assert await harness.remains() == []

    async def test_hold_and_run(self, harness: Harness) -> None:
        """A held VE exists as it was dumped and does not run; then it runs from there. Each twice does nothing more."""
        need_live(harness)
        before = await arrived(harness)
        for _ in range(2):
            await harness.engine.hold(harness.ve, harness.scratch / "images")
            assert await still(harness) == before
            assert not await harness.joined()
        for _ in range(2):
            await harness.engine.run(harness.ve)
            assert await harness.engine.look(harness.ve) is VeState.RUNNING
        assert await moving(harness) >= before
        assert await harness.joined()
        await harness.engine.announce(harness.ve)

    async def test_at_home_after_the_move(self, harness: Harness) -> None:
        """When the move is over the VE has its autostart again, and no drop can touch it any more."""
        need_live(harness)
        await arrived(harness)
        await harness.engine.hold(harness.ve, harness.scratch / "images")
        await harness.engine.run(harness.ve)
        await harness.engine.unfence(harness.ve)
        await harness.engine.drop(harness.ve)

        await moving(harness)
        assert await harness.starts_at_boot()

    async def test_there_and_back(self, harness: Harness) -> None:
        """What came can leave again in the same way, as often as one likes, and loses nothing."""
        need_live(harness)
        before = await arrived(harness)
        for _ in range(3):
            await harness.engine.hold(harness.ve, harness.scratch / "images")
            await harness.engine.run(harness.ve)
            await harness.engine.unfence(harness.ve)
            assert await moving(harness) >= before
            before = await leave_and_arrive(harness)
        await harness.engine.drop(harness.ve)

        assert await harness.remains() == []

    async def test_hold_that_fails(self, harness: Harness) -> None:
        """A hold that fails names its tool and leaves no process; it may be tried again."""
        need_live(harness)
        before = await arrived(harness)
        await fails(harness, "hold", harness.engine.hold(harness.ve, harness.scratch / "images"))

        assert await harness.count() is None
        await harness.engine.hold(harness.ve, harness.scratch / "images")
        assert await still(harness) == before

    async def test_hold_of_spoiled_images(self, harness: Harness) -> None:
        """Images that are cut short are not run: a fault, no process, and drop leaves nothing."""
        need_live(harness)
        await arrived(harness)
        await harness.spoil(harness.scratch / "images")
        with pytest.raises(FaultError):
            await harness.engine.hold(harness.ve, harness.scratch / "images")

        assert await harness.count() is None
        await harness.engine.drop(harness.ve)
        assert await harness.remains() == []

    async def test_drop_of_a_held_ve(self, harness: Harness) -> None:
        """Dropping a held VE ends it where it stands and leaves nothing."""
        need_live(harness)
        await arrived(harness)
        await harness.engine.hold(harness.ve, harness.scratch / "images")
        for _ in range(2):
            await harness.engine.drop(harness.ve)
            assert await harness.engine.look(harness.ve) is VeState.ABSENT
            assert await harness.remains() == []

    async def test_hold_given_up(self, harness: Harness) -> None:
        """A hold that is cancelled at any moment is cleaned by drop, and the VE can come again."""
        need_live(harness)
        await arrived(harness)
        await harness.copy((harness.engine.trees(harness.ve))[0].path, harness.scratch / "kept")
        coming = Coming(await facts(harness), harness.ve, Mode.LIVE)
        for after_s in (0.0, 0.003, 0.01, 0.02, 0.03, 0.045, 0.06):
            with trio.move_on_after(after_s):
                await harness.engine.hold(harness.ve, harness.scratch / "images")
            await harness.engine.drop(harness.ve)
            remained = list(await harness.remains())
            assert remained == [], (
                f"given up after {after_s} s, then dropped, and there is still: {'; '.join(remained)}"
            )
            [tree, *_] = await harness.engine.accept(coming)
            await harness.copy(harness.scratch / "kept", tree.path, tree.excluded)
        await harness.engine.hold(harness.ve, harness.scratch / "images")
        await still(harness)

    async def test_stop_copy(self, harness: Harness) -> None:
        """A VE that comes by its files alone is arranged without running, then started; drop before that cleans."""
        coming, trees = await departed(harness, Mode.STOP_COPY)
        for _ in range(2):
            await carry_in(harness, trees, await harness.engine.accept(coming))
            for _ in range(2):
                await harness.engine.arrange(harness.ve)
                assert await harness.count() is None
                assert await harness.engine.look(harness.ve) is VeState.STOPPED
            await harness.engine.drop(harness.ve)
            assert await harness.remains() == []
        await carry_in(harness, trees, await harness.engine.accept(coming))
        await harness.engine.arrange(harness.ve)
        await harness.engine.start(harness.ve)
        await moving(harness)
        await harness.engine.unfence(harness.ve)
        assert await harness.joined()
        assert await harness.starts_at_boot()


# --- steps that tests are made of -----------------------------------------------------------------


async def facts(harness: Harness) -> VeFacts:
    """The VE's facts; it is here."""
    found = await harness.engine.inspect(harness.ve)
    assert found is not None
    return found


def need_live(harness: Harness) -> None:
    """Skip where no running VE can be checkpointed."""
    if not harness.engine.live:
        pytest.skip("this engine moves VEs by stop-copy only")


def mode(harness: Harness) -> Mode:
    """How this engine's running VEs move."""
    return Mode.LIVE if harness.engine.live else Mode.STOP_COPY


async def running(harness: Harness) -> None:
    """A VE that certainly runs."""
    await harness.make()
    await harness.engine.start(harness.ve)
    await moving(harness)


async def moving(harness: Harness, limit_s: float = 20) -> int:
    """Wait until the count has risen; how far it is."""
    with trio.fail_after(limit_s):
        first = None
        while True:
            now = await harness.count()
            if now is not None and first is not None and now > first:
                return now
            first = now if first is None else first
            await trio.sleep(0.005)


async def still(harness: Harness) -> int:
    """The VE is frozen: the count does not move in a time in which it would rise a hundred times. Where it stands."""
    assert await harness.engine.look(harness.ve) is VeState.FROZEN
    before = await harness.count()
    await trio.sleep(0.1)
    assert before is not None
    assert await harness.count() == before
    return before


async def frozen(harness: Harness) -> int:
    """A frozen VE, and where its count stands."""
    await running(harness)
    await harness.engine.freeze(harness.ve)
    return await still(harness)


async def fails(harness: Harness, act: str, work: object) -> None:
    """With its tool broken the act raises a definite fault that names the tool; not tried where it needs none."""
    assert hasattr(work, "close")
    if act not in harness.tools:
        work.close()
        return
    tool = harness.tools[act]
    async with harness.broken(tool):
        with pytest.raises(FaultError) as caught:
            await work  # type: ignore[misc]
    fault = caught.value.fault
    assert fault.definite
    said = f"{fault.tool}: {fault.message}\n{fault.log_tail}"
    assert tool in said.lower(), said


async def departed(harness: Harness, how: Mode | None = None) -> tuple[Coming, Sequence[Tree]]:
    """The files of a VE that was here and is no more, put aside in the scratch directory; and its arrival."""
    await running(harness)
    coming = Coming(await facts(harness), harness.ve, how or mode(harness))
    await harness.engine.stop(harness.ve)
    await harness.engine.note(harness.ve)
    return coming, await carry_out(harness)


async def carry_out(harness: Harness) -> Sequence[Tree]:
    """Copy the trees aside and destroy the VE."""
    trees = harness.engine.trees(harness.ve)
    for tree in trees:
        await harness.copy(tree.path, harness.scratch / tree.name)
    await harness.engine.destroy(harness.ve)
    assert await harness.remains() == []
    return trees


async def carry_in(harness: Harness, trees: Sequence[Tree], accepted: Sequence[Tree]) -> None:
    """Copy what was put aside to where it is accepted, but for what does not move."""
    places = {tree.name: tree.path for tree in accepted}
    for tree in trees:
        await harness.copy(harness.scratch / tree.name, places[tree.name], tree.excluded)


async def arrived(harness: Harness) -> int:
    """A VE was dumped and is gone; its files and images are here, accepted. Where its count stood."""
    await running(harness)
    return await leave_and_arrive(harness)


async def leave_and_arrive(harness: Harness) -> int:
    """The running VE goes as a source would let it go, and is accepted again; where its count stood."""
    coming = Coming(await facts(harness), harness.ve, Mode.LIVE)
    await harness.engine.fence(harness.ve)
    await harness.engine.freeze(harness.ve)
    before = await still(harness)
    await harness.engine.note(harness.ve)
    await harness.engine.dump(harness.ve, harness.scratch / "images")
    await harness.engine.discard(harness.ve)
    trees = await carry_out(harness)
    await carry_in(harness, trees, await harness.engine.accept(coming))
    return before
