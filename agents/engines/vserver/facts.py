"""What this host says about one guest, for the controller and for the engine on the target.

Rule: observed now; nothing here changes anything. A size that takes a walk over the files is kept for a minute.
"""

import os
import platform
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from agents.engines.vserver import lines, listening, live_mounts, output, payload, tools
from agents.engines.vserver.guest import Guest, read
from agents.engines.vserver.leaving import Leaving
from agents.engines.vserver.notes import Notes
from agents.engines.vserver.payload import Device, HostSide, Payload
from agents.engines.vserver.site import Site
from agents.network import aliases, devices, firewall
from migrator.wire.facts import VeFacts, VeState

KEEP_S = 60.0
PROGRAMS = ("sbin/init", "bin/sh", "usr/bin/sh", "lib/systemd/systemd")


@dataclass(frozen=True, slots=True)
class Size:
    """What a guest's files take."""

    at_s: float
    bytes: int
    inodes: int


class Facts:
    """Facts of the guests of one host."""

    def __init__(self, site: Site, leaving: Leaving) -> None:
        self._site, self._leaving = site, leaving
        self._sizes: dict[str, Size] = {}

    async def of(self, ve: str, state: VeState) -> VeFacts:
        """All facts of one guest. Raises FaultError."""
        tree = await self._site.tree(ve)
        guest = read(ve, str(await self._site.directory(ve)), tree)
        xid = await self._site.context(ve) if state is VeState.RUNNING else None
        processes, resident_bytes = await self._use(xid)
        size = await self._size(guest)
        fenced = not (await self._site.directory(ve)).is_dir()
        carried = Notes(ve).carried
        host = await self._host_side(guest, xid, size)
        place = await self._site.place(ve)
        if place is not None:
            host = replace(host, trees=tuple(each.name for each in self._leaving.trees(guest, place)))
        return VeFacts(
            ve,
            "vserver",
            state,
            root=os.path.realpath(guest.vdir) if guest.vdir else "",
            memory_bytes=resident_bytes,
            disk_bytes=size.bytes,
            processes=processes,
            interfaces=lines.interfaces(guest),
            autostart=(guest.autostart or bool(carried and carried.mark)) and not fenced,
            live=False,
            notes=tuple(_readable(each) for each in self._notes(guest, fenced)),
            config=payload.pack(Payload(ve, guest.directory, tree, host)),
        )

    async def _use(self, xid: int | None) -> tuple[int, int]:
        """(processes, resident bytes) of a context."""
        if xid is None:
            return 0, 0
        rows = output.stat_rows((await tools.run("vserver-stat")).stdout)
        return next(((row.processes, row.rss_bytes) for row in rows if row.xid == xid), (0, 0))

    async def _size(self, guest: Guest) -> Size:
        known = self._sizes.get(guest.name)
        if known is None or known.at_s + KEEP_S < time.monotonic():
            root = os.path.realpath(guest.vdir or "/nonexistent")
            used, inodes = await trio.to_thread.run_sync(_walk, os.fsencode(root))
            known = self._sizes[guest.name] = Size(time.monotonic(), used, inodes)
        return known

    async def _host_side(self, guest: Guest, xid: int | None, size: Size) -> HostSide:
        info, addresses = await self._site.info(), [address.ip for address in guest.addresses]
        root = os.path.realpath(guest.vdir or "/nonexistent")
        by_hand: tuple[live_mounts.LiveMount, ...] = ()
        ports: tuple[tuple[str, int], ...] = ()
        if xid is not None:
            host = Path("/proc/self/mountinfo").read_text()
            by_hand = live_mounts.by_hand(await self._site.mountinfo(xid), host, root, guest.mounts)
            ports = listening.ports(await self._site.processes(xid), addresses)
        return HostSide(
            machine=platform.machine(),
            elf_machine=elf_machine(root),
            vci=info.vci or 0,
            api=info.api or 0,
            tools=info.version,
            devices=tuple(_devices(guest.devices)),
            host_owned={each.with_prefix: each.device for each in lines.host_owned(guest)},
            host_addresses=tuple(sorted({each.ip for each in aliases.on_host()} - set(addresses))),
            rules=await firewall.speaking_of(addresses),
            forwarding=firewall.forwarding(),
            live_mounts=by_hand,
            ports=ports,
            disk_bytes=size.bytes,
            inodes=size.inodes,
            defaults=await self._site.defaults(),
            unhidden=await self._site.unhidden(),
        )

    @staticmethod
    def _notes(guest: Guest, fenced: bool) -> Iterable[str]:
        if fenced:
            yield f"{guest.name} has moved away; this copy is kept and cannot start"
        for script in guest.scripts:
            yield f"{script} runs on the host as root and travels as it is"
        for name in guest.depends:
            yield f"it depends on {name} at boot, which may not be on the target"
        if guest.autostart:
            yield f"it is started at boot (mark {guest.mark}); the mark moves with it"
        yield from guest.problems


def _readable(text: str) -> str:
    """A name that is no UTF-8 cannot be said in a message."""
    return text.encode("utf-8", "backslashreplace").decode()


def _devices(names: Iterable[str]) -> Iterable[Device]:
    there = devices.all_devices()
    for name in names:
        if (found := there.get(name)) is not None:
            yield Device(name, found.kind, found.parent, found.vlan)


def _walk(root: bytes) -> tuple[int, int]:
    """(bytes on disk, inodes) below a directory, across file systems: a file linked twice inside counts once, one that
    is shared with other guests counts in full."""
    used, seen, pending = 0, set[tuple[int, int]](), [root]
    while pending:
        try:
            entries = list(os.scandir(pending.pop()))
        except OSError:
            continue
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                used += found.st_blocks * 512
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
    return used, len(seen)


def elf_machine(root: str) -> int:
    """Machine number of the guest's own programs, elf(5); 0: not to be found."""
    for name in PROGRAMS:
        path = Path(root) / name
        try:
            real = path if not path.is_symlink() else Path(root) / os.readlink(path).lstrip("/")
            head = real.read_bytes()[:20]
        except OSError:
            continue
        if head[:4] == b"\x7fELF":
            order = "<" if head[5] == 1 else ">"
            return int(struct.unpack(f"{order}H", head[18:20])[0])
    return 0
