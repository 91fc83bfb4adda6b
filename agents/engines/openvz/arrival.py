"""A VE's coming to this host: making room, installing what came, and removing exactly what was made.

Rule: what was made is noted before it is made, and only that is ever removed: a file that another put there is never ours.
"""

import contextlib
import os
import shutil
from pathlib import Path

import trio

from agents import shell
from agents.engines.openvz import baggage, check, description, host, lock, marks, output, parameters, rewrite
from agents.engines.openvz.config import Config
from agents.engines.openvz.container import Container
from agents.engines.openvz.description import Description
from agents.engines.openvz.host import Host
from agents.engines.openvz.vzctl import Vzctl, refused
from agents.engines.port import Coming
from agents.network import filters, stations, ve_rules, venet
from migrator.wire.codec import from_plain, to_plain
from migrator.wire.facts import Interface, Mode, VeFacts, VeState
from migrator.wire.faults import FaultCode, fault_error

PROBE_S = 0.3
"""How long an undump's probe waits for answers; it is done beside the undump, which takes longer."""


async def accept(coming: Coming) -> None:
    """Make room. Raises FaultError(CONFLICT); what was made until then is noted, for `remove`."""
    told = description.from_bytes(coming.facts.config)
    config = check.target_config(coming, told.parsed, told)
    _need_room(coming, config)
    one = Container(coming.ve)
    here, values = Host.read(), config.values
    private, root = (here.place(coming.ve, values, key) for key in ("VE_PRIVATE", "VE_ROOT"))
    lock.take(Vzctl(coming.ve).lock_file)
    marks.write(
        coming.ve,
        fenced=True,
        before=config.render().decode(errors="surrogateescape"),
        suspended=coming.facts.state is VeState.SUSPENDED,
        arriving={
            "source": coming.facts.ve,
            "state": coming.facts.state,
            "mode": coming.mode,
            "names": dict(coming.names),
            "told": coming.facts.config.decode(),
            "interfaces": [to_plain(each) for each in coming.facts.interfaces],
            "paths": [str(private), str(root)],
            "name": values.get("NAME", ""),
        },
    )
    one.path.parent.mkdir(parents=True, exist_ok=True)
    marks.write_durably(one.path, rewrite.fenced(config).render(), 0o644)
    private.mkdir(parents=True, exist_ok=True)
    root.mkdir(parents=True, exist_ok=True)
    _link_name(one, values.get("NAME", ""))
    marks.baggage(coming.ve).mkdir(parents=True, exist_ok=True, mode=0o700)
    if coming.facts.state is VeState.SUSPENDED:
        one.dump_tree.mkdir(parents=True, exist_ok=True, mode=0o700)
    for module in await check.lacking_modules(told):
        await shell.run(["modprobe", "-q", module], limit_s=30)
    await _quota_on(coming.ve, values)


def _need_room(coming: Coming, config: Config) -> None:
    ve, values, here = coming.ve, config.values, Host.read()
    one = Container(ve)
    if not output.valid_id(ve):
        raise fault_error(FaultCode.BAD_REQUEST, f"{ve!r} is no id that vzctl takes", step="reserve")
    if one.here:
        raise fault_error(FaultCode.CONFLICT, f"{one.path} is already here", step="reserve")
    for key in ("VE_PRIVATE", "VE_ROOT"):
        path = here.place(ve, values, key)
        if not check.is_own(path, ve):
            raise fault_error(FaultCode.CONFLICT, f"{key} would be {path}, not this VE's alone", step="reserve")
        if path.is_dir() and any(path.iterdir()):
            raise fault_error(FaultCode.CONFLICT, f"{path} is not empty", step="reserve")
    if (other := check.name_holder(values.get("NAME", ""))) and other != ve:
        raise fault_error(FaultCode.CONFLICT, f"the name {values['NAME']} is VE {other}'s here", step="reserve")
    if parameters.layout(values, here.values["VE_LAYOUT"]) != "simfs":
        raise fault_error(FaultCode.BAD_REQUEST, "only VEs with VE_LAYOUT=simfs can come", step="reserve")


def _link_name(one: Container, name: str) -> None:
    """/etc/vz/names/NAME, by which vzctl finds the id."""
    if name and "/" not in name:
        link = host.ETC / "names" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(one.path)


async def _quota_on(ve: str, values: dict[str, str]) -> None:
    """Counting begins with the empty private area, so that the blackout does not pay for a walk."""
    if (values.get("DISK_QUOTA") or Host.read().values["DISK_QUOTA"]) != "yes":
        return
    for verb in ("quotainit", "quotaon"):
        ran = await Vzctl(ve)(verb, limit_s=600)
        if not ran.ok and ran.status not in output.Code.QUOTA_OFF:
            raise refused(ran, "reserve", f"disk quota of VE {ve}")


async def settle(ve: str) -> None:
    """Config, scripts, quotas and rules as they came last. Raises FaultError."""
    noted = marks.read(ve)
    if not noted.arriving:
        raise fault_error(FaultCode.CONFLICT, f"VE {ve} is not on its way here", step="arrange")
    one = Container(ve)
    if (came := baggage.config(ve)) is not None:
        config = check.target_config(_coming(ve, noted), came, _told(noted))
        marks.write(ve, before=config.render().decode(errors="surrogateescape"))
        marks.write_durably(one.path, rewrite.fenced(config).render(), 0o644)
        baggage.install_scripts(one)
    await baggage.load_quota(ve)
    await _add_rules(ve)


async def _add_rules(ve: str) -> None:
    names = _names(ve)
    wanted = [ve_rules.mapped(rule, names) for rule in baggage.rules_of(ve)]
    marks.write(ve, rules=[rule.plain() for rule in wanted])
    await filters.add(wanted)


def _names(ve: str) -> dict[str, str]:
    """Host-side interfaces and bridges of the source, and what they are here."""
    noted = marks.read(ve)
    before = parameters.netifs(_told(noted).parsed.get("NETIF"))
    after = parameters.netifs(Container(ve).config.get("NETIF"))
    found: dict[str, str] = {}
    for old, new in zip(before, after, strict=False):
        found[old.host_ifname(noted.arriving["source"])] = new.host_ifname(ve)
        found[old.get("bridge")] = new.get("bridge")
    return {old: new for old, new in found.items() if old and old != new}


def _told(noted: marks.Marks) -> Description:
    return description.from_bytes(noted.arriving["told"].encode())


def _coming(ve: str, noted: marks.Marks) -> Coming:
    came = noted.arriving
    facts = VeFacts(came["source"], "openvz", VeState(came["state"]), config=came["told"].encode())
    return Coming(facts, ve, Mode(came["mode"]), came["names"])


def interfaces(ve: str) -> tuple[Interface, ...]:
    """The VE's interfaces with the addresses inside; those it came with, where they cannot be seen now."""
    now = Container(ve).interfaces(Container(ve).config.values)
    came = [from_plain(plain, Interface) for plain in marks.read(ve).arriving.get("interfaces", [])]
    known = {each.name: each.addresses for each in came}
    return tuple(
        each
        if each.addresses
        else Interface(
            each.name, each.mac, each.host_name, each.bridge, each.mtu, known.get(each.name, ()), each.routes
        )
        for each in now
    )


async def probe_neighbours(ve: str, answers: dict[str, set[str]]) -> None:
    """Who else answers for the VE's addresses, into `answers`."""
    here = Host.read()
    addresses = [address.partition("/")[0] for each in interfaces(ve) for address in each.addresses]
    if addresses and here.values.get("SKIP_ARPDETECT") != "yes":
        devices = check.probe_devices(here, Container(ve).config.values)
        answers.update(await stations.answering(addresses, devices, PROBE_S))


async def remove(ve: str) -> None:
    """All that `accept` and what followed made; the VE has no process and is not mounted."""
    noted, one, here = marks.read(ve), Container(ve), Host.read()
    await filters.remove([ve_rules.from_plain(plain) for plain in noted.rules])
    values = one.config.values
    await trio.to_thread.run_sync(venet.withdraw, parameters.venet_addresses(values))
    if (values.get("DISK_QUOTA") or here.values["DISK_QUOTA"]) == "yes" and one.here:
        await Vzctl(ve)("quotaoff", limit_s=600)
        await shell.run(["vzquota", "drop", ve], limit_s=600)
    for path in (Path(each) for each in noted.arriving.get("paths", [])):
        if check.is_own(path, ve) and not os.path.ismount(path):
            await trio.to_thread.run_sync(_remove_tree, path)
    for kind in one.scripts:
        one.script(kind).unlink(missing_ok=True)
    link = host.ETC / "names" / (noted.arriving.get("name") or "-")
    if link.is_symlink() and Path(os.readlink(link)) == one.path:
        link.unlink()
    for path in (one.dump, one.kept_dump, one.dump_tree):
        await trio.to_thread.run_sync(_remove_tree, path)
    for path in (one.path, marks.unwritten(one.path)):
        path.unlink(missing_ok=True)
    marks.forget(ve)


def _remove_tree(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


# --- what the source says in words --------------------------------------------------------------------


def blockers(values: dict[str, str]) -> tuple[str, ...]:
    """What a checkpoint would refuse, as far as it can be told beforehand."""
    found = []
    if (kind := parameters.layout(values, Host.read().values["VE_LAYOUT"])) != "simfs":
        found.append(f"VE_LAYOUT is {kind}: only simfs can be moved yet")
    if host.openvz_kernel() and Path("/proc/vz").is_dir() and not Path("/proc/cpt").exists():
        found.append("/proc/cpt is not there: modprobe vzcpt vzrst")
    return tuple(found)


def notes(one: Container, config: Config) -> tuple[str, ...]:
    """What an operator should know before the VE is moved."""
    found = []
    if odd := parameters.unknown(config.values):
        found.append(f"parameters that are carried without being understood: {', '.join(odd)}")
    if config.duplicates:
        found.append(f"set more than once, the first counts: {', '.join(config.duplicates)}")
    if one.scripts:
        found.append(f"action scripts move with it: {', '.join(one.scripts)}")
    if one.bound:
        found.append(f"its mount scripts bind host directories that do not move: {', '.join(one.bound)}")
    if config.get("NAME"):
        found.append(f"its name is {config.get('NAME')}")
    return tuple(found)
