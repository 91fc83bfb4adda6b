"""Everything that stands against a guest's coming to this host, at once, before anything is touched.

Rule: it is asked of the configuration as it would be here, after all names are mapped; what is only worth knowing is a
waivable objection, so that nobody learns of it afterwards.
"""

import os
import platform
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from agents import shell
from agents.engines.port import Coming
from agents.engines.vserver import clashes, lines, listening, maps, notes, output, words
from agents.engines.vserver.clashes import Clash, Here, Neighbour
from agents.engines.vserver.guest import Guest, read
from agents.engines.vserver.leaving import bound
from agents.engines.vserver.maps import Maps
from agents.engines.vserver.payload import HostSide, Payload, unpack_payload
from agents.engines.vserver.rewrite import HostPaths, Rewritten, rewrite
from agents.engines.vserver.site import Site
from agents.network import aliases, devices
from migrator.wire.facts import Objection
from migrator.wire.faults import FaultCode, fault_error

AUTO_IDS = range(40000, 49152)
"""Where the tools' own counter begins, up to the last static id."""
RUNS_ALSO = {62: (3,), 183: (40,), 21: (20,), 22: (22,)}
"""ELF machine of a 64-bit host -> those of the 32-bit programs that it runs too, elf(5)."""
HOST_ELF = {"x86_64": 62, "i686": 3, "i586": 3, "i386": 3, "aarch64": 183, "armv7l": 40, "ppc64": 21, "s390x": 22}
KERNEL_FEATURES = (
    (1 << 8 | 1 << 9, "breaking of links when a unified file is written"),
    (1 << 10, "namespaces for guests"),
    (1 << 11, "the second version of guest networking"),
    (1 << 12, "memory control groups"),
)


@dataclass(frozen=True, slots=True)
class Expected:
    """A coming guest as it would be here."""

    payload: Payload
    maps: Maps
    paths: HostPaths
    rewritten: Rewritten
    guest: Guest


class Vetting:
    """What this host has against a coming guest."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def expect(self, coming: Coming) -> Expected:
        """The guest with this host's names. Raises ValueError when its description or a name makes no sense."""
        payload = unpack_payload(coming.facts.config)
        paths = await self._site.paths()
        asked = maps.with_names(self._site.maps(), fixed(coming.names), payload.name)
        dummies = tuple(asked.device(each.name) for each in payload.host.devices if each.kind == "dummy")
        asked = replace(asked, dummies=(*asked.dummies, *dummies))
        if coming.names.get(f"context:{payload.name}") == "auto":
            asked = _with_context(asked, payload.name, await self._free_id())
        rewritten = rewrite(payload.tree, payload.name, paths, asked, coming.ve)
        guest = read(coming.ve, f"{paths.configs}/{coming.ve}", rewritten.tree)
        return Expected(payload, asked, paths, rewritten, guest)

    async def _free_id(self) -> int:
        taken = {each.context for each in await self._neighbours()} | {each.nid for each in await self._neighbours()}
        for number in AUTO_IDS:
            if number not in taken and not await self._site.context_exists(number):
                return number
        raise fault_error(FaultCode.CONFLICT, "no context id is free on this host", step="reserve")

    async def objections(self, coming: Coming) -> tuple[Objection, ...]:
        """All of them."""
        try:
            expected = await self.expect(coming)
        except ValueError as error:
            shown = ", ".join(f"{key}={value}" for key, value in sorted(coming.names.items()))
            return (Objection("configuration", f"{error}", f"correct it on the source, or the names: {shown}"),)
        found = list(clashes.clashes(expected.guest, await self._here(expected)))
        found += [each async for each in self._of_host(expected)]
        found += list(_of_machines(expected.payload.host, (await self._site.info()).vci or 0))
        found += list(_of_network(expected))
        found += list(_of_mounts(expected))
        found += list(_of_space(expected))
        return tuple(Objection(each.name, _said(each.what), each.remedy, each.waivable) for each in found)

    # --- this host --------------------------------------------------------------------------------

    async def _here(self, expected: Expected) -> Here:
        guest, info, there = expected.guest, await self._site.info(), devices.all_devices()
        made = {name for name in guest.devices if lines.makeable(name, expected.maps, there)}
        needed = [mount.host_path for mount in guest.mounts] + [limit.directory for limit in guest.disk_limits]
        carried = set(expected.maps.carry.values())
        missing = {path for path in needed if path and path not in carried and not os.path.exists(path)}
        return Here(
            neighbours=await self._neighbours(),
            contexts=await self._in_kernel(guest.context, network=False),
            networks=await self._in_kernel(guest.nid, network=True),
            devices=frozenset(there) | made,
            addresses=frozenset(each.ip for each in aliases.on_host()),
            missing_paths=frozenset(path for path in missing if path),
            missing_kinds=await _missing_kinds(guest),
            known_words=words.KNOWN,
            tagging=await self._site.tags(expected.paths.roots),
            network_v2=bool((info.vci or 0) & output.VCI_NETWORK_V2),
            dynamic_contexts=not (info.vci or 0) & output.VCI_NO_DYNAMIC,
        )

    async def _in_kernel(self, number: int | None, *, network: bool) -> frozenset[int]:
        if number is None:
            return frozenset()
        exists = await (self._site.network_exists(number) if network else self._site.context_exists(number))
        return frozenset([number] if exists else ())

    async def _neighbours(self) -> tuple[Neighbour, ...]:
        """Guests configured here, and those that are on their way here."""
        found = [_neighbour(await self._site.guest(name)) for name in await self._site.names()]
        known = {each.name for each in found}
        for arrival in notes.arrivals():
            if arrival.ve not in known:
                found.append(Neighbour(arrival.ve, arrival.context, arrival.nid, arrival.tag, arrival.addresses_wanted))
        return tuple(found)

    async def _of_host(self, expected: Expected) -> AsyncIterator[Clash]:
        info, guest = await self._site.info(), expected.guest
        if info.api is None:
            yield Clash("kernel", f"the kernel {info.kernel} is no VServer kernel", "boot one")
            return
        if not await self._site.sees_proc():
            what = "guests see nothing of /proc here: vprocunhide has not run"
            yield Clash("vprocunhide", what, "/etc/init.d/vprocunhide start")
        for path in (expected.paths.run, "/var/lock"):
            if not Path(path).is_dir():
                yield Clash("runtime-directory", f"{path} is not here", "/etc/init.d/util-vserver start")
        helper = Path("/proc/sys/kernel/vshelper")
        if helper.exists() and not Path(helper.read_text().strip()).exists():
            what = f"the kernel calls {helper.read_text().strip()}, which is not here"
            yield Clash("vshelper", what, "/etc/init.d/util-vserver start")
        root, own = f"{expected.paths.roots}/{guest.name}", Path(guest.directory)
        for path in (root, str(await self._site.fenced(guest.name))):
            if os.path.lexists(path) and not own.is_dir():
                yield Clash(
                    "leftovers", f"{path} is here, of an earlier guest {guest.name}", f"look at it, then rm -r {path}"
                )
        hidden = sorted(set(expected.payload.host.unhidden) - set(await self._site.unhidden()))
        if hidden:
            what = f"guests here do not see of /proc: {', '.join(hidden[:5])}"
            yield Clash("proc-entries", what, "add them to .defaults/apps/vprocunhide/files", waivable=True)
        there = await self._site.defaults()
        differing = sorted(set(expected.payload.host.defaults.items()) ^ set(there.items()))
        if differing:
            named = ", ".join(dict.fromkeys(path for path, _ in differing))
            what = f"the hosts' defaults for all guests differ: {named}"
            yield Clash("defaults", what, "compare .defaults on both hosts", waivable=True)


def fixed(names: Mapping[str, str]) -> dict[str, str]:
    """The names that say what they mean; `auto` is decided once, when the guest is accepted."""
    return {key: value for key, value in names.items() if value != "auto"}


def _with_context(asked: Maps, guest: str, number: int) -> Maps:
    return replace(asked, guests={**asked.guests, guest: replace(asked.guest(guest), context=number)})


def _neighbour(guest: Guest) -> Neighbour:
    return Neighbour(
        guest.name,
        guest.context,
        guest.nid,
        guest.file_tag,
        tuple(address.ip for address in guest.addresses),
        tuple(address.full_label for address in guest.addresses if address.label),
    )


async def _missing_kinds(guest: Guest) -> frozenset[str]:
    known = {line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines() if line}
    wanted = {mount.kind for mount in guest.mounts if not mount.bind and mount.kind not in ("none", "auto", "swap")}
    missing = wanted - known
    found = {kind for kind in missing if (await shell.run(["modprobe", "-n", "-q", kind], limit_s=10)).ok}
    return frozenset(missing - found)


def _of_machines(host: HostSide, vci: int) -> Iterator[Clash]:
    here = HOST_ELF.get(platform.machine(), 0)
    if host.elf_machine and here and host.elf_machine not in (here, *RUNS_ALSO.get(here, ())):
        what = f"its programs are for ELF machine {host.elf_machine}; a {platform.machine()} does not run them"
        yield Clash("machine", what, f"choose a {host.machine} host")
    lost = [text for bits, text in KERNEL_FEATURES if host.vci & bits and not vci & bits]
    if lost:
        yield Clash("kernel-features", f"this kernel lacks {', '.join(lost)}", "take a newer kernel", waivable=True)


def _of_network(expected: Expected) -> Iterator[Clash]:
    host, asked = expected.payload.host, expected.maps
    for address, device in host.host_owned.items():
        what = f"{address} belongs to the source's own configuration (`nodev`, on {device})"
        remedy = f"it is put on {asked.device(device)} here until the next boot; give it to this host's configuration"
        yield Clash("host-owned-address", what, remedy, waivable=True)
    public = {address for rule in host.rules for address in rule.names} & set(host.host_addresses)
    there = {each.ip for each in aliases.on_host()}
    for address in sorted(public - set(asked.public_addresses) - there):
        what = f"a NAT rule of the source names its own address {address}"
        yield Clash("nat-address", what, f"map it (address:{address})", waivable=True)
    for address, port in listening.taken(host.ports):
        what = f"a program of this host listens at port {port}, so the guest cannot at {address}"
        yield Clash("port-taken", what, "let that program listen at the host's own address only", waivable=True)


def _of_mounts(expected: Expected) -> Iterator[Clash]:
    asked = expected.maps.guest(expected.payload.name)
    for mount in expected.payload.host.live_mounts:
        if mount.target not in (*asked.replay_mounts, *asked.drop_mounts):
            what = f"{mount.source} was mounted at {mount.target} by hand and is in no fstab"
            remedy = f"say whether it is made again (mount:{mount.target} = replay) or not (= drop)"
            yield Clash("live-mount", what, remedy)
    for path, place in expected.maps.carry.items():
        if os.path.isdir(place) and os.listdir(place):
            what = f"{path} is to move to {place}, which is here and not empty"
            yield Clash("carry-target", what, "name a new directory: what is in this one would be removed")
    source = read(expected.payload.name, expected.payload.directory, expected.payload.tree)
    said = {*expected.maps.directories, *expected.maps.carry}
    for path in bound(source):
        if not any(path == each or path.startswith(f"{each}/") for each in said) and os.path.exists(path):
            what = f"{path} of the source is bound into the guest, and there is a {path} here"
            remedy = f"is it the same data? then waive it; else carry:{path} moves it, directory:{path} names another"
            yield Clash("bound-directory", what, remedy, waivable=True)


def _of_space(expected: Expected) -> Iterator[Clash]:
    host, roots = expected.payload.host, expected.paths.roots
    try:
        space = os.statvfs(roots)
    except OSError:
        yield Clash("roots", f"{roots} is not here", f"mkdir {roots}")
        return
    if host.disk_bytes > (free := space.f_bavail * space.f_frsize):
        what = f"{roots} has {free >> 20} MiB, {host.disk_bytes >> 20} MiB are needed (links to a pool do not move)"
        yield Clash("disk", what, "make room")
    if space.f_files and host.inodes > space.f_favail:
        yield Clash("inodes", f"{roots} has {space.f_favail} inodes, {host.inodes} are needed", "make room")
    for limit in expected.guest.disk_limits:
        if 0 <= limit.space_kib * 1024 < host.disk_bytes or 0 <= limit.inodes < host.inodes:
            used = f"{host.disk_bytes >> 10} KiB and {host.inodes} inodes"
            what = f"the disk limit on {limit.directory} ({limit.space_kib} KiB, {limit.inodes} inodes) is below {used}"
            yield Clash("disk-limit", what, "raise the limit on the source, or remove files")


def _said(text: str) -> str:
    """A name that is no UTF-8 cannot be said in a message."""
    return text.encode("utf-8", "backslashreplace").decode()


def taken(objections: Iterable[Objection]) -> tuple[Objection, ...]:
    """Those which say that something the guest must have for itself belongs to somebody else."""
    names = (
        "ve-exists",
        "leftovers",
        "context-id",
        "network-context-id",
        "file-tag",
        "address-taken",
        "lock-name",
        "carry-target",
    )
    return tuple(each for each in objections if each.name in names)
