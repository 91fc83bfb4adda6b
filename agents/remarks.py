"""What an operator should know although nothing failed: collected per VE while acts are done, taken when they are told.

Rule: a remark never decides anything; one that nobody takes is forgotten with the agent's process.
"""

_KEPT: dict[str, list[str]] = {}
MOST = 50


def add(ve: str, text: str) -> None:
    """Remember it; the same text once."""
    kept = _KEPT.setdefault(ve, [])
    if text not in kept and len(kept) < MOST:
        kept.append(text)


def take(ve: str) -> tuple[str, ...]:
    """All since the last time, in order."""
    return tuple(_KEPT.pop(ve, ()))
