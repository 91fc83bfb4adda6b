"""PURE. A VE's config for another host: paths, host-side names and bridges, its new id; and its fence.

Rule: what need not differ keeps every byte.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agents.engines.openvz.config import Config, with_id
from agents.engines.openvz.parameters import Netif, netif_text, netifs

FENCE: Mapping[str, str] = {"ONBOOT": "no", "DISABLED": "yes"}
"""Keeps the boot scripts and a plain `vzctl start` from bringing the VE up; `restore` ignores DISABLED."""
Name = Callable[[str, str], str]
"""(kind, name at the source) -> name at the target."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """Where a host keeps VEs, as its vz.conf says, $VEID not replaced."""

    root: str
    private: str


def for_target(config: Config, old: str, new: str, source: Defaults, target: Defaults, name: Name) -> Config:
    """The config as it has to be on the target."""
    values = config.values
    changes: dict[str, str | None] = {
        "VE_ROOT": _path(values.get("VE_ROOT"), source.root, target.root, old, new, name),
        "VE_PRIVATE": _path(values.get("VE_PRIVATE"), source.private, target.private, old, new, name),
    }
    if values.get("NETIF"):
        changes["NETIF"] = netif_text(tuple(_netif(one, old, new, name) for one in netifs(values["NETIF"])))
        if _same_netif(changes["NETIF"] or "", values["NETIF"]):
            del changes["NETIF"]
    return config.changed({key: value for key, value in changes.items() if value != values.get(key)})


def _path(value: str | None, source_default: str, target_default: str, old: str, new: str, name: Name) -> str | None:
    """A path that is where the source keeps VEs goes where the target keeps them; any other stays, or is mapped."""
    if value is None:
        return None
    if with_id(value, old) == with_id(source_default, old):
        same = with_id(value, new) == with_id(target_default, new)
        return value if same else target_default
    mapped = name("path", with_id(value, old))
    return value if mapped == with_id(value, new) else mapped


def _netif(one: Netif, old: str, new: str, name: Name) -> Netif:
    if bridge := one.get("bridge"):
        one = one.replaced("bridge", name("bridge", bridge))
    outer = one.get("host_ifname")
    if outer and old != new and (own := re.fullmatch(rf"veth{re.escape(old)}\.(.+)", outer)):
        one = one.replaced("host_ifname", f"veth{new}.{own.group(1)}")
    return one


def _same_netif(fresh: str, before: str) -> bool:
    return netifs(fresh) == netifs(before)


def fenced(config: Config) -> Config:
    """So that nothing but us starts it."""
    return config.changed(FENCE)


def unfenced(now: Config, before: Mapping[str, str | None]) -> Config:
    """The two keys as they were before `fenced`; everything else as it is now."""
    return now.put_back({key: before.get(key) for key in FENCE})


def fence_state(config: Config) -> dict[str, str | None]:
    """What `unfenced` needs to know."""
    return {key: config.values.get(key) for key in FENCE}
