"""PURE. By which method the memory of a live VE moves, why, and what that costs on the source.

Rule: the first method that the source offers for this VE, unless the operator names one; one that is named and cannot be
had is a refusal, never replaced in silence.
"""

from dataclasses import dataclass

from migrator.wire.facts import HostFacts, MemoryMethod, Objection, VeFacts

TRACKING = frozenset({MemoryMethod.TRACKED, MemoryMethod.SOFT_DIRTY})
"""By these the source knows what the target lacks without reading it, so that it can be left for later (post-copy)."""
COMPARE_SHARE = 4
"""What comparing by content remembers may take this part of the source's free memory, one over so many."""
WHY = {
    MemoryMethod.TRACKED: "the source's kernel tells which pages are written",
    MemoryMethod.SOFT_DIRTY: "the source's kernel marks pages that are written",
    MemoryMethod.CONTENT: "changes are found by comparing with what was sent",
    MemoryMethod.DUMP: "nothing is sent before the blackout",
}


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How the memory will move."""

    method: MemoryMethod
    reason: str
    compare_bytes: int = 0
    """The most of the source's memory that comparing may take."""
    cost_bytes: int = 0
    """What it is expected to take of it."""


def choose(wanted: MemoryMethod | None, ve: VeFacts, source: HostFacts) -> MemoryPlan:
    """For a VE that moves live."""
    offers = ve.memory_offers
    if wanted is not None:
        return _plan(wanted, "as asked", ve, source)
    if not offers:
        return _plan(MemoryMethod.DUMP, f"the {ve.engine} engine's checkpoint carries the memory", ve, source)
    best = next((each.method for each in offers if not each.why_not), MemoryMethod.DUMP)
    not_better = [f"not {each.method}: {each.why_not}" for each in offers if each.why_not]
    return _plan(best, "; ".join([WHY[best], *not_better]), ve, source)


def objections(wanted: MemoryMethod | None, ve: VeFacts) -> list[Objection]:
    """Against the method that the operator names."""
    if wanted in (None, MemoryMethod.DUMP):
        return []
    offer = next((each for each in ve.memory_offers if each.method is wanted), None)
    if offer is not None and not offer.why_not:
        return []
    why = offer.why_not if offer is not None else f"the {ve.engine} engine does not offer it"
    return [Objection("memory-method", f"the memory of {ve.ve} cannot move by {wanted}: {why}", "--memory auto")]


def post_copy_objections(wanted: MemoryMethod | None, ve: VeFacts, source: HostFacts) -> list[Objection]:
    """Against leaving for later what does not fit into the budget."""
    method = choose(wanted, ve, source).method
    if method in TRACKING:
        return []
    evidence = f"post-copy needs to know what {ve.ve} has written, and its memory would move by {method}"
    return [Objection("post-copy", evidence, "another --over-budget")]


def post_copy_risk(source: str, target: str) -> str:
    """What post-copy may cost, in words."""
    return (
        "if the blackout would be over its budget, the rest of the memory follows when the VE runs (post-copy): until it has, the "
        f"VE stands still wherever it needs what is missing, and if {source} or the line from there to {target} is lost for good, "
        "so is that memory, and the VE is started anew from its files"
    )


def _plan(method: MemoryMethod, reason: str, ve: VeFacts, source: HostFacts) -> MemoryPlan:
    if method is not MemoryMethod.CONTENT:
        return MemoryPlan(method, reason)
    most = source.memory_free_bytes // COMPARE_SHARE
    return MemoryPlan(method, reason, most, min(most, ve.memory_bytes))
