"""A guest that comes to this host: room for it, its configuration as it is here, what rsync could not carry, its undoing.

Rule: what is made is written down before it is made, and `drop` removes that and nothing else. The configuration appears
in its place only when all files are here, and without boot mark: until the guest is this host's, nothing starts it.
"""

import base64
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import trio

from agents import remarks
from agents.engines.port import Coming, Tree
from agents.engines.vserver import disk, lines, output, retag, tools
from agents.engines.vserver.guest import Guest, read
from agents.engines.vserver.leaving import REBOOTS_OFF, WALK_LIMIT_S, remove_tree
from agents.engines.vserver.maps import Maps, with_names
from agents.engines.vserver.notes import BASE, Arrival, Carried, Notes
from agents.engines.vserver.output import Marked
from agents.engines.vserver.payload import Payload, unpack_payload
from agents.engines.vserver.power import Power
from agents.engines.vserver.rewrite import MARK, rewrite
from agents.engines.vserver.site import Site
from agents.engines.vserver.tree import Tree as Files
from agents.engines.vserver.vetting import Expected, Vetting, fixed, taken
from agents.network import devices, firewall, probe, rules
from agents.shell import Ran, failed
from migrator.wire.faults import FaultCode, fault_error


class Arriving:
    """The target's side."""

    def __init__(self, site: Site, power: Power, vetting: Vetting) -> None:
        self._site, self._power, self._vetting = site, power, vetting

    # --- accept -----------------------------------------------------------------------------------

    async def accept(self, coming: Coming) -> tuple[Tree, ...]:
        """Directories for everything that comes; its ids are reserved from now on. Raises FaultError(CONFLICT)."""
        if Notes(coming.ve).arrival is not None:
            return _trees(coming.ve)
        try:
            expected = await self._vetting.expect(coming)
        except ValueError as error:
            raise fault_error(FaultCode.BAD_REQUEST, str(error), step="reserve") from error
        if against := taken(await self._vetting.objections(coming)):
            reasons = "; ".join(each.evidence for each in against)
            raise fault_error(FaultCode.CONFLICT, reasons, step="reserve")
        notes, arrival = Notes(coming.ve), _arrival(coming, expected)
        notes.forget()
        notes.arrival = arrival
        for path in (notes.config, notes.carry, *map(Path, arrival.made)):
            path.mkdir(parents=True)
        await self._power.lock(coming.ve)
        return _trees(coming.ve)

    # --- arrange ----------------------------------------------------------------------------------

    async def arrange(self, ve: str) -> None:
        """All files are here: tags, attributes, limits, rules, configuration. Raises FaultError."""
        arrival, carried = self._arrival(ve), Notes(ve).carried or Carried()
        maps, payload = self.maps_of(arrival), _payload(arrival)
        tree = await self._configuration(arrival, carried, payload, maps)
        guest = read(ve, arrival.directory, tree)
        if guest.problems:
            raise fault_error(FaultCode.CORRUPT, "; ".join(guest.problems), step="arrange")
        _check_arrived(arrival.root)
        lines.bring_up(guest, maps)
        held: list[str] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask_network, guest, carried, maps, held)
            failure = await self._retag(arrival, guest, carried)
        if failure is not None:
            raise failed(failure, "arrange")
        if held:
            raise fault_error(FaultCode.CONFLICT, "; ".join(sorted(held)), step="arrange")
        disk.write(Path(arrival.directory), tree)
        _make_links(tree)
        await self._recount(arrival, guest)
        await self._rules(ve, carried, payload, maps)

    async def _configuration(self, arrival: Arrival, carried: Carried, payload: Payload, maps: Maps) -> Files:
        files = disk.read(Notes(arrival.ve).config)
        after = rewrite(files, payload.name, await self._site.paths(), maps, arrival.ve).tree
        if not carried.reboots_off:
            after = after.without(REBOOTS_OFF)
        if not await self._site.tags(str(Path(arrival.root).parent)):
            if after.has("dlimits"):
                remarks.add(arrival.ve, "its disk limits are dropped: the file system here keeps no tags")
            after = after.without("dlimits")
        return after

    async def _retag(self, arrival: Arrival, guest: Guest, carried: Carried) -> Ran | None:
        """Tags, barrier, attributes; the program that failed, if one did."""
        info, root = await self._site.info(), arrival.root
        pool = Path((await self._site.paths()).configs) / ".defaults/apps/vunify/hash"
        can = retag.Target(
            tagging=await self._site.tags(str(Path(root).parent)),
            cow=(info.vci or 0) & output.VCI_COW == output.VCI_COW,
            pool=pool.is_dir() and any(pool.iterdir()),
        )
        marks = [_absolute(mark, root) for mark in carried.marked]
        plan = retag.plan(guest.name, root, guest.file_tag, marks, unified=guest.unified, can=can)
        for command in plan.commands:
            if command[0] == "vserver":
                continue  # sister files are found when the guest is settled here: it is no part of the blackout
            ran = await tools.run(*command, limit_s=WALK_LIMIT_S)
            if not ran.ok:
                return ran
        for text in plan.notes:
            remarks.add(guest.name, text)
        if carried.foreign_tags:
            remarks.add(guest.name, f"{carried.foreign_tags} files had another guest's tag and have this guest's now")
        return None

    async def _ask_network(self, guest: Guest, carried: Carried, maps: Maps, held: list[str]) -> None:
        """Nobody else may hold an address of it, since the source has taken it off; who does is added to `held`."""
        there = devices.all_devices()
        asked = [(address.device, address.ip) for address in lines.set_by_tools(guest)]
        asked += [(maps.device(each.device), each.ip) for each in carried.host_owned]

        async def ask(name: str, ip: str) -> None:
            device = there.get(name)
            if device is None or not device.up or not device.answers_arp:
                return
            if mac := await probe.holder(name, device.mac, ip, maps.probe_s):
                held.append(f"{ip} is held by another station on {name} ({mac})")

        async with trio.open_nursery() as nursery:
            for name, ip in asked:
                nursery.start_soon(ask, name, ip)

    async def _recount(self, arrival: Arrival, guest: Guest) -> None:
        """Disk limits' counters as the tools keep them between stop and start, counted here."""
        cache = Path((await self._site.paths()).cache) / guest.name / "dlimits"
        for limit in guest.disk_limits:
            words = ("--xid", str(guest.file_tag), "--space", "--inodes", "--script", limit.directory)
            ran = await tools.run("vdu", *words, limit_s=WALK_LIMIT_S)
            used = output.disk_use(ran.stdout)
            if used is None:
                raise failed(ran, "arrange")
            name = output.cache_name(guest.file_tag or 0, limit.directory)
            disk.put(cache / name, output.cache_text(*used).encode())

    async def _rules(self, ve: str, carried: Carried, payload: Payload, maps: Maps) -> None:
        """The host's rules for its addresses, and forwarding where NAT needs it."""
        names = {each.name: maps.device(each.name) for each in payload.host.devices} | dict(maps.devices)
        wanted = [rules.mapped(rule, names, maps.public_addresses) for rule in carried.rules]
        notes = Notes(ve)
        missing = await firewall.missing(wanted)
        notes.arrival = replace(self._arrival(ve), rules=missing)
        await firewall.install(missing)
        if any(rule.table == "nat" for rule in wanted) and carried.forwarding and not firewall.forwarding():
            notes.arrival = replace(self._arrival(ve), forwarding_set=True)
            firewall.set_forwarding(on=True)

    # --- start, announce, end ---------------------------------------------------------------------

    async def start(self, ve: str) -> None:
        """Start it here for the first time: everything must be as it was, or it does not stay. Raises FaultError."""
        arrival, carried = self._arrival(ve), Notes(ve).carried or Carried()
        maps = self.maps_of(arrival)
        if await self._site.running(ve):
            return
        owned = tuple(replace(each, device=maps.device(each.device), label="") for each in carried.host_owned)
        Notes(ve).taken_off = owned  # put on before it starts, as on a host that takes it back
        Notes(ve).arrival = replace(arrival, addresses=owned)
        await self._power.start(ve, maps, strict=True)
        await self._replay(ve, carried, maps)

    async def _replay(self, ve: str, carried: Carried, maps: Maps) -> None:
        """Mounts that were made by hand, as far as they were asked for."""
        asked = maps.guest(self._arrival(ve).source_ve)
        wanted = [each for each in carried.live_mounts if each.target in asked.replay_mounts]
        xid, root = await self._site.context(ve), self._arrival(ve).root
        for mount in wanted:
            mapped = replace(mount, source=maps.directory(mount.source) if mount.bind else mount.source)
            ran = await tools.run("vnamespace", "--enter", str(xid), *mapped.argv(root))
            if not ran.ok:
                remarks.add(ve, f"{mapped.source} could not be mounted at {mount.target} again: {ran.stderr.strip()}")

    async def lift(self, ve: str) -> None:
        """The move is over: boot mark on, files linked to the pool from now on, nothing noted any more."""
        notes = Notes(ve)
        if (arrival := notes.arrival) is None:
            return
        carried, directory = notes.carried or Carried(), Path(arrival.directory)
        if carried.mark and directory.is_dir():
            disk.put(directory / MARK, f"{carried.mark}\n".encode())
        if directory.is_dir() and (await self._site.guest(ve)).unified:
            _unify(ve)
        self._power.unlock(ve)
        notes.forget()

    async def drop(self, ve: str) -> None:
        """Everything that was made for it here, whatever state that is in; if it runs, it is stopped."""
        notes = Notes(ve)
        if (arrival := notes.arrival) is None:
            return
        directory, maps = Path(arrival.directory), self.maps_of(arrival)
        if directory.is_dir():
            await self._power.stop(ve, maps)
            guest = await self._site.guest(ve)
            owned = {(each.device, each.ip) for each in arrival.addresses}
            lines.take_off(each for each in lines.present(guest) if (each.device, each.ip) in owned)
            lines.let_down(guest, maps, await self._site.running_guests())
        await firewall.remove(arrival.rules)
        if arrival.forwarding_set:
            firewall.set_forwarding(on=False)
        await remove_tree(directory)
        for path in reversed(arrival.made):
            await remove_tree(Path(path))
        paths = await self._site.paths()
        for path in (f"{paths.run}/{ve}", f"{paths.cache}/{ve}"):
            await remove_tree(Path(path))
        self._power.unlock(ve)
        notes.forget()

    # --- what was asked for -----------------------------------------------------------------------

    def _arrival(self, ve: str) -> Arrival:
        arrival = Notes(ve).arrival
        if arrival is None:
            raise fault_error(FaultCode.UNKNOWN_VE, f"no guest {ve} is on its way here")
        return arrival

    def maps_of(self, arrival: Arrival) -> Maps:
        """This host's maps with what was said for this move."""
        payload = _payload(arrival)
        maps = with_names(self._site.maps(), fixed(arrival.names), arrival.source_ve)
        dummies = tuple(maps.device(each.name) for each in payload.host.devices if each.kind == "dummy")
        asked = replace(maps.guest(arrival.source_ve), context=_new_id(arrival, payload))
        return replace(maps, dummies=(*maps.dummies, *dummies), guests={**maps.guests, arrival.source_ve: asked})


def _arrival(coming: Coming, expected: Expected) -> Arrival:
    guest, paths, payload = expected.guest, expected.paths, expected.payload
    notes, root = Notes(coming.ve), f"{expected.paths.roots}/{coming.ve}"
    trees = {"config": str(notes.config), "carry": str(notes.carry), "root": root}
    for name in payload.host.trees:
        kind, _, path = name.partition(":")
        if kind == "root" and path:
            trees[name] = f"{root}{path}"
        elif kind == "bind" and path in expected.maps.carry:
            trees[name] = expected.maps.carry[path]
        elif kind == "packages":
            trees[name] = f"{paths.packages}/{coming.ve}"
    ours = [path for name, path in trees.items() if name not in ("config", "carry") and not os.path.lexists(path)]
    return Arrival(
        coming.ve,
        payload.name,
        guest.directory,
        root,
        base64.b64encode(coming.facts.config).decode(),
        dict(coming.names),
        guest.context,
        guest.nid,
        guest.file_tag,
        tuple(address.ip for address in guest.addresses),
        trees,
        tuple(ours),
    )


def _new_id(arrival: Arrival, payload: Payload) -> int | None:
    """The context id it is to have here, if that is another than its own."""
    source = read(payload.name, payload.directory, payload.tree)
    return arrival.context if arrival.context != source.context else None


def _payload(arrival: Arrival) -> Payload:
    return unpack_payload(base64.b64decode(arrival.payload))


def _trees(ve: str) -> tuple[Tree, ...]:
    arrival = Notes(ve).arrival
    assert arrival is not None
    return tuple(Tree(name, Path(path)) for name, path in arrival.trees.items())


def _absolute(mark: Marked, root: str) -> Marked:
    return replace(mark, path=root if mark.path == "." else f"{root}/{mark.path}")


def _unify(ve: str) -> None:
    """Equal files are linked again, by the tools' own program; it takes its time, and nobody waits for it."""
    log = BASE / f"hashify-{ve}.log"
    with log.open("wb") as out:
        words = ["vserver", ve, "hashify"]
        subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)


def _check_arrived(root: str) -> None:
    if not os.path.isdir(root) or not os.listdir(root):
        raise fault_error(FaultCode.CORRUPT, f"no files have arrived in {root}", step="arrange")


def _make_links(tree: Files) -> None:
    """What the links of a configuration lead to must be there, except for the run file."""
    cache = tree.link("cache")
    if cache:
        Path(cache).mkdir(parents=True, exist_ok=True)
    run = tree.link("run")
    if run and not Path(run).parent.is_dir():
        reason = f"{Path(run).parent} is not here: util-vserver's boot script has not run"
        raise fault_error(FaultCode.CONFLICT, reason, step="arrange")
