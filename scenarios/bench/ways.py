"""The ways that are compared. Another one is another line here."""

from collections.abc import Iterable

from scenarios.bench.ours import Ours
from scenarios.bench.peers import Podman, Runc
from scenarios.bench.port import Way
from scenarios.bench.workload import BenchError

WAYS: tuple[Way, ...] = (
    Ours("migrator"),
    Ours("migrator-content", ("--memory", "content")),
    Ours("migrator-dump", ("--memory", "dump")),
    # No blackout is as short as this budget: whatever the last round did not carry follows when the VE runs.
    Ours("migrator-post-copy", ("--over-budget", "post-copy", "--budget", "1")),
    Ours("migrator-runc", runtime="runc"),
    Runc("runc-rsync"),
    Runc("runc-pageserver", page_server=True),
    Podman("podman"),
)


USUAL = ("migrator", "runc-rsync", "runc-pageserver", "podman")


def named(names: Iterable[str]) -> tuple[Way, ...]:
    """The ways of these names, in their order; when there are none, the usual ones. Raises BenchError."""
    known = {way.name: way for way in WAYS}
    wanted = [name for name in names if name]
    if unknown := sorted(set(wanted) - set(known)):
        raise BenchError(f"no way {', '.join(unknown)}; there are {', '.join(known)}")
    return tuple(known[name] for name in wanted or USUAL)
