"""PURE. Why a migration cannot be done: every reason at once, each with its evidence and its remedy.

Rule: what needs knowledge of an engine is found by that engine on the target (`wire.messages.Vet`) and only passed on
here; what both hosts' facts show is compared here.
"""

from migrator.core import memory
from migrator.core.vocabulary import MigrationRequest, OverBudget, Started
from migrator.wire.facts import Mode, Objection, VeFacts, VeState

CLOCK_SKEW_MAX_S = 5.0
MEMORY_MARGIN_BYTES = 64 << 20


def refusals(request: MigrationRequest, facts: Started, mode: Mode) -> list[Objection]:
    """Everything that stands against this migration, waivable or not; empty: it can begin."""
    ve = next((each for each in facts.source_ves if each.ve == request.ve), None)
    if ve is None:
        known = ", ".join(sorted(each.ve for each in facts.source_ves)) or "none"
        return [
            Objection("unknown-ve", f"{request.source} has no VE {request.ve}; it has: {known}", "migrator ve list")
        ]
    found = [*_about_hosts(request, facts, ve, mode), *_about_ve(request, facts, ve, mode)]
    known_names = {each.name for each in found}
    return [*found, *(each for each in facts.objections if each.name not in known_names)]


def _about_hosts(request: MigrationRequest, facts: Started, ve: VeFacts, mode: Mode) -> list[Objection]:
    found = []
    if facts.source.boot_id == facts.target.boot_id and request.source == request.target:
        found.append(Objection("same-host", f"{request.source} is both source and target", "name another target"))
    wanted = f"{ve.engine}/{ve.runtime}" if ve.runtime else ve.engine
    if wanted not in facts.target.engines:
        has = ", ".join(facts.target.engines) or "none"
        found.append(Objection("engine-missing", f"{request.target} offers {has}, not {wanted}", "migrator host check"))
    missing = sorted(set(facts.source.cpu_flags) - set(facts.target.cpu_flags))
    if missing and mode is Mode.LIVE:
        evidence = f"{request.target}'s CPU lacks: {' '.join(missing)}"
        found.append(Objection("cpu-flags", evidence, "choose a target with the same or a newer CPU", waivable=True))
    skew_s = abs(facts.source.clock_unix_s - facts.target.clock_unix_s)
    if skew_s > CLOCK_SKEW_MAX_S:
        evidence = f"the hosts' clocks differ by {skew_s:.0f} s"
        found.append(Objection("clock-skew", evidence, "run NTP on both hosts", waivable=True))
    return found


def _about_ve(request: MigrationRequest, facts: Started, ve: VeFacts, mode: Mode) -> list[Objection]:
    found = []
    if ve.state is not VeState.RUNNING and mode is Mode.LIVE:
        evidence, remedy = f"{ve.ve} is {ve.state}", f"start it on {request.source}, or leave the mode to migrator"
        found.append(Objection("not-running", evidence, remedy))
    if ve.state is VeState.FROZEN:
        found.append(Objection("frozen", f"{ve.ve} is frozen on {request.source}", "migrator recover, or thaw it"))
    if mode is Mode.LIVE and not ve.live:
        evidence = f"the {ve.engine} engine cannot checkpoint {ve.ve} on {request.source}"
        found.append(Objection("not-live", evidence, "--mode stop-copy"))
    if any(each.ve == request.target_ve for each in facts.target_ves):
        evidence, remedy = f"{request.target} has a VE {request.target_ve} already", "remove or rename that one"
        found.append(Objection("ve-exists", evidence, remedy))
    taken = set(facts.target.addresses) | {
        address.split("/")[0] for each in facts.target_ves for address in each.addresses
    }
    if clash := sorted(address for address in ve.addresses if address.split("/")[0] in taken):
        evidence = f"{', '.join(clash)} belongs to {request.target} or a VE on it"
        found.append(Objection("address-taken", evidence, "give one of the two another address"))
    if ve.disk_bytes > facts.target.disk_free_bytes:
        evidence = (
            f"{request.target} has {facts.target.disk_free_bytes >> 20} MiB of disk, {ve.disk_bytes >> 20} needed"
        )
        found.append(Objection("disk", evidence, "make room on the target"))
    need = (2 if mode is Mode.LIVE else 1) * ve.memory_bytes + MEMORY_MARGIN_BYTES
    if need > facts.target.memory_free_bytes:
        evidence = f"{request.target} has {facts.target.memory_free_bytes >> 20} MiB of memory, {need >> 20} needed"
        found.append(Objection("memory", evidence, "choose a target with more free memory"))
    bridges = {request.names.get(f"bridge:{each.bridge}", each.bridge) for each in ve.interfaces if each.bridge}
    for bridge in sorted(bridges - set(facts.target.bridges)):
        found.append(
            Objection("bridge", f"{request.target} has no bridge {bridge}", "make it, or map it in the inventory")
        )
    if ve.foreign_mounts:
        evidence = f"mounted from outside the VE: {', '.join(ve.foreign_mounts)}"
        remedy = "move that data into the VE's directory, or waive it if the target has the same at the same place"
        found.append(Objection("foreign-mounts", evidence, remedy, waivable=True))
    if mode is Mode.LIVE:
        found += memory.objections(request.policy.memory, ve)
        if request.policy.over_budget is OverBudget.POST_COPY:
            found += memory.post_copy_objections(request.policy.memory, ve, facts.source)
        found += [
            Objection("blocker", blocker, "end it, or --mode stop-copy", waivable=True) for blocker in ve.blockers
        ]
    return found
