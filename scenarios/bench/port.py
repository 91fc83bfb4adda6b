"""What a way of moving a VE has to offer, so that all of them are measured by the same clock.

Rule: a way starts the VE on the source, can bring its files to the target beforehand, moves it while the clock runs, and
can remove everything of it from both hosts afterwards. It measures nothing that is compared.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from scenarios.bench.stage import Stage
from scenarios.bench.workload import BenchError, Workload
from scenarios.lab.hosts import Host


class Start(StrEnum):
    """What lies on the target when the clock starts."""

    COLD = "cold"
    """Nothing of the VE."""
    WARM = "warm"
    """Its files, as they were when it was started."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What the mover itself says of a move; shown beside what the VE saw, never instead of it."""

    parts_ms: dict[str, float] = field(default_factory=dict)
    blackout_ms: float | None = None
    """None: it does not measure that."""
    predicted_ms: float | None = None
    memory_method: str = ""
    rounds: int = 0
    report: dict[str, Any] = field(default_factory=dict)


class Way(Protocol):
    """One way."""

    @property
    def name(self) -> str:
        """Short, without spaces: it stands in WAYS= and in the table."""
        ...

    @property
    def peer(self) -> bool:
        """Whether ours is compared with it."""
        ...

    @property
    def packages(self) -> tuple[str, ...]:
        """Debian packages beside the lab's own that both hosts need."""
        ...

    @property
    def starts(self) -> tuple[Start, ...]:
        """From what it can start."""
        ...

    def place(self, stage: Stage, ve: str, workload: Workload) -> None:
        """Start the VE on the source. Raises BenchError or ProgramError, as all of these."""
        ...

    def warm(self, stage: Stage, ve: str) -> None:
        """Bring its files to the target."""
        ...

    def move(self, stage: Stage, ve: str) -> Moved:
        """Move it: from the command to the VE running on the target and the source having nothing of it."""
        ...

    def pid(self, host: Host, ve: str) -> int:
        """One of its processes, as the host numbers them. Raises BenchError when none runs there."""
        ...

    def remove(self, stage: Stage, ve: str) -> None:
        """End it and remove all of it from both hosts."""
        ...


def first_pid(host: Host, ve: str) -> int:
    """The same for a VE whose cgroup is the one that its bundle names."""
    # The kernel numbers what is in this file for its reader, so that a program of the host has to read it.
    path = f"/sys/fs/cgroup/migrator/{ve}/cgroup.procs"
    listed = host.run("cat", path, check=False).stdout.split()
    if not listed:
        raise BenchError(f"no process of {ve} runs on {host.name} ({path} is empty or missing)")
    return int(listed[0])


SCRUB = """
[ -d /sys/fs/cgroup/migrator/$1 ] && echo 1 > /sys/fs/cgroup/migrator/$1/cgroup.kill
crun delete -f $1; runc delete -f $1
rmdir /sys/fs/cgroup/migrator/$1
ip link delete ve-$1; ip netns delete $1
rm -rf /var/lib/migrator/ve/$1 /dev/shm/bench-*
true
"""


def scrub(stage: Stage, ve: str) -> None:
    """Remove a VE that was made of a bundle from both hosts, whatever state it is in."""
    for host in stage.lab.hosts:
        host.run("sh", "-c", SCRUB, "sh", ve)
