"""The host's packet filter, where it speaks of a VE's addresses: read, put on another host, taken away; and forwarding.

Rule: a rule is added only where it is not there yet, and only what was added is removed; no chain's policy and no rule
of anyone else is touched. Rules go in before the VE is reachable and come out after it has gone.
"""

from collections.abc import Iterable
from pathlib import Path

from agents import shell
from agents.network import rules
from agents.network.rules import HostRule
from agents.shell import failed

FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
MISSING = 127


async def speaking_of(addresses: Iterable[str]) -> tuple[HostRule, ...]:
    """Every rule that names one of these addresses (no prefix length), in order. Raises FaultError."""
    wanted: tuple[str, ...] = tuple(addresses)
    found: list[HostRule] = []
    for family, program in ((4, "iptables-save"), (6, "ip6tables-save")):
        own = [address for address in wanted if (":" in address) is (family == 6)]
        if not own:
            continue
        ran = await shell.run([program], limit_s=20)
        if ran.status == MISSING:
            continue
        if not ran.ok:
            raise failed(ran, "read host rules")
        found += rules.speaking_of(ran.stdout, family, own)
    return tuple(found)


async def missing(wanted: Iterable[HostRule]) -> tuple[HostRule, ...]:
    """Those that are not there."""
    return tuple([rule for rule in wanted if not (await shell.run(rule.argv("-C"), limit_s=20)).ok])


async def install(wanted: Iterable[HostRule]) -> None:
    """Append those that are not there, in order. Raises FaultError."""
    for rule in await missing(wanted):
        ran = await shell.run(rule.argv("-A"), limit_s=20)
        if not ran.ok:
            raise failed(ran, "install host rules")


async def remove(unwanted: Iterable[HostRule]) -> None:
    """Delete them; those that are not there are no mistake."""
    for rule in unwanted:
        await shell.run(rule.argv("-D"), limit_s=20)


def forwarding() -> bool:
    """Whether this host forwards IPv4."""
    return FORWARD.read_text().strip() == "1"


def set_forwarding(*, on: bool) -> None:
    """Switch it."""
    FORWARD.write_text("1" if on else "0")
