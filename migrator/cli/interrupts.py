"""Ctrl-C (and SIGTERM) while hosts are at work: what the first one asks for, and how the next one leaves.

Rule: leaving sends nothing and judges nothing: the agents finish or undo by themselves, and whoever left is told how to
go on. It ends by returning, never by an exception out of a nursery, so that it is told in plain words.
"""

import signal
from collections.abc import Awaitable, Callable, Sequence

import trio

from migrator.cli.exits import Exit
from migrator.cli.frame import Failure


async def carry_out(
    work: Callable[[], Awaitable[None]],
    under_way: Callable[[], Sequence[str]],
    first: Callable[[], None] | None = None,
) -> None:
    """Carry `work` out. The first interrupt calls `first`, if there is one; the next leaves what is `under_way`.

    Raises Failure(DETACHED) when it was left.
    """
    left: list[str] | None = None

    async def listen(scope: trio.CancelScope, task_status: trio.TaskStatus[None]) -> None:
        nonlocal left
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            if first is not None:
                await anext(signals)
                first()
            await anext(signals)
        left = list(under_way())  # before it is given up: nobody knows the names afterwards
        scope.cancel()

    async with trio.open_nursery() as nursery:
        await nursery.start(listen, nursery.cancel_scope)
        await work()
        nursery.cancel_scope.cancel()
    if left is not None:
        raise Failure(how_to_go_on(left), Exit.DETACHED)


def how_to_go_on(left: Sequence[str]) -> str:
    """What is said to whoever left these migrations."""
    if not left:
        return "left; no migration was under way. Next: migrator status"
    verb = f"resume {left[0]}" if len(left) == 1 else f"recover {' '.join(left)}"
    return (
        f"left: nobody drives migration {', '.join(left)} now. Its hosts finish or undo by themselves what is under way. "
        f"Next: migrator {verb} (or see: migrator status)"
    )
