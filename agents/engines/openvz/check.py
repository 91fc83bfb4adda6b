"""What stands against a VE's coming to this host that only this engine knows: all of it at once.

Rule: each objection names what was found and what to do; it may be waived where the worst that follows is a failed,
undone migration. What nobody could compare is not an objection unless a VE was harmed by it in the field.
"""

import ipaddress
import os
import re
import shutil
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agents.engines.openvz import baggage, description, host, lock, parameters, rewrite
from agents.engines.openvz.config import Config
from agents.engines.openvz.container import Container
from agents.engines.openvz.description import Description
from agents.engines.openvz.host import Host
from agents.engines.openvz.output import Dialect, valid_id
from agents.engines.port import Coming
from agents.network import filters, links, stations, ve_rules, venet
from migrator.wire.facts import Mode, Objection, VeState

FEATURE_MODULES = {"nfs": "nfs", "nfsd": "nfsd", "ppp": "ppp_generic", "sit": "sit", "ipip": "ipip", "ipgre": "ip_gre"}
NETFILTER_MODULES = {
    "stateless": ("ip_tables", "iptable_filter", "iptable_mangle"),
    "stateful": ("ip_tables", "iptable_filter", "iptable_mangle", "nf_conntrack"),
    "full": ("ip_tables", "iptable_filter", "iptable_mangle", "nf_conntrack", "iptable_nat"),
}
PROBE_S = 0.6


@dataclass(frozen=True, slots=True)
class Case:
    """A VE, as it would be here."""

    coming: Coming
    told: Description
    config: Config
    """As it would be written here."""
    here: Host
    around: description.Surroundings
    capabilities: int | None
    """vzcptcheck's bits of this host."""

    @property
    def values(self) -> dict[str, str]:
        """Of the config."""
        return self.config.values

    @property
    def one(self) -> Container:
        """The VE here."""
        return Container(self.coming.ve)

    @property
    def private(self) -> Path:
        """Its private area here."""
        return self.here.place(self.coming.ve, self.values, "VE_PRIVATE")

    @property
    def root(self) -> Path:
        """Its mount point here."""
        return self.here.place(self.coming.ve, self.values, "VE_ROOT")

    @property
    def coming_names(self) -> dict[str, str]:
        """Names of the source's interfaces and bridges that are others here."""
        found = {}
        for before, one in zip(
            parameters.netifs(self.told.parsed.get("NETIF")),
            parameters.netifs(self.values.get("NETIF", "")),
            strict=True,
        ):
            found[before.host_ifname(self.coming.facts.ve)] = one.host_ifname(self.coming.ve)
            found[before.get("bridge")] = one.get("bridge")
        return {old: new for old, new in found.items() if old and old != new}

    @property
    def with_memory(self) -> bool:
        """Whether a checkpoint comes along."""
        return self.coming.mode is Mode.LIVE or self.coming.facts.state is VeState.SUSPENDED


def target_config(coming: Coming, config: Config, told: Description) -> Config:
    """The config for this host, without the fence."""
    around = told.surroundings
    source = rewrite.Defaults(around.root, around.private)
    return rewrite.for_target(config, coming.facts.ve, coming.ve, source, Host.read().defaults, coming.name)


async def vet(coming: Coming) -> list[Objection]:
    """Every objection."""
    told = description.from_bytes(coming.facts.config)
    config = target_config(coming, told.parsed, told)
    around = await description.surroundings()
    capabilities = await host.cpu_capabilities() if around.openvz_kernel else None
    case = Case(coming, told, config, Host.read(), around, capabilities)
    checks: tuple[Callable[[Case], Iterable[Objection] | Awaitable[Iterable[Objection]]], ...] = (
        _identity, _places, _layout, _checkpoint, _modules, _mounts, _addresses, _bridges, _devices, _limits, _quota,
        _space, _rules, _scripts,
    )  # fmt: skip
    found: list[Objection] = []
    for check in checks:
        outcome = check(case)
        found += outcome if isinstance(outcome, Iterable) else await outcome
    return found


def _identity(case: Case) -> Iterator[Objection]:
    ve, one = case.coming.ve, case.one
    if not valid_id(ve):
        yield Objection("ve-id", f"{ve!r} is no id that vzctl takes", "choose a number from 101 to 2147483644")
        return
    if ve.isdigit() and int(ve) <= 100:
        yield Objection("ve-id-reserved", f"ids up to 100 are reserved by OpenVZ, {ve} too", "choose another id", True)
    if one.here:
        yield Objection(
            "ve-exists", f"{one.path} is there already", f"move it under another id, or remove VE {ve} here"
        )
    if pid := lock.owner(case.here.lock_directory / f"{ve}.lck"):
        yield Objection("ve-locked", f"VE {ve} is locked here by process {pid}", "wait for it, or end what it does")
    name = case.values.get("NAME", "")
    if name and (other := name_holder(name)) and other != ve:
        yield Objection(
            "name-taken", f"the name {name} is VE {other}'s here", f"vzctl set {other} --name OTHER --save on this host"
        )


def name_holder(name: str) -> str:
    """The VE that has this name here; empty: nobody."""
    link = host.ETC / "names" / name
    if not name:
        return ""
    if "/" not in name and link.is_symlink():
        return Path(os.readlink(link)).stem
    return next((ve for ve in host.identifiers() if Container(ve).config.get("NAME") == name), "")


def _places(case: Case) -> Iterator[Objection]:
    for path, what in ((case.private, "private area"), (case.root, "mount point")):
        if not is_own(path, case.coming.ve):
            yield Objection(
                "shared-directory",
                f"the {what} would be {path}, which is not this VE's alone",
                "set it to a path with its id",
            )
        elif path.is_dir() and any(path.iterdir()):
            yield Objection("directory-taken", f"{path} is not empty", "move it away, or map it with path:OLD = NEW")
        elif not path.parent.is_dir():
            yield Objection(
                "directory-missing",
                f"{path.parent} does not exist",
                f"mkdir -p {path.parent}, or map path:{path} to another",
            )


def is_own(path: Path, ve: str) -> bool:
    """Whether a directory can be one VE's alone: deep enough, and named after it. It will be removed with the VE."""
    return (
        path.is_absolute() and len(path.parts) >= 3 and ve in re.split(r"[^\w-]+", path.name) and ".." not in path.parts
    )


def _layout(case: Case) -> Iterator[Objection]:
    kind = parameters.layout(case.told.parsed.values)
    if kind != "simfs":
        why = "its file system is a disk image that only ploop's own tools can move" if kind == "ploop" else "unknown"
        yield Objection(
            f"layout-{kind}",
            f"VE_LAYOUT is {kind}: {why}",
            "convert it to simfs (a new VE and vzctl's copy of its files)",
        )
    elif parameters.layout(case.values, case.here.values["VE_LAYOUT"]) != "simfs" and "VE_LAYOUT" not in case.values:
        yield Objection(
            "layout-default",
            f"the VE's config names no VE_LAYOUT and this host's default is {case.here.values['VE_LAYOUT']}",
            "vzctl set --layout simfs --save on the source",
        )
    for key in ("NETDEV", "PCI"):
        if case.values.get(key, "").strip():
            yield Objection(
                "host-device",
                f"{key}={case.values[key]} is a device of the source host",
                f"take {key} out of its config",
            )


def _checkpoint(case: Case) -> Iterator[Objection]:
    there, here = case.told.surroundings, case.around
    if not case.with_memory:
        return
    if there.dialect != here.dialect:
        yield Objection(
            "checkpoint-kind",
            f"the source makes checkpoints as `{there.dialect}` ({there.version}), this host as `{here.dialect}`",
            "move it by stop-copy, or between hosts of one kind",
        )
    elif _older(here.checkpoint, there.checkpoint):
        yield Objection(
            "checkpoint-version",
            f"the source's checkpoints have version {there.checkpoint}, this host takes up to {here.checkpoint}",
            "upgrade this host's kernel and tools, or move it by stop-copy",
        )
    elif there.openvz_kernel and not (there.checkpoint and here.checkpoint):
        side = "this host" if there.checkpoint else "the source"
        yield Objection(
            "checkpoint-version-unknown", f"vzcptcheck tells no version on {side}", "install vzcptcheck", True
        )
    yield from _capabilities(case)
    if here.dialect == Dialect.KERNEL and Path("/proc/vz").is_dir() and not Path("/proc/rst").exists():
        yield Objection("restore-module", "/proc/rst is not there: vzrst is not loaded", "modprobe vzcpt vzrst")


def _older(here: str, there: str) -> bool:
    def parts(text: str) -> list[int]:
        return [int(word) for word in re.findall(r"\d+", text)]

    return bool(here and there) and parts(here) < parts(there)


def _capabilities(case: Case) -> Iterator[Objection]:
    needs, has = case.told.capabilities, case.capabilities
    if needs is None or has is None:
        return
    lacking = [bit for bit in range(needs.bit_length()) if needs & ~has & 1 << bit]
    if lacking:
        yield Objection(
            "cpu-capabilities",
            f"the VE may use CPU capabilities that this host lacks: vzcptcheck bits {', '.join(map(str, lacking))} "
            f"(needs {needs:#x}, here {has:#x})",
            "move it by stop-copy, or to a host whose CPU has these features",
        )


def needed_modules(told: Description) -> tuple[str, ...]:
    """Kernel modules without which the VE would not start or not be restored: of its own parameters, and netfilter's
    that are loaded at its source and may be in its memory image."""
    values = told.parsed.values
    wanted = [*values.get("IPTABLES", "").split(), *NETFILTER_MODULES.get(values.get("NETFILTER", ""), ())]
    wanted += [
        FEATURE_MODULES[name]
        for name, on in parameters.switches(values.get("FEATURES", "")).items()
        if on and name in FEATURE_MODULES
    ]
    if any(device.name == "net/tun" for device in parameters.devnodes(values.get("DEVNODES", ""))):
        wanted.append("tun")
    at_source = set(told.surroundings.modules)
    wanted += [name for name in at_source if host.NETFILTER_MODULES.match(name)]
    if "ipv6" in at_source:
        wanted.append("ipv6")
    return tuple(sorted(set(wanted)))


async def lacking_modules(told: Description) -> tuple[str, ...]:
    """Of the needed ones, those that are not loaded here although the source has them."""
    there, here = set(told.surroundings.modules), set(host.loaded_modules())
    return tuple(name for name in needed_modules(told) if name in there and name not in here)


async def _modules(case: Case) -> list[Objection]:
    lacking = [name for name in await lacking_modules(case.told) if not await host.can_load(name)]
    if not lacking:
        return []
    evidence = f"kernel modules that the source has are not loaded here and cannot be: {', '.join(lacking)}"
    return [Objection("kernel-modules", evidence, f"install them here; modprobe -a {' '.join(lacking)}", True)]


def _mounts(case: Case) -> Iterator[Objection]:
    for path in case.told.bound:
        if not Path(case.coming.name("path", path)).is_dir():
            yield Objection(
                "bind-mount",
                f"a mount script of the VE binds {path}, which is not a directory here",
                f"make {path} available here, or map it with path:{path}",
            )
    for point, kind, source in case.told.mounts:
        if kind in ("nfs", "nfs4"):
            yield Objection(
                "nfs-mount", f"{point} is NFS from {source}", "unmount it, or make sure this host may mount it", True
            )
        elif not case.told.bound:
            yield Objection(
                "foreign-mount",
                f"{point} ({kind}, {source}) is mounted into the VE at the source by no script of its own; it does not move",
                "unmount it, or mount it from a mount script",
                True,
            )


async def _addresses(case: Case) -> list[Objection]:
    addresses = [each.partition("/")[0] for each in case.coming.facts.addresses]
    if not addresses:
        return []
    found = [
        Objection(
            "address-in-use", f"{address} is VE {other}'s here", f"vzctl set {other} --ipdel {address} --save here"
        )
        for other in host.identifiers()
        if other != case.coming.ve
        for address in set(addresses) & set(parameters.venet_addresses(Container(other).config.values))
    ]
    own = set(links.addresses()) | set(venet.here(addresses))
    found += [
        Objection("address-in-use", f"{address} is in use on this host", "take it off this host")
        for address in sorted({str(ipaddress.ip_address(each)) for each in addresses} & own)
    ]
    return found + await _elsewhere(case, addresses)


async def _elsewhere(case: Case, addresses: list[str]) -> list[Objection]:
    """A running VE's address is answered for by itself or its source; every other station is somebody else."""
    if case.here.values.get("SKIP_ARPDETECT") == "yes":
        return []
    own = {each.mac for each in case.coming.facts.interfaces} | set(case.told.surroundings.macs)
    expected = own if case.coming.facts.state in (VeState.RUNNING, VeState.FROZEN) else set()
    answers = await stations.answering(addresses, probe_devices(case.here, case.values), PROBE_S)
    return [
        Objection(
            "address-elsewhere",
            f"{address} is answered for by {', '.join(sorted(macs - expected))}, which is not the VE's source",
            "find out who holds it; SKIP_ARPDETECT=yes in vz.conf where a router answers for every address",
            True,
        )
        for address, macs in sorted(answers.items())
        if macs - expected
    ]


def probe_devices(here: Host, values: dict[str, str]) -> dict[str, str]:
    """Device -> hardware address: where neighbours of the VE's addresses are."""
    found = {each.name: each.mac for each in venet.neighbour_devices(here.values.get("NEIGHBOUR_DEVS", ""))}
    for one in parameters.netifs(values.get("NETIF", "")):
        address = Path("/sys/class/net", one.get("bridge") or "-", "address")
        if address.exists():
            found[one.get("bridge")] = address.read_text().strip()
    return found


def _bridges(case: Case) -> Iterator[Objection]:
    for before, one in zip(
        parameters.netifs(case.told.parsed.get("NETIF")), parameters.netifs(case.values.get("NETIF", "")), strict=True
    ):
        bridge, outer = one.get("bridge"), one.host_ifname(case.coming.ve)
        if bridge and not Path("/sys/class/net", bridge, "bridge").is_dir():
            called = "" if bridge == before.get("bridge") else f" (the source's {before.get('bridge')})"
            yield Objection(
                "bridge-missing",
                f"{one.ifname} belongs on bridge {bridge}{called}, which is not here",
                f"make it, or map bridge:{before.get('bridge')} to one of this host's",
            )
        if Path("/sys/class/net", outer).exists():
            yield Objection(
                "interface-taken", f"a host interface {outer} is here already", f"ip link delete {outer}, or rename it"
            )


def _devices(case: Case) -> Iterator[Objection]:
    for device in parameters.devnodes(case.values.get("DEVNODES", "")):
        there, here = case.told.devices.get(device.name), description.node(device.name)
        if here is None:
            yield Objection(
                "device-missing",
                f"/dev/{device.name} is not here",
                "make it: mknod, or load its driver; or take it out of DEVNODES",
            )
        elif there is not None and tuple(there) != here:
            yield Objection(
                "device-number",
                f"/dev/{device.name} is {here[0]}:{here[1]}:{here[2]} here and {there[0]}:{there[1]}:{there[2]} at the source",
                "give it the same number",
            )
    capabilities = parameters.switches(case.values.get("CAPABILITY", ""))
    if odd := sorted(name for name in capabilities if not re.fullmatch(r"[A-Za-z_]+", name)):
        yield Objection(
            "capability-unknown", f"CAPABILITY names {', '.join(odd)}", "correct it in the VE's config", True
        )


def _limits(case: Case) -> Iterator[Objection]:
    for key, top in (("CPUMASK", "/sys/devices/system/cpu/online"), ("NODEMASK", "/sys/devices/system/node/online")):
        try:
            wanted, online = parameters.numbers_list(case.values.get(key, "")), Path(top).read_text().strip()
            lacking = set(wanted) - set(parameters.numbers_list(online))
        except (OSError, ValueError):
            continue
        if lacking:
            yield Objection(
                key.lower(),
                f"{key}={case.values[key]}, and this host has {online}",
                f"vzctl set --{key.lower()} all --save",
            )
    if parameters.is_vswap(case.values) and case.told.surroundings.openvz_kernel and not case.around.openvz_kernel:
        yield Objection(
            "vswap",
            "the VE's memory limits need a kernel with vswap, and this one is no OpenVZ kernel",
            "reduce them",
            True,
        )
    unreadable = []
    for key, text in case.values.items():
        if parameters.classify(key)[0] is parameters.Kind.UBC and key != "VM_OVERCOMMIT":
            try:
                parameters.pair(text, parameters.PAGE_BYTES)
            except ValueError:
                unreadable.append(f"{key}={text}")
    if unreadable:
        yield Objection("limit-unreadable", f"vzctl would not take {', '.join(unreadable)}", "correct them", True)
    if case.values.get("LOCAL_UID") and case.around.openvz_kernel:
        evidence = "LOCAL_UID names a user namespace, which only vzctl on an ordinary kernel makes"
        yield Objection("local-uid", evidence, "take it out of the VE's config", True)


def _quota(case: Case) -> Iterator[Objection]:
    asked = case.values.get("DISK_QUOTA") or ("yes" if case.told.surroundings.quota else "no")
    if asked == "yes" and case.here.values["DISK_QUOTA"] != "yes":
        yield Objection(
            "disk-quota",
            "the VE's disk is limited at the source, and this host's vz.conf says DISK_QUOTA=no",
            "set DISK_QUOTA=yes here, or go on without the limit",
            True,
        )
    if baggage.second_level(case.values, quota=case.told.surroundings.quota):
        lacking = [tool for tool in ("vzdqload", "vzquota") if shutil.which(tool) is None]
        if lacking:
            evidence = f"users inside have quotas, and {', '.join(lacking)} is not here"
            yield Objection("user-quota", evidence, "install vzquota on this host")


def _space(case: Case) -> Iterator[Objection]:
    needs = case.coming.facts.disk_bytes
    free, inodes = _free(case.private)
    if needs > free:
        yield Objection("private-space", f"{case.private} needs {needs} bytes, and {free} are free there", "make room")
    wanted = parameters.quota_inodes(case.values)
    if inodes is not None and inodes < min(wanted or 1, 1000):
        yield Objection("private-inodes", f"{inodes} inodes are free where {case.private} would be", "make room", True)
    limit = parameters.quota_bytes(case.values)
    if limit and limit > free and needs <= free:
        evidence = f"the VE may grow to {limit} bytes, and {free} are free where {case.private} would be"
        yield Objection("private-growth", evidence, "make room, or lower DISKSPACE", True)
    dump = case.told.dump_bytes if case.coming.facts.state is VeState.SUSPENDED else 0
    if case.coming.mode is Mode.LIVE and case.around.dialect != Dialect.KERNEL:
        dump = case.coming.facts.memory_bytes
    room, _ = _free(case.here.dump_directory)
    if dump > room:
        where = case.here.dump_directory
        yield Objection(
            "dump-space", f"{where} needs {dump} bytes for the dump, and {room} are free there", "make room"
        )


def _free(path: Path) -> tuple[int, int | None]:
    """Bytes and inodes free where a path is or would be; None: that file system has no fixed number of inodes."""
    while not path.exists():
        path = path.parent
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None


async def _rules(case: Case) -> list[Objection]:
    moving = [ve_rules.mapped(ve_rules.from_plain(each), case.coming_names) for each in case.told.rules]
    lacking = await filters.lacking(moving)
    if not lacking:
        return []
    where = ", ".join(sorted({rule.where for rule in lacking}))
    return [
        Objection("firewall-chain", f"rules of the VE belong into chains that are not here: {where}", "make them", True)
    ]


def _scripts(case: Case) -> Iterator[Objection]:
    here = set(case.around.scripts)
    if lacking := sorted(set(case.told.surroundings.scripts) - here):
        evidence = f"the source runs {', '.join(lacking)} for every VE, and this host does not have them"
        yield Objection("host-scripts", evidence, "copy them here if the VE needs what they do", True)
