"""The `oci` engine: bundles under crun or runc, frozen by their cgroup, checkpointed and restored by CRIU.

Rule: frozen means cgroup-frozen, on both sides: a source's copy and a target's held copy are stopped the same way,
need no process of ours to stay stopped, and go on by one write.
"""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agents import places, shell
from agents.engines.oci import criu
from agents.engines.oci.bundle import BUNDLES, Bundle, all_bundles
from agents.engines.oci.cgroup import Group
from agents.engines.port import Coming, Dump, Hold, Tree
from agents.network import announce, capture, links
from agents.network.capture import Capture
from agents.shell import failed
from migrator.wire.facts import Objection, ToolFact, VeFacts, VeState
from migrator.wire.faults import FaultCode, fault_error

RUNTIMES = ("crun", "runc")
CRIU_MIN = (4, 2)
"""Older ones cannot dump an internet socket on Linux >= 6.16 (github.com/checkpoint-restore/criu, issue 2705)."""


class OciEngine:
    """See `agents.engines.port.Engine` for what each act promises."""

    name = "oci"
    live = True

    def __init__(self) -> None:
        self._captures: dict[str, Capture] = {}

    async def probe(self) -> tuple[Sequence[ToolFact], Sequence[str]]:
        """criu, crun, runc and rsync with their versions."""
        tools = [await self._tool(name) for name in ("criu", "rsync", *RUNTIMES)]
        usable = {tool.name for tool in tools if tool.version and not tool.problem}
        offers = [f"oci/{runtime}" for runtime in RUNTIMES if {"criu", "rsync", runtime} <= usable]
        return tools, offers

    async def _tool(self, name: str) -> ToolFact:
        ran = await shell.run([name, "--version"], limit_s=10)
        found = re.search(r"(\d+(?:\.\d+)+)", ran.stdout) if ran.ok else None
        version = found.group(1) if found else ""
        if name == "criu" and version:
            check = await shell.run(["criu", "check"], limit_s=20)
            return ToolFact(name, version, "" if check.ok else shell.tail(check.stdout + check.stderr))
        return ToolFact(name, version)

    async def discover(self) -> Sequence[VeFacts]:
        """Every bundle below /var/lib/migrator/ve."""
        found = [await self.inspect(bundle.ve) for bundle in all_bundles()]
        return [facts for facts in found if facts is not None]

    async def inspect(self, ve: str) -> VeFacts | None:
        """Facts of one bundle."""
        bundle, group = Bundle(ve), Group(ve)
        if not bundle.config:
            return None
        processes = group.processes() if group.path.is_dir() else []
        interfaces = bundle.interfaces()
        if processes:
            interfaces = tuple(replace(each, neighbours=links.neighbours(ve, each)) for each in interfaces)
        return VeFacts(
            ve,
            self.name,
            await self.look(ve),
            runtime=bundle.runtime,
            root=str(bundle.path),
            memory_bytes=sum(_resident_bytes(pid) for pid in processes),
            disk_bytes=bundle.disk_bytes(),
            processes=len(processes),
            interfaces=interfaces,
            foreign_mounts=bundle.foreign_mounts(),
            autostart=bundle.autostart,
            config=json.dumps(bundle.config).encode(),
        )

    async def look(self, ve: str) -> VeState:
        """From the cgroup; a bundle without processes is stopped."""
        group = Group(ve)
        if group.populated:
            return VeState.FROZEN if group.frozen else VeState.RUNNING
        return VeState.STOPPED if Bundle(ve).path.is_dir() else VeState.ABSENT

    async def start(self, ve: str) -> None:
        """Network, cgroup, then the runtime."""
        bundle = Bundle(ve)
        links.make(ve, bundle.interfaces())
        links.join(bundle.interfaces())
        Group(ve).path.mkdir(parents=True, exist_ok=True)
        await self._forget(bundle)
        ran = await shell.run([*_runtime(bundle), "run", "-d", ve], cwd=bundle.path, capture=False)
        if not ran.ok:
            raise failed(ran, "start")

    async def stop(self, ve: str) -> None:
        """End every process and what the runtime knows of it."""
        await Group(ve).end()
        await self._forget(Bundle(ve))

    # --- source ---------------------------------------------------------------------------------

    def trees(self, ve: str) -> Sequence[Tree]:
        """The bundle; its idea of the network is written anew on the target, where bridges may have other names."""
        return (Tree("bundle", BUNDLES / ve, ("/network.json",)),)

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

    async def unfence(self, ve: str) -> None:
        """The marker gets its name back."""
        fenced = Bundle(ve).path / "autostart.fenced"
        if fenced.exists():
            fenced.rename(fenced.with_suffix(""))

    async def freeze(self, ve: str) -> None:
        """Still, then off its bridges, what comes for it kept.

        In this order: an answer that a process gives to a link without a bridge would be lost, and the restored
        socket would send it again only after a second (the first retransmission time-out of a fresh socket).
        """
        interfaces = Bundle(ve).interfaces()
        await Group(ve).freeze()
        self._drop_capture(ve)
        if interfaces:
            self._captures[ve] = Capture(each.mac for each in interfaces)
        links.leave(interfaces)

    async def thaw(self, ve: str) -> None:
        """On its bridges, then running; what came meanwhile is delivered."""
        links.join(Bundle(ve).interfaces())
        Group(ve).thaw()
        await self.deliver(ve, await self.missed(ve))

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
        """CRIU finds the cgroup frozen, thaws it for its own work with every task stopped, and freezes it again."""
        bundle, work = Bundle(ve), _work(ve)
        shutil.rmtree(images, ignore_errors=True)
        images.mkdir(parents=True, mode=0o700)
        ran = await shell.run(
            [
                *_runtime(bundle),
                "checkpoint",
                "--leave-running",
                "--tcp-established",
                "--file-locks",
                *_cgroup_mode(bundle, "checkpoint"),
                f"--image-path={images}",
                f"--work-path={work}",
                ve,
            ],
            env=criu.prepare_dump(work),
            limit_s=600,
        )
        log = work / "dump.log"
        if not ran.ok:
            raise failed(ran, "dump", criu.read(log) + ran.stderr)
        if not Group(ve).frozen:
            raise fault_error(FaultCode.TOOL_FAILED, f"{ve} was not frozen after the dump", step="dump", tool="criu")
        return Dump(criu.duration_s(log), sum(path.stat().st_size for path in images.iterdir()))

    async def discard(self, ve: str) -> None:
        """cgroup.kill ends frozen processes where they stand."""
        self._drop_capture(ve)
        await self.stop(ve)
        links.remove(ve, Bundle(ve).interfaces())

    async def destroy(self, ve: str) -> None:
        """Bundle, cgroup, network."""
        await self.drop(ve)

    # --- target ---------------------------------------------------------------------------------

    async def vet(self, coming: Coming) -> Sequence[Objection]:
        """The id must be free, and the bundle's own idea of its id and runtime must hold here."""
        found = []
        if coming.ve != coming.facts.ve:
            evidence = f"the bundle of {coming.facts.ve} names its cgroup and its network namespace after itself"
            found.append(Objection("new-id", evidence, "move it under its own id"))
        if await self.look(coming.ve) is not VeState.ABSENT or (links.NAMESPACES / coming.ve).exists():
            evidence = f"there is a bundle or a network namespace {coming.ve} already"
            found.append(Objection("ve-exists", evidence, f"remove or rename the {coming.ve} that is there"))
        return found

    async def accept(self, coming: Coming) -> Sequence[Tree]:
        """The bundle directory, the network on no bridge, the cgroup."""
        ve, bundle = coming.ve, Bundle(coming.ve)
        if bundle.path.exists() or (links.NAMESPACES / ve).exists():
            raise fault_error(FaultCode.CONFLICT, f"{ve} is already here", step="reserve")
        interfaces = tuple(replace(each, bridge=coming.name("bridge", each.bridge)) for each in coming.facts.interfaces)
        bundle.write_interfaces(interfaces)
        links.make(ve, interfaces)
        Group(ve).path.mkdir(parents=True, exist_ok=True)
        return self.trees(ve)

    async def arrange(self, ve: str) -> None:
        """A bundle needs no more than its files and its network, and has them."""

    async def hold(self, ve: str, images: Path) -> Hold:
        """Restore with CRIU's last step before letting go replaced by a freeze."""
        bundle, group, work = Bundle(ve), Group(ve), _work(ve)
        ran = await shell.run(
            [
                *_runtime(bundle),
                "restore",
                "-d",
                "--tcp-established",
                "--file-locks",
                *_cgroup_mode(bundle, "restore"),
                f"--image-path={images}",
                f"--work-path={work}",
                ve,
            ],
            env=criu.prepare_hold(work, group),
            cwd=bundle.path,
            limit_s=600,
            capture=False,
        )
        log = work / "restore.log"
        if not ran.ok or not group.frozen:
            await self.stop(ve)
            raise failed(ran, "restore", criu.read(log))
        return Hold(criu.duration_s(log))

    async def run(self, ve: str) -> None:
        """On its bridges, then running."""
        await self.thaw(ve)

    async def announce(self, ve: str) -> None:
        """One round of gratuitous ARP and unsolicited neighbour advertisements."""
        for interface in Bundle(ve).interfaces():
            announce.announce(interface)

    async def drop(self, ve: str) -> None:
        """Everything of it goes."""
        bundle = Bundle(ve)
        await self.stop(ve)
        links.remove(ve, bundle.interfaces())
        Group(ve).remove()
        shutil.rmtree(_work(ve), ignore_errors=True)
        shutil.rmtree(bundle.path, ignore_errors=True)

    async def _forget(self, bundle: Bundle) -> None:
        """Remove what a runtime still remembers of a VE without processes (a failed restore leaves such)."""
        for runtime in RUNTIMES:
            await shell.run([runtime, "delete", "-f", bundle.ve], limit_s=20)
        shutil.rmtree(bundle.path / "criu-root", ignore_errors=True)
        Group(bundle.ve).path.mkdir(parents=True, exist_ok=True)


def _runtime(bundle: Bundle) -> tuple[str, ...]:
    return ("crun", "--cgroup-manager=cgroupfs") if bundle.runtime == "crun" else ("runc",)


def _cgroup_mode(bundle: Bundle, verb: str) -> tuple[str, ...]:
    """crun may leave cgroups alone; runc 1.1 knows no such mode (from 1.2 on it does)."""
    return ("--manage-cgroups-mode=ignore",) if bundle.runtime == "crun" and verb else ()


def _work(ve: str) -> Path:
    return places.RUN / "work" / ve


def _resident_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0
