"""Whatever was raised, as the fault that is told: work done side by side raises its errors in groups.

Rule: a fault that was meant is told as it is, wherever in a group it is found; anything else is a mistake of ours, INTERNAL.
"""

from collections.abc import Iterator

from migrator.wire.faults import Fault, FaultCode, FaultError


def fault_of(error: Exception, step: str = "") -> Fault:
    """The first fault in it."""
    leaves = list(_leaves(error))
    for leaf in leaves:
        if isinstance(leaf, FaultError):
            return leaf.fault
    first = leaves[0] if leaves else error
    return Fault(FaultCode.INTERNAL, f"{type(first).__name__}: {first}", step=step)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error
