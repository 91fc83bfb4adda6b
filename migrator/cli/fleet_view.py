"""Finds VEs among the hosts of the fleet, and makes migration requests of what the operator typed."""

from dataclasses import dataclass, replace

from migrator.cli import frame
from migrator.cli.exits import Exit
from migrator.cli.frame import Failure
from migrator.cli.verbs.host import ask_all
from migrator.core.inventory import Host, names_between
from migrator.core.vocabulary import MigrationRequest, Policy
from migrator.wire.facts import VeFacts
from migrator.wire.faults import Fault
from migrator.wiring import Controller


@dataclass(frozen=True, slots=True)
class Found:
    """Every VE with its host, and the hosts that could not be asked."""

    ves: tuple[tuple[str, VeFacts], ...]
    silent: dict[str, Fault]

    def where(self, ve: str) -> list[str]:
        """The hosts that have it."""
        return [host for host, each in self.ves if each.ve == ve]


async def look(made: Controller, only: tuple[str, ...] = ()) -> Found:
    """Ask all hosts, or only these."""
    hosts = [frame.find_host(made, name) for name in only] or list(made.inventory.hosts)
    states = await ask_all(made, hosts)
    ves = [(name, each) for name, state in states.items() if not isinstance(state, Fault) for each in state.ves]
    return Found(tuple(ves), {name: state for name, state in states.items() if isinstance(state, Fault)})


def source_of(found: Found, ve: str, asked: str) -> str:
    """The one host that has the VE. Raises Failure."""
    hosts = found.where(ve)
    if asked:
        if asked not in hosts:
            if asked in found.silent:
                raise Failure(f"{asked} cannot be asked for {ve}: {found.silent[asked].message}", Exit.UNREACHABLE)
            raise Failure(
                f"{asked} has no VE {ve}; it is on: {', '.join(hosts) or 'no host that answers'}", Exit.NOT_FOUND
            )
        return asked
    if len(hosts) == 1:
        return hosts[0]
    if hosts:
        raise Failure(f"{ve} is on several hosts: {', '.join(hosts)}; say which with --from", Exit.USAGE)
    known = ", ".join(sorted({each.ve for _, each in found.ves})) or "none"
    if found.silent:
        words = "; ".join(f"{host}: {fault.message}" for host, fault in found.silent.items())
        raise Failure(
            f"no host that answers has a VE {ve} (known are: {known}), but not all do: {words}", Exit.UNREACHABLE
        )
    raise Failure(f"no host has a VE {ve}; known are: {known}", Exit.NOT_FOUND)


def request(made: Controller, ve: str, source: str, target: str, policy: Policy, new_id: str = "") -> MigrationRequest:
    """A migration from one host of the inventory to another. Raises Failure."""
    here, there = frame.find_host(made, source), frame.find_host(made, target)
    if here.name == there.name:
        raise Failure(f"{ve} is on {source} already; name another target", Exit.REFUSED)
    return MigrationRequest(
        made.new_id(),
        ve,
        source,
        target,
        there.bulk_address,
        there.port,
        replace(policy, bandwidth_bytes_per_s=_bandwidth(policy, here, there)),
        new_id,
        names_between(here, there),
    )


def _bandwidth(policy: Policy, here: Host, there: Host) -> int:
    """What this migration may take: its own limit, and its share of what each host allows to all of its migrations."""
    shares = [host.bandwidth_mbit * 125_000 // host.parallel for host in (here, there) if host.bandwidth_mbit]
    own = [policy.bandwidth_bytes_per_s] if policy.bandwidth_bytes_per_s else []
    return min([*shares, *own], default=0)
