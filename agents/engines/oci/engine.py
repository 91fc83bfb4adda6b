"""The `oci` engine: bundles under crun or runc, frozen by their cgroup, checkpointed and restored by CRIU.

Rule: frozen means cgroup-frozen, on both sides: a source's copy and a target's held copy are stopped the same way,
need no process of ours to stay stopped, and go on by one write.
"""

import json
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import trio

from agents import remarks, shell
from agents.engines.oci import custody, facts, fitness, leftovers, sockets, tools, waiting
from agents.engines.oci.bundle import BUNDLES, Bundle, all_bundles
from agents.engines.oci.cgroup import Group
from agents.engines.oci.checkpoints import Checkpoints
from agents.engines.oci.leftovers import CRIU_ROOT, work_of
from agents.engines.oci.runtime import last_words
from agents.engines.port import Coming, Covers, Dump, Hold, MemoryAccess, Start, Tree
from agents.network import announce, capture, links, settings
from agents.network.capture import Capture
from agents.shell import failed
from migrator.wire.facts import Mode, Objection, ToolFact, VeFacts, VeState
from migrator.wire.faults import FaultCode, fault_error

START_LIMIT_S = 60.0
GRACE_S = 10.0
"""How long the first process of a VE that listens for SIGTERM may take to end everything in order."""
UNFINISHED = "dump.unfinished"
"""In the work directory while CRIU dumps: what the processes held before, for one that is ended with them in its hands."""


class OciEngine:
    """See `agents.engines.port.Engine` for what each act promises."""

    name = "oci"
    live = True
    booted_by_agent = True

    def __init__(self) -> None:
        self._captures: dict[str, Capture] = {}
        self._checkpoints = Checkpoints()

    async def probe(self) -> tuple[Sequence[ToolFact], Sequence[str]]:
        """criu, crun, runc, rsync and the kernel's cgroups, with what is wrong with each and how to get a usable one."""
        return await tools.probe()

    async def discover(self) -> Sequence[VeFacts]:
        """Every bundle below /var/lib/migrator/ve."""
        found = [await self.inspect(bundle.ve) for bundle in all_bundles()]
        return [each for each in found if each is not None]

    async def inspect(self, ve: str) -> VeFacts | None:
        """Facts of one bundle; gathered in a thread, since large trees and address spaces take their time."""
        bundle = Bundle(ve)
        if not bundle.config:
            return None
        state, host = await self.look(ve), await tools.here()
        filtered = state is VeState.RUNNING and facts.may_filter(bundle.config)
        rules = await settings.rules(ve) if filtered else ""
        return await trio.to_thread.run_sync(facts.gather, bundle, Group(ve), state, host, rules)

    async def look(self, ve: str) -> VeState:
        """From the cgroup; a bundle without processes is stopped."""
        group = Group(ve)
        if group.populated and not self._checkpoints.entered(ve):
            return VeState.FROZEN if group.frozen else VeState.RUNNING
        return VeState.STOPPED if Bundle(ve).path.is_dir() else VeState.ABSENT

    async def start(self, ve: str) -> None:
        """Network, cgroup, then the runtime."""
        bundle, group, work = Bundle(ve), Group(ve), work_of(ve)
        if group.populated:
            return
        if not bundle.config:
            raise fault_error(FaultCode.UNKNOWN_VE, f"there is no bundle {bundle.path}", step="start")
        await leftovers.forget(ve)
        interfaces = bundle.interfaces()
        links.make(ve, interfaces)
        links.join(interfaces)
        group.make()
        work.mkdir(parents=True, exist_ok=True)
        argv = bundle.runtime.argv("run", ve, work, "-d")
        ran = await shell.run(argv, cwd=bundle.path, capture=False, limit_s=START_LIMIT_S, family=True)
        if not ran.ok:
            await self._end(ve)
            raise failed(ran, "start", last_words(ran, bundle.runtime.log(work)))

    async def stop(self, ve: str) -> None:
        """Ask the first process with SIGTERM, if it listens; then end every process, and the network."""
        await _ask_to_end(Group(ve))
        await self._end(ve)

    async def _end(self, ve: str) -> None:
        await self.end_ahead(ve)
        await Group(ve).end()
        self._drop_capture(ve)
        await leftovers.forget(ve)
        links.remove(ve, Bundle(ve).interfaces())

    # --- source ---------------------------------------------------------------------------------

    def trees(self, ve: str) -> Sequence[Tree]:
        """The bundle; its idea of the network is written anew on the target, where bridges may have other names."""
        return (Tree("bundle", BUNDLES / ve, ("/network.json", CRIU_ROOT)),)

    def pids(self, ve: str) -> Sequence[int]:
        """All of its cgroup."""
        group = Group(ve)
        return group.processes() if group.path.is_dir() else []

    async def note(self, ve: str) -> None:
        """rsync carries all of a bundle."""

    async def fence(self, ve: str) -> None:
        """The marker by which the host starts it at boot is renamed."""
        marker = Bundle(ve).path / "autostart"
        if marker.exists():
            marker.rename(marker.with_suffix(".fenced"))
        Bundle(ve).mark(arriving=False)  # what leaves is at home here, even if nobody said so

    async def unfence(self, ve: str) -> None:
        """The marker gets its name back; and what came is at home here."""
        fenced = Bundle(ve).path / "autostart.fenced"
        if fenced.exists():
            fenced.rename(fenced.with_suffix(""))
        Bundle(ve).mark(arriving=False)

    async def freeze(self, ve: str) -> None:
        """Still, then off its bridges, what comes for it kept.

        In this order: an answer that a process gives to a link without a bridge would be lost, and the restored
        socket would send it again only after a second (the first retransmission time-out of a fresh socket).
        """
        interfaces, group = Bundle(ve).interfaces(), Group(ve)
        if not group.populated:
            raise fault_error(FaultCode.CONFLICT, f"{ve} has no process to freeze", step="freeze")
        await group.freeze()
        if interfaces and ve not in self._captures:
            self._captures[ve] = Capture(each.mac for each in interfaces)
        links.leave(interfaces)

    async def thaw(self, ve: str) -> None:
        """On its bridges, then running; what came meanwhile is delivered."""
        group = Group(ve)
        if not group.populated:
            raise fault_error(FaultCode.CONFLICT, f"{ve} has no process to thaw", step="thaw")
        left = await self._mend(ve)
        links.join(Bundle(ve).interfaces())
        group.thaw()
        await self.deliver(ve, await self.missed(ve))
        await trio.to_thread.run_sync(custody.put_away, left)

    @staticmethod
    async def _mend(ve: str) -> Sequence[custody.Leftover]:
        """What a killed CRIU has changed is put back, while all stand still; what is left for afterwards."""
        group, noted = Group(ve), work_of(ve) / UNFINISHED
        await group.free()
        if not noted.exists():
            return ()
        await group.freeze()
        left = await trio.to_thread.run_sync(custody.give_back, noted)
        await trio.to_thread.run_sync(sockets.leave_repair, group.processes())
        noted.unlink()
        if left:
            remarks.add(ve, "CRIU ended with the VE in its hands; what it had changed in its processes was put back")
        return left

    async def missed(self, ve: str) -> Sequence[bytes]:
        """What the capture holds."""
        held = self._captures.pop(ve, None)
        return held.take() if held is not None else ()

    async def deliver(self, ve: str, frames: Sequence[bytes]) -> None:
        """By the host's end of the link whose address the frame has."""
        for interface in Bundle(ve).interfaces() if frames else ():
            mac = bytes.fromhex(interface.mac.replace(":", ""))
            capture.deliver(interface.host_name, (frame for frame in frames if capture.destination(frame) == mac))

    def _drop_capture(self, ve: str) -> None:
        if (old := self._captures.pop(ve, None)) is not None:
            old.close()

    async def dump(self, ve: str, images: Path) -> Dump:
        """All of it into the images. Called off at any moment, it leaves no runtime that waits."""
        try:
            await self._checkpoints.dump_ahead(ve, images, waiting.start)
            await self.note_frozen(ve)
            return await self.dump_covered(ve, images, ())
        except BaseException:
            with trio.CancelScope(shield=True):
                await self.end_ahead(ve)
            raise

    async def dump_ahead(self, ve: str, images: Path, start: Start) -> None:
        """The runtime's checkpoint, up to CRIU's work."""
        await self._checkpoints.dump_ahead(ve, images, start)

    async def note_frozen(self, ve: str) -> None:
        """For the case that CRIU is killed with the VE in its hands."""
        await trio.to_thread.run_sync(custody.note, Group(ve).processes(), work_of(ve) / UNFINISHED)

    async def dump_covered(self, ve: str, images: Path, covers: Covers) -> Dump:
        """CRIU finds the cgroup frozen, thaws it for its own work with every task stopped, and freezes it again."""
        dump = await self._checkpoints.dump(ve, images, covers)
        (work_of(ve) / UNFINISHED).unlink()
        return dump

    async def end_ahead(self, ve: str) -> None:
        """The runtime that waits, and with it its CRIU."""
        await self._checkpoints.end(ve)

    async def discard(self, ve: str) -> None:
        """cgroup.kill ends frozen processes where they stand."""
        await self._end(ve)

    async def destroy(self, ve: str) -> None:
        """Bundle, cgroup, network, mark."""
        if Group(ve).populated:
            raise fault_error(FaultCode.CONFLICT, f"{ve} has processes", step="destroy")
        await self._remove(ve)

    async def _remove(self, ve: str) -> None:
        await self._end(ve)
        shutil.rmtree(work_of(ve), ignore_errors=True)
        await trio.to_thread.run_sync(lambda: shutil.rmtree(Bundle(ve).path, ignore_errors=True))
        Bundle(ve).mark(arriving=False)

    # --- target ---------------------------------------------------------------------------------

    async def vet(self, coming: Coming) -> Sequence[Objection]:
        """Names, tools and what the configuration asks of a host."""
        found = list(await fitness.objections(coming))
        if await self.look(coming.ve) is not VeState.ABSENT or (links.NAMESPACES / coming.ve).exists():
            evidence = f"there is a bundle or a network namespace {coming.ve} already"
            found.append(Objection("ve-exists", evidence, f"remove or rename the {coming.ve} that is there"))
        return found

    async def accept(self, coming: Coming) -> Sequence[Tree]:
        """The mark, the bundle directory, the network on no bridge, the cgroup."""
        ve, bundle = coming.ve, Bundle(coming.ve)
        here = bundle.path.exists() or (links.NAMESPACES / ve).exists()
        if Group(ve).populated or (here and not bundle.arriving.exists()):
            raise fault_error(FaultCode.CONFLICT, f"{ve} is already here", step="reserve")
        interfaces = tuple(replace(each, bridge=coming.name("bridge", each.bridge)) for each in coming.facts.interfaces)
        if not here and (taken := sorted(each.host_name for each in interfaces if links.exists(each.host_name))):
            raise fault_error(FaultCode.CONFLICT, f"there is a link {', '.join(taken)} already", step="reserve")
        bundle.mark(arriving=True)
        bundle.write_interfaces(interfaces)
        links.make(ve, interfaces)
        if coming.mode is Mode.LIVE:
            await _set_network(coming)
        Group(ve).make()
        return self.trees(ve)

    async def arrange(self, ve: str) -> None:
        """A bundle needs no more than its files and its network, and has them."""

    def memory(self, ve: str) -> MemoryAccess:
        """Its cgroup, and the work directory of its CRIU."""
        work_of(ve).mkdir(parents=True, exist_ok=True)
        return MemoryAccess(Group(ve).path, work_of(ve))

    async def hold(self, ve: str, images: Path) -> Hold:
        """From complete images."""
        return await self._checkpoints.hold(ve, images, lazily=False)

    async def hold_ahead(self, ve: str, images: Path) -> None:
        """The runtime's restore, up to CRIU's work."""
        if Bundle(ve).arriving.exists() and Bundle(ve).config and not Group(ve).populated:
            await self._checkpoints.hold_ahead(ve, images, lazily=True)

    async def hold_soon(self, ve: str) -> None:
        """The CRIU that waits enters the cgroup."""
        self._checkpoints.enter(ve)

    async def hold_lazily(self, ve: str, images: Path) -> Hold:
        """By CRIU's option lazy-pages."""
        return await self._checkpoints.hold(ve, images, lazily=True)

    async def run(self, ve: str) -> None:
        """On its bridges, then running."""
        group = Group(ve)
        if not group.populated:
            raise fault_error(FaultCode.CONFLICT, f"{ve} is not held here", step="run")
        links.join(Bundle(ve).interfaces())
        group.thaw()

    async def announce(self, ve: str) -> None:
        """One round of gratuitous ARP and unsolicited neighbour advertisements."""
        for interface in Bundle(ve).interfaces():
            announce.announce(interface)

    async def drop(self, ve: str) -> None:
        """Everything of a VE that is arriving; nothing of one that is at home here."""
        if Bundle(ve).arriving.exists():
            await self._remove(ve)


async def _set_network(coming: Coming) -> None:
    """What the running VE has set in its network; one that starts anew sets it itself."""
    described = json.loads(coming.facts.config or b"{}")
    await trio.to_thread.run_sync(settings.apply, coming.ve, described.get("sysctls", {}))
    if rules := described.get("rules"):
        await settings.set_rules(coming.ve, rules)


async def _ask_to_end(group: Group) -> None:
    """SIGTERM to the first process, and some grace. One that does not listen would not hear it: to the first process of a
    PID namespace the kernel brings only what it handles."""
    if not group.populated or group.frozen:
        return
    first = facts.first_process(group.processes())
    if first is None or not facts.handles(first, signal.SIGTERM):
        return
    os.kill(first, signal.SIGTERM)
    with trio.move_on_after(GRACE_S):
        while group.populated:
            await trio.sleep(0.01)
