"""A guest's place on the host's network: its addresses, and devices that come up with the first guest on them and go
down with the last.

Rule: util-vserver never takes a device down and makes no VLAN (its own code for that does not work), so both is done
here; a device that we did not bring up, and that nobody listed as the guests' own, is left alone. What somebody else has
on a device keeps it up.
"""

from collections.abc import Iterable

from pyroute2 import NetlinkError

from agents.engines.vserver import notes
from agents.engines.vserver.guest import Address, Guest
from agents.engines.vserver.maps import Maps
from agents.network import aliases, announce, devices
from agents.network.aliases import Alias
from agents.network.devices import Device
from migrator.wire.facts import Interface
from migrator.wire.faults import FaultCode, fault_error


def alias(address: Address) -> Alias:
    """A configured address as it is on its device while the guest runs."""
    return Alias(address.device, address.ip, address.prefix, address.full_label, address.bcast, address.peer)


def set_by_tools(guest: Guest) -> tuple[Address, ...]:
    """Addresses that `start` puts on a device and `stop` takes off."""
    return tuple(address for address in guest.addresses if not address.nodev and address.device)


def missing(guest: Guest) -> tuple[Address, ...]:
    """Those of them that are not where they should be now."""
    there = {(each.device, each.ip) for each in aliases.on_host()}
    return tuple(address for address in set_by_tools(guest) if (address.device, address.ip) not in there)


def present(guest: Guest) -> tuple[Alias, ...]:
    """Every address of the guest that is on any device now, whoever put it there."""
    wanted = {address.ip for address in guest.addresses}
    return tuple(each for each in aliases.on_host() if each.ip in wanted)


def host_owned(guest: Guest) -> tuple[Alias, ...]:
    """Those of them that the host's own configuration has put on a device (`nodev`)."""
    wanted = {address.ip for address in guest.addresses if address.nodev}
    return tuple(each for each in aliases.on_host() if each.ip in wanted)


def take_off(unwanted: Iterable[Alias]) -> None:
    """Off their devices, and nobody else's address with them."""
    gone = tuple(unwanted)
    if not gone:
        return
    before = aliases.on_host()
    with aliases.promoting(each.device for each in gone):
        for each in gone:
            aliases.remove(each)
    aliases.put_back(before, [each.ip for each in gone])


# --- devices ------------------------------------------------------------------------------------------


def bring_up(guest: Guest, maps: Maps) -> tuple[str, ...]:
    """Make and bring up what the guest needs and only guests use; which devices that were. Raises FaultError."""
    raised = []
    for name in guest.devices:
        found = devices.find(name)
        try:
            if found is None:
                _note(name, made=True)
                _make(name, guest, maps)
            elif found.up or not _guests_own(found, maps):
                continue
            else:
                _note(name, made=notes.own_devices().get(name, False))
            devices.set_up(name)
        except (LookupError, NetlinkError) as error:
            _forget(name)
            raise fault_error(FaultCode.TOOL_FAILED, f"device {name}: {error}", step="bring up device") from error
        raised.append(name)
    return tuple(raised)


def _make(name: str, guest: Guest, maps: Maps) -> None:
    parent, dot, vlan = name.rpartition(".")
    if dot and vlan.isdigit():
        devices.make_vlan(name, parent, int(vlan))
    elif any(address.indirect for address in guest.addresses if address.device == name) or name in maps.dummies:
        devices.make_dummy(name)
    else:
        raise LookupError("it is not there")


def makeable(name: str, maps: Maps, there: Iterable[str]) -> bool:
    """Whether a device that is not there would be made."""
    parent, dot, vlan = name.rpartition(".")
    return (bool(dot) and vlan.isdigit() and parent in set(there)) or name in maps.dummies


def let_down(guest: Guest, maps: Maps, others: Iterable[Guest]) -> tuple[str, ...]:
    """Take down what was brought up for guests and none of the `others`, which run, uses; which devices that were."""
    used = {name for other in others if other.name != guest.name for name in other.devices}
    lowered = []
    for name in guest.devices:
        found = devices.find(name)
        if found is None or name in used or not (name in notes.own_devices() or _guests_own(found, maps)):
            continue
        if any(each.device == name for each in aliases.on_host()):
            continue  # somebody else's address is on it
        devices.set_down(name)
        if notes.own_devices().get(name, False):
            devices.delete(name)
        _forget(name)
        lowered.append(name)
    return tuple(lowered)


def _guests_own(device: Device, maps: Maps) -> bool:
    """Listed as such, or a VLAN that is no port of a bridge."""
    return device.name in maps.own_interfaces or (device.kind == "vlan" and not device.master)


def _note(name: str, *, made: bool) -> None:
    notes.set_own_devices({**notes.own_devices(), name: made})


def _forget(name: str) -> None:
    known = notes.own_devices()
    if known.pop(name, None) is not None:
        notes.set_own_devices(known)


# --- announcements ------------------------------------------------------------------------------------


def interfaces(guest: Guest) -> tuple[Interface, ...]:
    """The guest's addresses by device, as facts: they are on the host's own devices, on no bridge of the guest's."""
    there = devices.all_devices()
    found = []
    for name in guest.devices:
        device = there.get(name)
        mac, mtu = (device.mac, device.mtu) if device is not None else ("", 1500)
        addresses = tuple(each.with_prefix for each in guest.addresses if each.device == name)
        found.append(Interface(name, mac, name, "", mtu, addresses))
    return tuple(found)


def announce_all(guest: Guest, more: Iterable[Alias] = ()) -> None:
    """One round of announcements of every address that a station on the network may ask for."""
    there = devices.all_devices()
    by_device: dict[str, list[str]] = {}
    for each in (*(alias(address) for address in set_by_tools(guest)), *more):
        by_device.setdefault(each.device, []).append(each.with_prefix)
    for name, addresses in by_device.items():
        device = there.get(name)
        if device is not None and device.up and device.answers_arp:
            announce.announce(Interface(name, device.mac, name, name, device.mtu, tuple(addresses)))
