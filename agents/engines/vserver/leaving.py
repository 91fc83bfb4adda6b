"""A guest that leaves this host: its trees, what is written down for the target, its fence, and its removal.

Rule: nothing of the guest's is removed before it certainly runs elsewhere; its configuration is renamed first, which is
durable and keeps every tool from starting it, and removed only with the rest.
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import trio

from agents.engines.port import Tree
from agents.engines.vserver import disk, lines, live_mounts, output, tools
from agents.engines.vserver.fstab import Mount
from agents.engines.vserver.guest import Guest, read
from agents.engines.vserver.notes import Notes
from agents.engines.vserver.output import Marked
from agents.engines.vserver.power import Power
from agents.engines.vserver.rewrite import MARK
from agents.engines.vserver.site import Site
from agents.network import firewall
from agents.shell import failed
from migrator.wire.faults import FaultCode, fault_error

REBOOTS_OFF = "apps/vshelper/disabled"
WALK_LIMIT_S = 3600.0


class Leaving:
    """The source's side."""

    def __init__(self, site: Site, power: Power) -> None:
        self._site, self._power = site, power

    # --- trees ------------------------------------------------------------------------------------

    def trees_now(self, ve: str) -> tuple[Tree, ...]:
        """The trees of a guest that is configured here; none when it is not."""
        place = self._site.place_now(ve)
        if place is None:
            return ()
        directory = place.with_name(ve)
        return self.trees(read(ve, str(directory), disk.read(place)), place)

    def trees(self, guest: Guest, place: Path) -> tuple[Tree, ...]:
        """Configuration, root, each file system below it, what is bound into it, package data, and our notes."""
        root = Path(os.path.realpath(guest.vdir))
        inner = live_mounts.nested(Path("/proc/self/mountinfo").read_text(), str(root))
        found = [
            Tree("config", place, (f"/{MARK}",)),
            Tree("carry", Notes(guest.name).carry),
            Tree("root", root, tuple(pattern(path) for path in inner)),
        ]
        for path in inner:
            below = tuple(pattern(each.removeprefix(path)) for each in inner if each.startswith(f"{path}/"))
            found.append(Tree(f"root:{path}", Path(f"{root}{path}"), below))
        found += [Tree(f"bind:{path}", Path(path)) for path in bound(guest) if Path(path).is_dir()]
        if guest.external_packages:
            found.append(Tree("packages", Path(os.path.realpath(guest.external_packages))))
        return tuple(found)

    # --- fence ------------------------------------------------------------------------------------

    async def fence(self, ve: str) -> None:
        """Lock held, boot mark gone, restarts by the guest itself off; durable. Raises FaultError."""
        notes, directory = Notes(ve), await self._site.directory(ve)
        tree = await self._site.tree(ve)
        if not directory.is_dir():
            reason = f"{ve} has moved away from here; what is left is a copy that must not start"
            raise fault_error(FaultCode.CONFLICT, reason, step="fence")
        await self._power.lock(ve)
        if notes.carried is None:
            notes.carry_on(mark=tree.value(MARK) or "", reboots_off=tree.has(REBOOTS_OFF))
        disk.put(directory / REBOOTS_OFF, b"")
        disk.remove(directory / MARK)

    async def unfence(self, ve: str) -> None:
        """As it was before `fence`; nothing is noted any more."""
        notes, directory = Notes(ve), await self._site.directory(ve)
        if (carried := notes.carried) is not None and directory.is_dir():
            if not carried.reboots_off:
                disk.remove(directory / REBOOTS_OFF)
            if carried.mark:
                disk.put(directory / MARK, f"{carried.mark}\n".encode())
        self._power.unlock(ve)
        notes.forget()

    # --- what rsync does not carry ----------------------------------------------------------------

    async def note(self, guest: Guest) -> None:
        """Attributes, tags, host rules; and no address of it is left on any device. Raises FaultError."""
        root = os.path.realpath(guest.vdir)
        owned, left = lines.host_owned(guest), lines.present(guest)
        marked, foreign = await self._attributes(root), await self._foreign_tags(root, guest.file_tag)
        rules = await firewall.speaking_of([address.ip for address in guest.addresses])
        notes = Notes(guest.name)
        earlier = notes.carried
        notes.carry_on(
            marked=marked,
            foreign_tags=foreign,
            rules=rules,
            forwarding=firewall.forwarding(),
            host_owned=owned or (earlier.host_owned if earlier is not None else ()),
        )
        if left:
            notes.taken_off = tuple(dict.fromkeys((*notes.taken_off, *owned)))
            lines.take_off(left)
        if still := lines.present(guest):
            named = ", ".join(f"{each.with_prefix} on {each.device}" for each in still)
            raise fault_error(FaultCode.TOOL_FAILED, f"{named} cannot be taken off this host", step="note")

    async def _attributes(self, root: str) -> tuple[Marked, ...]:
        """Of every file below the root, names relative to it."""
        ran = await tools.run("showattr", "-R", root, limit_s=WALK_LIMIT_S)
        if ran.status is None:
            raise failed(ran, "note")
        found = output.attributes(ran.stdout, root)
        return tuple(
            Marked(os.path.relpath(each.path, root), each.barrier, each.iunlink, each.immutable, each.cow)
            for each in found
        )

    async def _foreign_tags(self, root: str, tag: int | None) -> int:
        """How many files carry another guest's tag; they get this guest's on the target."""
        if tag is None or not await self._site.tags(root):
            return 0
        ran = await tools.run("lsxid", "-R", "-n", root, limit_s=WALK_LIMIT_S)
        found = re.findall(rf"^ *(\d+)  {re.escape(root)}(?:/|$)", ran.stdout, re.MULTILINE)
        return sum(1 for number in found if int(number) not in (0, tag))

    # --- gone -------------------------------------------------------------------------------------

    async def discard(self, ve: str) -> None:
        """It runs elsewhere: its configuration can start no more, and the host's rules for it are gone."""
        directory, fenced = await self._site.directory(ve), await self._site.fenced(ve)
        if directory.is_dir():
            if await self._site.running(ve):
                reason = f"{ve} runs on this host although it was given away; stop it where it is not wanted"
                raise fault_error(FaultCode.CONFLICT, reason, step="discard")
            if fenced.is_dir():
                shutil.rmtree(fenced)  # an older copy that was kept
            directory.rename(fenced)
            disk.sync(fenced.parent)
        self._power.unlock(ve)
        if (carried := Notes(ve).carried) is not None:
            await firewall.remove(carried.rules)
            Notes(ve).forget()

    async def destroy(self, ve: str) -> None:
        """Root, package data, cache, configuration: everything. Raises FaultError(CONFLICT) before it removes anything
        if it runs or something is mounted below its root."""
        place = await self._site.place(ve)
        if place is None:
            Notes(ve).forget()
            return
        await self.discard(ve)
        guest = await self._site.guest(ve)
        fenced = await self._site.fenced(ve)
        root = os.path.realpath(guest.vdir) if guest.vdir else ""
        await remove_tree(Path(root) if root else None)
        if guest.external_packages:
            await remove_tree(Path(os.path.realpath(guest.external_packages)))
        for link in ("cache", "run"):
            await remove_tree(_behind(fenced / link))
        await remove_tree(fenced)
        Notes(ve).forget()


def bound(guest: Guest) -> tuple[str, ...]:
    """Host directories bound into the guest from outside its root, each once."""
    root = os.path.realpath(guest.vdir)
    outside = (mount.host_path for mount in guest.mounts if _is_outside(mount, root))
    return tuple(dict.fromkeys(path for path in outside if path))


def _is_outside(mount: Mount, root: str) -> bool:
    return bool(mount.bind and mount.host_path and not f"{mount.host_path}/".startswith(f"{root}/"))


def pattern(path: str) -> str:
    """A path as a pattern of rsync's that means nothing but itself."""
    return re.sub(r"([*?\[\\])", r"\\\1", path)


def _behind(link: Path) -> Path | None:
    """Where a link of a configuration leads, if it leads out of it to something that is there."""
    if not link.is_symlink():
        return None
    target = Path(os.path.realpath(link))
    return target if target.exists() and str(target).count("/") > 2 else None


async def remove_tree(path: Path | None) -> None:
    """A directory or file, and nothing that is mounted below it. Raises FaultError(CONFLICT) when something is."""
    if path is None or not os.path.lexists(path):
        return
    if mounted := tuple(_mounted_below(str(path))):
        reason = f"{', '.join(mounted)} is mounted below {path}; unmount it first, then try again"
        raise fault_error(FaultCode.CONFLICT, reason, step="remove")
    if path.is_dir() and not path.is_symlink():
        # Attributes that keep a file from being removed; where there are none, this does nothing.
        await tools.run("setattr", "-R", "--~iunlink", str(path), limit_s=WALK_LIMIT_S)
        await trio.to_thread.run_sync(shutil.rmtree, path)
    else:
        path.unlink()
    disk.sync(path.parent)


def _mounted_below(path: str) -> Iterator[str]:
    for entry in live_mounts.entries(Path("/proc/self/mountinfo").read_text()):
        if entry.target == path or entry.target.startswith(f"{path}/"):
            yield entry.target
