"""Dump and restore of VEs by their runtime and CRIU, started ahead where there is time.

Rule: what was started ahead is used once, by the dump or restore it was started for, and only if the same would be started now;
whatever else becomes of the VE ends it.
"""

import contextlib
import json
import shutil
from pathlib import Path

import trio
from pyroute2 import NetlinkError

from agents.engines.oci import criu, guard, leftovers, repairs, waiting
from agents.engines.oci.bundle import Bundle
from agents.engines.oci.cgroup import Group
from agents.engines.oci.leftovers import work_of
from agents.engines.oci.runtime import last_words
from agents.engines.oci.waiting import Call, Waiting
from agents.engines.port import Covers, Dump, Hold, Start
from agents.network import links
from agents.shell import failed
from migrator.wire.faults import FaultCode, fault_error

CRIU_LIMIT_S = 600.0
NEIGHBOURS = "neighbours.json"
"""Beside CRIU's images: what the VE knows of hardware addresses. Without it, it has to ask."""


class Checkpoints:
    """Of all VEs of this host."""

    def __init__(self) -> None:
        self._ahead: dict[str, Waiting] = {}
        """Runtimes that were started ahead, by VE."""

    async def dump_ahead(self, ve: str, images: Path, start: Start) -> None:
        """The runtime's checkpoint, up to CRIU's work."""
        bundle, work = Bundle(ve), work_of(ve)
        call = criu.dump_call(bundle.runtime, ve, work, images)
        if self._waits(ve, call) and images.is_dir():
            return
        await self.end(ve)
        shutil.rmtree(images, ignore_errors=True)
        images.mkdir(parents=True, mode=0o700)
        (work / "dump.log").unlink(missing_ok=True)
        await self._begin(ve, call, start)

    async def dump(self, ve: str, images: Path, covers: Covers) -> Dump:
        """CRIU finds the cgroup frozen, thaws it for its own work with every task stopped, and freezes it again."""
        group, work, ahead = Group(ve), work_of(ve), self._ahead.pop(ve)
        try:
            if not group.frozen:
                raise fault_error(FaultCode.CONFLICT, f"{ve} is not frozen", step="dump")
            with guard.watched(group):
                await self._checkpoint(ve, images, ahead, covers)
        except BaseException:
            with trio.CancelScope(shield=True):
                await ahead.end()
                await self._as_before_dump(group)
            raise
        return Dump(criu.duration_s(work / "dump.log"), sum(path.stat().st_size for path in images.iterdir()))

    async def _checkpoint(self, ve: str, images: Path, ahead: Waiting, covers: Covers) -> None:
        work = work_of(ve)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, _note_neighbours, ve, images)
            ran = await ahead.go(covers, limit_s=CRIU_LIMIT_S)
        if not ran.ok:
            log = criu.read(work / "dump.log") or last_words(ran, Bundle(ve).runtime.log(work))
            raise failed(ran, "dump", log)
        repairs.repair(images)
        if not Group(ve).frozen:
            raise fault_error(FaultCode.TOOL_FAILED, f"{ve} was not frozen after the dump", step="dump", tool="criu")

    async def _begin(self, ve: str, call: Call, start: Start) -> None:
        """One that does not come to wait has failed; who lets it go on hears of it."""
        self._ahead[ve] = await Waiting.begin(call, work_of(ve) / "door", start)
        await self._ahead[ve].ready()

    def _waits(self, ve: str, call: Call) -> bool:
        return ve in self._ahead and self._ahead[ve].fits(call)

    async def end(self, ve: str) -> None:
        """The runtime that waits for a VE ends, and with it its CRIU. May be called again."""
        if (ahead := self._ahead.pop(ve, None)) is not None:
            await ahead.end()

    @staticmethod
    async def _as_before_dump(group: Group) -> None:
        """A CRIU that failed or was ended may have let the processes go: off the network they do no harm, but stop."""
        if group.populated:
            await group.free()
            await group.freeze()

    def enter(self, ve: str) -> None:
        """The CRIU that waits to restore a VE enters its cgroup; nothing, if none waits."""
        if (ahead := self._ahead.get(ve)) is not None and ahead.call.group and ahead.alive:
            ahead.enter()

    def entered(self, ve: str) -> bool:
        """Whether a CRIU that waits is all there is in a VE's cgroup."""
        return (ahead := self._ahead.get(ve)) is not None and ahead.entered

    async def hold_ahead(self, ve: str, images: Path, *, lazily: bool) -> None:
        """A restore waits for the word: the one started ahead, if it is what would be started now."""
        bundle, group, work = Bundle(ve), Group(ve), work_of(ve)
        call = criu.hold_call(bundle, work, images, lazily=lazily)
        if self._waits(ve, call):
            return
        await self.end(ve)
        await leftovers.forget(ve)
        if not links.complete(ve, bundle.interfaces()):
            links.make(ve, bundle.interfaces())
        group.make()
        (work / "restore.log").unlink(missing_ok=True)
        await self._begin(ve, call, waiting.start)

    async def hold(self, ve: str, images: Path, *, lazily: bool) -> Hold:
        """Restore with CRIU's last step before letting go replaced by a freeze."""
        bundle, group, work = Bundle(ve), Group(ve), work_of(ve)
        if group.populated and group.frozen:
            return Hold(0.0)
        await self.hold_ahead(ve, images, lazily=lazily)
        ahead = self._ahead.pop(ve)
        group.make()  # a runc that has failed meanwhile has removed it
        group.thaw()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, _introduce, ve, images)
            ran = await ahead.go((), limit_s=CRIU_LIMIT_S)
        if not (ran.ok and group.populated and group.frozen):  # a group without processes is frozen too
            log = criu.read(work / "restore.log") or last_words(ran, bundle.runtime.log(work))
            await group.end()
            await leftovers.forget(ve)
            raise failed(ran, "restore", log)
        return Hold(criu.duration_s(work / "restore.log"))


def _note_neighbours(ve: str, images: Path) -> None:
    with contextlib.suppress(NetlinkError, OSError):
        known = links.neighbours(ve, Bundle(ve).interfaces())
        (images / NEIGHBOURS).write_text(json.dumps(known))


def _introduce(ve: str, images: Path) -> None:
    with contextlib.suppress(NetlinkError, OSError):
        links.introduce(ve, json.loads((images / NEIGHBOURS).read_text()))
