"""PURE. What a source tells the target's engine about a guest: its configuration, and facts of its host that matter.

Rule: opaque to the controller, readable by a person (JSON); a target that cannot read it says so and takes nothing.
"""

import base64
import json
from dataclasses import dataclass, field
from typing import Any

from cattrs import Converter, transform_error

from agents.engines.vserver.live_mounts import LiveMount
from agents.engines.vserver.tree import Tree, unpack
from agents.network.rules import HostRule


@dataclass(frozen=True, slots=True)
class Device:
    """A host device that the guest has addresses on."""

    name: str
    kind: str
    """The kernel's (`dummy`, `vlan`, `bridge`, `veth`); empty: a physical one."""
    parent: str = ""
    vlan: int = 0


@dataclass(frozen=True, slots=True)
class HostSide:
    """What of the source host matters to the guest's coming elsewhere."""

    machine: str = ""
    elf_machine: int = 0
    """Of the guest's own programs, elf(5)."""
    vci: int = 0
    api: int = 0
    tools: str = ""
    """Version of util-vserver."""
    devices: tuple[Device, ...] = ()
    host_owned: dict[str, str] = field(default_factory=dict)
    """Address that the host's own configuration put on a device (`nodev`), with prefix -> that device."""
    host_addresses: tuple[str, ...] = ()
    """Without prefix length."""
    rules: tuple[HostRule, ...] = ()
    """Of the host's packet filter, speaking of the guest's addresses."""
    forwarding: bool = False
    live_mounts: tuple[LiveMount, ...] = ()
    ports: tuple[tuple[str, int], ...] = ()
    """(address, TCP port) the guest listens on."""
    disk_bytes: int = 0
    """Every link outside the guest counted in full, since it does not survive the move."""
    inodes: int = 0
    trees: tuple[str, ...] = ()
    """Names of the trees that move."""
    defaults: dict[str, str] = field(default_factory=dict)
    """Values of `.defaults` that change how guests behave."""
    unhidden: tuple[str, ...] = ()
    """Entries of /proc that guests see."""


@dataclass(frozen=True, slots=True)
class Payload:
    """All of it."""

    name: str
    directory: str
    tree: Tree
    host: HostSide


_CONVERTER = Converter()


def pack(payload: Payload) -> bytes:
    """As bytes."""
    plain = {
        "name": payload.name,
        "directory": payload.directory,
        "tree": base64.b64encode(payload.tree.pack()).decode(),
        "host": _CONVERTER.unstructure(payload.host),
    }
    return json.dumps(plain).encode()


def unpack_payload(data: bytes) -> Payload:
    """The inverse. Raises ValueError that says what is wrong."""
    try:
        plain: dict[str, Any] = json.loads(data)
        tree = unpack(base64.b64decode(plain["tree"], validate=True))
        return Payload(plain["name"], plain["directory"], tree, _CONVERTER.structure(plain["host"], HostSide))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a guest's description: {error}") from error
    except ExceptionGroup as error:
        raise ValueError(f"not a guest's description: {'; '.join(transform_error(error))}") from error
