"""The `openvz` engine: VEs under vzctl, checkpointed and restored by vzctl's own stages.

Rules: vzctl does the work and is not believed: after each act that matters the state is asked again. A suspended VE is never
given to `vzctl start`, which would boot it and lose its memory when the restore fails. A dump that must not be found lies
under another name than vzctl's own.
"""

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import trio

from agents.engines.openvz import (
    arrival,
    baggage,
    check,
    description,
    host,
    lock,
    marks,
    output,
    parameters,
    rewrite,
    stillness,
)
from agents.engines.openvz.container import VENET, Container, memory_bytes
from agents.engines.openvz.description import Surroundings
from agents.engines.openvz.host import Host
from agents.engines.openvz.output import Dialect
from agents.engines.openvz.vzctl import Vzctl, refused
from agents.engines.port import Coming, Dump, Hold, Tree
from agents.network import announce, capture, filters, ve_rules, venet
from agents.network.capture import Capture
from agents.network.filters import Firewalls
from agents.shell import Ran
from migrator.wire.facts import Objection, ToolFact, VeFacts, VeState
from migrator.wire.faults import FaultCode, FaultError, fault_error

IMAGE = "Dump"
"""Name of the dump among the images of a migration; where CRIU makes it, the images are its own files."""
EXTRA_STOP_S = 60.0


class OpenVzEngine:
    """See `agents.engines.port.Engine` for what each act promises."""

    name = "openvz"
    live = True
    booted_by_agent = False

    def __init__(self) -> None:
        self._captures: dict[str, Capture] = {}

    async def probe(self) -> tuple[Sequence[ToolFact], Sequence[str]]:
        """vzctl with its dialect; criu too where that makes the checkpoints."""
        if not host.present():
            return [], []
        version = output.version(await host.version())
        if not version:
            return [ToolFact("vzctl", "", remedy="install vzctl")], []
        dialect = await host.dialect()
        tools = [ToolFact("vzctl", version)]
        if dialect is Dialect.CRIU:
            criu = await host.checkpoint_version()
            tools.append(ToolFact("criu", criu, remedy="" if criu else "apt-get install criu"))
        return tools, [f"{self.name}/{dialect}"]

    async def discover(self) -> Sequence[VeFacts]:
        """Every VE with a config and a private area."""
        if not host.present() or not (identifiers := host.identifiers()):
            return []
        around, firewalls = await description.surroundings(), await filters.read()
        found = [await self._inspect(ve, around, firewalls) for ve in identifiers]
        return [facts for facts in found if facts is not None]

    async def inspect(self, ve: str) -> VeFacts | None:
        """Facts of one VE."""
        if not output.valid_id(ve) or not host.present() or not Container(ve).here:
            return None
        return await self._inspect(ve, await description.surroundings(), await filters.read())

    async def _inspect(self, ve: str, around: Surroundings, firewalls: Firewalls) -> VeFacts | None:
        one = Container(ve)
        state = await self.look(ve)
        if state is VeState.ABSENT:
            return None
        config = one.own_config
        interfaces = one.interfaces(config.values)
        runs = state in (VeState.RUNNING, VeState.FROZEN)
        told = await description.describe(one, around, firewalls, interfaces, runs=runs)
        return VeFacts(
            ve,
            self.name,
            state,
            runtime=str(around.dialect),
            root=str(one.private),
            memory_bytes=memory_bytes(ve),
            disk_bytes=await trio.to_thread.run_sync(one.disk_bytes),
            processes=len(stillness.processes(ve)),
            interfaces=interfaces,
            foreign_mounts=tuple(dict.fromkeys([*one.bound, *(point for point, _, _ in one.mounts)])),
            autostart=config.get("ONBOOT") == "yes",
            blockers=arrival.blockers(config.values),
            live=parameters.layout(config.values) == "simfs",
            notes=arrival.notes(one, config),
            config=told.to_bytes(),
        )

    async def look(self, ve: str) -> VeState:
        """From the kernel where it tells; then from vzctl's status, the dump, and what we know of our own doing."""
        if not output.valid_id(ve) or not host.present():
            return VeState.ABSENT
        one, still = Container(ve), stillness.stands_still(ve)
        if still is not None and one.here:
            return VeState.FROZEN if still else VeState.RUNNING
        if not one.here:
            return VeState.ABSENT
        state = (await Vzctl(ve).status()).state
        if state is VeState.RUNNING and still is None and marks.read(ve).stands:
            return VeState.FROZEN
        if state is VeState.STOPPED and one.kept_dump.exists():
            return VeState.SUSPENDED
        return state

    async def start(self, ve: str) -> None:
        """`vzctl start`; a suspended VE is restored."""
        match await self.look(ve):
            case VeState.RUNNING:
                return
            case VeState.SUSPENDED:
                await self._restore(ve, "start")
                return
            case VeState.STOPPED:
                pass
            case state:
                raise fault_error(
                    FaultCode.CONFLICT, f"VE {ve} is {state} and cannot be started", step="start", tool="vzctl"
                )
        ran = await Vzctl(ve)("start", *(["--force"] if marks.read(ve).fenced else []))
        if await self.look(ve) is not VeState.RUNNING:
            raise refused(ran, "start", f"VE {ve} did not start")

    async def stop(self, ve: str) -> None:
        """Halt inside, then by force; a frozen one is ended where it stands. Its code is 0 for a stopped one too."""
        vzctl = Vzctl(ve)
        state = await self.look(ve)
        if state is VeState.FROZEN:
            await self._end_frozen(ve)
        elif state is VeState.RUNNING:
            limit_s = float(Host.read().values.get("STOP_TIMEOUT") or 120) + EXTRA_STOP_S
            ran = await vzctl("stop", limit_s=limit_s)
            if await self.look(ve) is VeState.RUNNING:
                ran = await vzctl("stop", "--fast", limit_s=limit_s)
            if (left := await self.look(ve)) not in (VeState.STOPPED, VeState.SUSPENDED):
                raise refused(ran, "stop", f"VE {ve} is still {left}")
        await self._unmount(ve)

    # --- source ---------------------------------------------------------------------------------

    def trees(self, ve: str) -> Sequence[Tree]:
        """The private area, what goes beside it, and the dump of a suspended VE."""
        one = Container(ve)
        return _trees(ve, one.private, one.dump_tree if _moves_suspended(one) else None)

    def pids(self, ve: str) -> Sequence[int]:
        """What the kernel says is in it."""
        return stillness.processes(ve)

    async def note(self, ve: str) -> None:
        """Config, scripts, rules, second-level quotas; the dump of a suspended VE."""
        one = Container(ve)
        interfaces = one.interfaces(one.config.values)
        found = (await filters.read()).of(one.named(interfaces))
        baggage.write(one, found)
        marks.write(ve, rules=[rule.plain() for rule in found])
        if baggage.second_level(one.config.values, quota=Host.read().values["DISK_QUOTA"] == "yes"):
            await baggage.dump_quota(ve)
        if _moves_suspended(one):
            await trio.to_thread.run_sync(baggage.pack_dump, one)

    async def fence(self, ve: str) -> None:
        """Lock, ONBOOT=no, DISABLED=yes; the state it is in is noted, since a suspended VE moves with its dump."""
        one = Container(ve)
        lock.take(Vzctl(ve).lock_file)
        if not marks.read(ve).fenced:
            before = one.path.read_bytes().decode(errors="surrogateescape")
            suspended = await self.look(ve) is VeState.SUSPENDED
            marks.write(ve, fenced=True, before=before, suspended=suspended)
        marks.write_durably(one.path, rewrite.fenced(one.config).render())
        marks.baggage(ve).mkdir(parents=True, exist_ok=True, mode=0o700)
        if _moves_suspended(one):
            one.dump_tree.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def unfence(self, ve: str) -> None:
        """The config as its operator wants it, byte for byte if nobody else changed it; then the lock."""
        one = Container(ve)
        if marks.read(ve).fenced and one.here:
            marks.write_durably(one.path, one.own_config.render())
        shutil.rmtree(one.dump_tree, ignore_errors=True)
        marks.forget(ve)
        lock.release(Vzctl(ve).lock_file)

    async def freeze(self, ve: str) -> None:
        """`chkpnt --suspend`. Where vzctl cannot do that alone, the whole checkpoint: then the VE is its dump."""
        state = await self.look(ve)
        kernel = await host.dialect() is Dialect.KERNEL
        if state is VeState.FROZEN or (state is VeState.SUSPENDED and Container(ve).kept_dump.exists()):
            return
        if state is not VeState.RUNNING:
            raise fault_error(FaultCode.CONFLICT, f"VE {ve} is {state}: there is nothing to freeze", step="freeze")
        self._listen(ve)
        if kernel:
            await self._suspend(ve)
        else:
            await self._checkpoint(ve)

    async def _suspend(self, ve: str) -> None:
        marks.write(ve, stands=True)
        ran = await Vzctl(ve)("chkpnt", "--suspend")
        if ran.ok or (output.unknown(ran.status) and await self._certainly_frozen(ve, ran)):
            return
        # Refused, or nobody knows: resuming what was not suspended does no harm.
        await Vzctl(ve)("chkpnt", "--resume")
        marks.write(ve, stands=False)
        self._drop_capture(ve)
        raise refused(ran, "dump", f"VE {ve} cannot be suspended and runs on")

    async def _certainly_frozen(self, ve: str, ran: Ran) -> bool:
        still = stillness.stands_still(ve)
        return still if still is not None else output.finished("chkpnt", ran.stdout)

    async def _checkpoint(self, ve: str) -> None:
        one = Container(ve)
        ran = await Vzctl(ve)(*_words_of(await host.dialect(), "chkpnt"))
        if (status := await Vzctl(ve).status()).running:
            self._drop_capture(ve)
            raise refused(ran, "dump", f"VE {ve} cannot be checkpointed and runs on")
        if not status.suspended:
            raise refused(ran, "dump", f"VE {ve} has ended and its checkpoint is not in {one.dump}")
        one.dump.rename(one.kept_dump)
        await self._unmount(ve)

    async def thaw(self, ve: str) -> None:
        """`chkpnt --resume`, which also gives it back its routes; where the VE is its dump, the restore of that."""
        match await self.look(ve):
            case VeState.FROZEN:
                ran = await Vzctl(ve)("chkpnt", "--resume")
                if stillness.stands_still(ve) or not (ran.ok or output.unknown(ran.status)):
                    raise refused(ran, "thaw", f"VE {ve} stands still")
                marks.write(ve, stands=False)
            case VeState.SUSPENDED if not marks.read(ve).suspended:
                await self._restore(ve, "thaw")
            case VeState.RUNNING | VeState.SUSPENDED:
                pass
            case state:
                raise fault_error(FaultCode.CONFLICT, f"VE {ve} is {state}: there is nothing to thaw", step="thaw")
        await self.deliver(ve, await self.missed(ve))

    async def _restore(self, ve: str, step: str) -> None:
        """A suspended VE goes on; never by `vzctl start`."""
        one = Container(ve)
        if one.kept_dump.exists() and not one.dump.exists():
            one.kept_dump.rename(one.dump)
        ran = await Vzctl(ve)(*_words_of(await host.dialect(), "restore"))
        if (state := await self.look(ve)) is not VeState.RUNNING:
            await self._unmount(ve)
            raise refused(ran, step, f"VE {ve} was not restored from {one.dump} and is {state}")

    async def missed(self, ve: str) -> Sequence[bytes]:
        """What came for its veth interfaces."""
        held = self._captures.pop(ve, None)
        return held.take() if held is not None else ()

    async def deliver(self, ve: str, frames: Sequence[bytes]) -> None:
        """By the host's end of the interface whose address a frame has."""
        for one in parameters.netifs(Container(ve).config.get("NETIF")) if frames else ():
            mac = bytes.fromhex(one.get("mac").replace(":", ""))
            with contextlib.suppress(OSError):
                capture.deliver(one.host_ifname(ve), (each for each in frames if capture.destination(each) == mac))

    def _listen(self, ve: str) -> None:
        self._drop_capture(ve)
        macs = [one.get("mac") for one in parameters.netifs(Container(ve).config.get("NETIF")) if one.get("mac")]
        if macs:
            self._captures[ve] = Capture(macs)

    def _drop_capture(self, ve: str) -> None:
        if (old := self._captures.pop(ve, None)) is not None:
            old.close()

    async def dump(self, ve: str, images: Path) -> Dump:
        """`chkpnt --dump` into the images; where the VE is its dump already, a copy of that."""
        shutil.rmtree(images, ignore_errors=True)
        images.mkdir(parents=True, mode=0o700)
        one, target = Container(ve), images / IMAGE
        if one.kept_dump.exists():
            await trio.to_thread.run_sync(_copy, one.kept_dump, images)
            return Dump(0.0, description.size_bytes(images))
        ran = await Vzctl(ve)("chkpnt", "--dump", "--dumpfile", str(target))
        done = ran.ok or (output.unknown(ran.status) and output.finished("chkpnt", ran.stdout))
        if not done or not target.exists() or target.stat().st_size == 0:
            target.unlink(missing_ok=True)
            raise refused(ran, "dump", f"VE {ve} stands still and cannot be dumped")
        if stillness.stands_still(ve) is False:
            raise fault_error(FaultCode.TOOL_FAILED, f"VE {ve} ran on after its dump", step="dump", tool="vzctl")
        return Dump(0.0, target.stat().st_size)

    async def discard(self, ve: str) -> None:
        """`chkpnt --kill` and umount; a dump that could bring it back goes out of vzctl's sight."""
        self._drop_capture(ve)
        one, noted = Container(ve), marks.read(ve)
        state = await self.look(ve)
        if state is VeState.RUNNING:
            raise fault_error(FaultCode.CONFLICT, f"VE {ve} runs here and is to be discarded", step="discard")
        if state is VeState.FROZEN:
            await self._end_frozen(ve)
        if noted.suspended and one.dump.exists():
            one.dump.rename(one.kept_dump)
        elif one.kept_dump.exists():
            _remove(one.kept_dump)
        await self._unmount(ve)
        await filters.remove([ve_rules.from_plain(plain) for plain in noted.rules])
        await trio.to_thread.run_sync(venet.withdraw, parameters.venet_addresses(one.config.values))

    async def _end_frozen(self, ve: str) -> None:
        """A held one is `restore`'s to kill, a suspended one `chkpnt`'s; neither lets a process run."""
        verb = "restore" if marks.read(ve).arriving else "chkpnt"
        ran = await Vzctl(ve)(verb, "--kill")
        if (await Vzctl(ve).status()).running:
            raise refused(ran, "kill", f"VE {ve} stands still and was not ended")
        marks.write(ve, stands=False)

    async def _unmount(self, ve: str) -> None:
        status = await Vzctl(ve).status()
        if status.mounted and not status.running:
            ran = await Vzctl(ve)("umount")
            if (await Vzctl(ve).status()).mounted:
                raise refused(ran, "umount", f"the root of VE {ve} is still mounted")

    async def destroy(self, ve: str) -> None:
        """`vzctl destroy`, which keeps config and scripts as *.destroyed; and what we have put beside."""
        state = await self.look(ve)
        if state in (VeState.RUNNING, VeState.FROZEN):
            raise fault_error(
                FaultCode.CONFLICT, f"VE {ve} is {state} and is not destroyed", step="destroy", tool="vzctl"
            )
        one = Container(ve)
        if one.here:
            _remove(one.kept_dump)
            await self._unmount(ve)
            ran = await Vzctl(ve)("destroy")
            if one.here:
                raise refused(ran, "destroy", f"VE {ve} was not destroyed")
        shutil.rmtree(one.dump_tree, ignore_errors=True)
        marks.forget(ve)
        lock.release(Vzctl(ve).lock_file)

    # --- target ---------------------------------------------------------------------------------

    async def vet(self, coming: Coming) -> Sequence[Objection]:
        """See `agents.engines.openvz.check`."""
        return await check.vet(coming)

    async def accept(self, coming: Coming) -> Sequence[Tree]:
        """Config (fenced), name, empty private area, lock; kernel modules and first-level quota as far as they are needed."""
        if marks.read(coming.ve).arriving.get("source") != coming.facts.ve:
            if await self.look(coming.ve) is not VeState.ABSENT:
                raise fault_error(FaultCode.CONFLICT, f"VE {coming.ve} is already here", step="reserve")
            await arrival.accept(coming)
        one = Container(coming.ve)
        return _trees(coming.ve, one.private, one.dump_tree if marks.read(coming.ve).suspended else None)

    async def arrange(self, ve: str) -> None:
        """Config, scripts, rules, quotas, dump as they came; one that is to run is mounted, so that its scripts had their say."""
        await arrival.settle(ve)
        one = Container(ve)
        if marks.read(ve).suspended:
            await trio.to_thread.run_sync(baggage.unpack_dump, one)
        elif marks.read(ve).arriving.get("state") != VeState.STOPPED:
            ran = await Vzctl(ve)("mount")
            if not (await Vzctl(ve).status()).mounted:
                raise refused(ran, "arrange", f"VE {ve} cannot be mounted")

    async def hold(self, ve: str, images: Path) -> Hold:
        """`restore --undump`; where vzctl cannot hold, all is laid ready for the restore that `run` makes."""
        if stillness.stands_still(ve) or (marks.read(ve).stands and await self.look(ve) is VeState.FROZEN):
            return Hold(0.0)
        await arrival.settle(ve)
        if await host.dialect() is not Dialect.KERNEL:
            one = Container(ve)
            _remove(one.dump)
            await trio.to_thread.run_sync(_copy, images, one.dump)
            return Hold(0.0, ("vzctl on this kernel cannot hold a restored VE: it is restored when it is let go",))
        return Hold(0.0, await self._undump(ve, images / IMAGE))

    async def _undump(self, ve: str, dump: Path) -> tuple[str, ...]:
        marks.write(ve, stands=True)
        answers: dict[str, set[str]] = {}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(arrival.probe_neighbours, ve, answers)
            ran = await Vzctl(ve)("restore", "--undump", "--dumpfile", str(dump), "--skip_arpdetect")
        done = ran.ok or (output.unknown(ran.status) and output.finished("restore", ran.stdout))
        held = {address: macs for address, macs in answers.items() if macs}
        if not done or stillness.stands_still(ve) is False:
            await self._clean_up(ve)
            raise refused(ran, "restore", f"VE {ve} was not restored")
        words = tuple(f"{address} is answered for by {', '.join(sorted(macs))} too" for address, macs in held.items())
        if words and Host.read().values.get("ERROR_ON_ARPFAIL") == "yes":
            await self._clean_up(ve)
            raise fault_error(FaultCode.CONFLICT, "; ".join(words), step="restore")
        return words

    async def _clean_up(self, ve: str) -> None:
        """Nothing of a failed restore stays: no process, no mount, no route."""
        if (await Vzctl(ve).status()).running:
            await Vzctl(ve)("restore", "--kill")
            if (await Vzctl(ve).status()).running:
                await Vzctl(ve)("stop", "--fast")
        marks.write(ve, stands=False)
        with contextlib.suppress(FaultError):
            await self._unmount(ve)
        addresses = parameters.venet_addresses(Container(ve).config.values)
        await trio.to_thread.run_sync(venet.withdraw, addresses)

    async def run(self, ve: str) -> None:
        """`restore --resume`; where vzctl could not hold, its restore."""
        match await self.look(ve):
            case VeState.FROZEN:
                ran = await Vzctl(ve)("restore", "--resume")
                if stillness.stands_still(ve) or not (ran.ok or output.unknown(ran.status)):
                    raise refused(ran, "run", f"VE {ve} stands still")
                marks.write(ve, stands=False)
            case VeState.SUSPENDED:
                await self._restore(ve, "run")
            case VeState.RUNNING:
                pass
            case state:
                raise fault_error(FaultCode.CONFLICT, f"VE {ve} is {state}: there is nothing to let run", step="run")

    async def announce(self, ve: str) -> None:
        """One round: venet addresses on every neighbour device, a veth's own on its bridge."""
        values = Container(ve).config.values
        devices = venet.neighbour_devices(Host.read().values.get("NEIGHBOUR_DEVS", ""))
        venet.announce(parameters.venet_addresses(values), devices)
        for interface in await trio.to_thread.run_sync(arrival.interfaces, ve):
            if interface.name != VENET and interface.bridge and interface.addresses:
                with contextlib.suppress(OSError):
                    announce.announce(interface)

    async def drop(self, ve: str) -> None:
        """Only what came and is not at home yet."""
        if not marks.read(ve).arriving:
            lock.tidy(Vzctl(ve).lock_file)  # it is taken before anything is noted
            marks.forget_unwritten(ve)
            return
        if Container(ve).here:
            status = await Vzctl(ve).status()
            if status.running:
                await self._clean_up(ve)
            if (status := await Vzctl(ve).status()).running:
                raise fault_error(FaultCode.TOOL_FAILED, f"VE {ve} does not end", step="drop", tool="vzctl")
            await self._unmount(ve)
        await arrival.remove(ve)
        lock.release(Vzctl(ve).lock_file)


def _trees(ve: str, private: Path, dump: Path | None) -> Sequence[Tree]:
    found = [Tree("private", private), Tree("baggage", marks.baggage(ve))]
    return [*found, Tree("dump", dump)] if dump else found


def _moves_suspended(one: Container) -> bool:
    """Whether its dump belongs to its files: it was suspended when the move began, or is, outside of any."""
    noted = marks.read(one.ve)
    return noted.suspended if noted.held else one.dump.exists() and not stillness.processes(one.ve)


def _words_of(dialect: Dialect, verb: str) -> tuple[str, ...]:
    """The whole checkpoint or restore, by the words of this vzctl."""
    return ({"chkpnt": "suspend", "restore": "resume"}[verb] if dialect is Dialect.SEVEN else verb,)


def _copy(source: Path, target: Path) -> None:
    """The files of one directory into another."""
    target.mkdir(mode=0o700, exist_ok=True)
    for path in source.iterdir():
        shutil.copy(path, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
