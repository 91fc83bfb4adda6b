"""PURE. Why a migration cannot be done: every reason at once, each with its evidence and its remedy."""

from dataclasses import dataclass

from migrator.core.vocabulary import MigrationRequest, Started
from migrator.wire.facts import VeFacts, VeState

CLOCK_SKEW_MAX_S = 5.0
MEMORY_MARGIN_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason: a stable name, what was found, what to do about it."""

    name: str
    evidence: str
    remedy: str


def refusals(request: MigrationRequest, facts: Started) -> list[Refusal]:
    """Everything that stands against this migration; empty: it can begin."""
    ve = next((each for each in facts.source_ves if each.ve == request.ve), None)
    if ve is None:
        known = ", ".join(sorted(each.ve for each in facts.source_ves)) or "none"
        return [Refusal("unknown-ve", f"{request.source} has no VE {request.ve}; it has: {known}", "migrator ve list")]
    return [*_about_hosts(request, facts, ve), *_about_ve(request, facts, ve)]


def _about_hosts(request: MigrationRequest, facts: Started, ve: VeFacts) -> list[Refusal]:
    found = []
    if facts.source.boot_id == facts.target.boot_id and request.source == request.target:
        found.append(Refusal("same-host", f"{request.source} is both source and target", "name another target"))
    wanted = f"{ve.engine}/{ve.runtime}" if ve.runtime else ve.engine
    if wanted not in facts.target.engines:
        has = ", ".join(facts.target.engines) or "none"
        found.append(Refusal("engine-missing", f"{request.target} offers {has}, not {wanted}", "migrator host check"))
    missing = sorted(set(facts.source.cpu_flags) - set(facts.target.cpu_flags))
    if missing:
        evidence = f"{request.target}'s CPU lacks: {' '.join(missing)}"
        found.append(Refusal("cpu-flags", evidence, "choose a target with the same or a newer CPU"))
    skew_s = abs(facts.source.clock_unix_s - facts.target.clock_unix_s)
    if skew_s > CLOCK_SKEW_MAX_S:
        found.append(Refusal("clock-skew", f"the hosts' clocks differ by {skew_s:.0f} s", "run NTP on both hosts"))
    return found


def _about_ve(request: MigrationRequest, facts: Started, ve: VeFacts) -> list[Refusal]:
    found = []
    if ve.state is not VeState.RUNNING:
        found.append(Refusal("not-running", f"{ve.ve} is {ve.state}", f"start it first on {request.source}"))
    if any(each.ve == ve.ve for each in facts.target_ves):
        found.append(Refusal("ve-exists", f"{request.target} has a VE {ve.ve} already", "remove or rename that one"))
    taken = {address.split("/")[0] for each in facts.target_ves for address in each.addresses}
    if clash := sorted(address for address in ve.addresses if address.split("/")[0] in taken):
        evidence = f"{', '.join(clash)} belongs to a VE on {request.target}"
        found.append(Refusal("address-taken", evidence, "give one of the two another address"))
    if ve.disk_bytes > facts.target.disk_free_bytes:
        evidence = (
            f"{request.target} has {facts.target.disk_free_bytes >> 20} MiB of disk, {ve.disk_bytes >> 20} needed"
        )
        found.append(Refusal("disk", evidence, "make room on the target"))
    need = 2 * ve.memory_bytes + MEMORY_MARGIN_BYTES
    if need > facts.target.memory_free_bytes:
        evidence = f"{request.target} has {facts.target.memory_free_bytes >> 20} MiB of memory, {need >> 20} needed"
        found.append(Refusal("memory", evidence, "choose a target with more free memory"))
    for bridge in sorted({each.bridge for each in ve.interfaces} - set(facts.target.bridges)):
        found.append(
            Refusal("bridge", f"{request.target} has no bridge {bridge}", "make it, or map it in the inventory")
        )
    if ve.foreign_mounts:
        evidence = f"mounted from outside the VE: {', '.join(ve.foreign_mounts)}"
        found.append(Refusal("foreign-mounts", evidence, "move that data into the VE's directory"))
    found += [Refusal("blocker", blocker, "end it, or move by stop-copy") for blocker in ve.blockers]
    return found
