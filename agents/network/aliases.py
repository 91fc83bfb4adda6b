"""Addresses on a host's own devices, by netlink: what is there, put one on, take one off, and what vanished with another.

Rule: deleting a primary address takes the secondaries of its subnet along unless the kernel is told to promote one of
them (promote_secondaries, Documentation/networking/ip-sysctl in the kernel's sources); whoever deletes compares before
and after.
"""

import contextlib
import errno
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute, NetlinkError

CONF = Path("/proc/sys/net/ipv4/conf")
SCOPE_LINK = 253
NODAD = 0x02
GONE = (errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENOENT, errno.ESRCH)


@dataclass(frozen=True, slots=True)
class Alias:
    """One address on one device."""

    device: str
    ip: str
    prefix: int
    label: str = ""
    """`DEVICE:NAME`; empty: none."""
    broadcast: str = ""
    peer: str = ""
    scope: int = 0

    @property
    def with_prefix(self) -> str:
        """Address with prefix length."""
        return f"{self.ip}/{self.prefix}"

    @property
    def version(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.ip else 4


def on_host() -> tuple[Alias, ...]:
    """Every address that somebody gave a device: not the loopback's, not IPv6 link-local ones. Order is the kernel's."""
    with _host() as host:
        names = {link["index"]: str(link.get_attr("IFLA_IFNAME")) for link in host.get_links()}
        found = [_alias(each, names.get(each["index"], "")) for each in host.get_addr()]
    return tuple(alias for alias in found if alias.scope < SCOPE_LINK and alias.device)


def _alias(message: Any, device: str) -> Alias:
    address, local = (str(message.get_attr(name) or "") for name in ("IFA_ADDRESS", "IFA_LOCAL"))
    ip, label = local or address, str(message.get_attr("IFA_LABEL") or "")
    return Alias(
        device,
        ip,
        message["prefixlen"],
        "" if label == device else label,
        str(message.get_attr("IFA_BROADCAST") or ""),
        "" if address in ("", ip) else address,
        message["scope"],
    )


def _host() -> Any:
    """A conversation with this host's kernel; pyroute2 ships no types a checker could follow."""
    return IPRoute()


def add(alias: Alias) -> None:
    """Put it on its device; there already: nothing. Raises NetlinkError or LookupError for a device that is not there."""
    extra: dict[str, Any] = {"flags": NODAD} if alias.version == 6 else {}
    extra |= {"label": alias.label} if alias.label else {}
    extra |= {"broadcast": alias.broadcast} if alias.broadcast else {}
    extra |= {"address": alias.peer, "local": alias.ip} if alias.peer else {"address": alias.ip}
    with _host() as host:
        index = host.link_lookup(ifname=alias.device)
        if not index:
            raise LookupError(f"there is no device {alias.device}")
        try:
            host.addr("add", index=index[0], prefixlen=alias.prefix, **extra)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise


def remove(alias: Alias) -> None:
    """Take it off; not there: nothing. Secondaries of its subnet stay where `promoting` is in force."""
    with _host() as host:
        index = host.link_lookup(ifname=alias.device)
        if not index:
            return
        try:
            host.addr("delete", index=index[0], address=alias.ip, prefixlen=alias.prefix)
        except NetlinkError as error:
            if error.code not in GONE:
                raise


@contextlib.contextmanager
def promoting(devices: Iterable[str]) -> Iterator[None]:
    """While this lasts, deleting a primary address of these devices makes a secondary one primary."""
    before: dict[Path, str] = {}
    for path in {CONF / device / "promote_secondaries" for device in devices}:
        with contextlib.suppress(OSError):
            value = path.read_text()
            path.write_text("1")
            before[path] = value
    try:
        yield
    finally:
        for path, value in before.items():
            with contextlib.suppress(OSError):
                path.write_text(value)


def promotes(device: str) -> bool:
    """Whether secondaries of this device survive their primary."""
    return any(_flag(CONF / name / "promote_secondaries") for name in ("all", device))


def _flag(path: Path) -> bool:
    try:
        return path.read_text().strip() == "1"
    except OSError:
        return False


def put_back(before: Iterable[Alias], but: Iterable[str]) -> tuple[Alias, ...]:
    """Put on again what was there before and has vanished, except the addresses `but` (no prefix); what that was."""
    now, own = set(on_host()), frozenset(but)
    present = {(alias.device, alias.ip, alias.prefix) for alias in now}
    lost = tuple(
        alias for alias in before if alias.ip not in own and (alias.device, alias.ip, alias.prefix) not in present
    )
    for alias in lost:
        add(alias)
    return lost
