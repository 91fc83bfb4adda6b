"""A VE as the memory tests see one: a cgroup with processes, and the C programs that run in it."""

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from scenarios.lab import groups
from scenarios.lab.programs import joined

HERE = Path(__file__).parent
PROGRAMS = "MIGRATOR_TEST_PROGRAMS"
"""Names a directory with the programs made already, for a host without a compiler."""


@dataclass(frozen=True)
class Ve:
    """A cgroup with processes, as a VE is one."""

    group: Path
    started: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def start(self, *words: str) -> "subprocess.Popen[bytes]":
        """A process in it that has said something on its standard output."""
        process = subprocess.Popen(joined((self.group,), words), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert process.stdout is not None
        self.started.append(process)
        assert process.stdout.readline()
        return process

    def end(self) -> None:
        """All of them end."""
        groups.clear(self.group.parent.name)
        for process in self.started:
            with process:
                pass

    def processes(self) -> list[int]:
        """All of them."""
        return sorted(groups.processes(self.group))

    def freeze(self) -> None:
        """Returns when none runs."""
        (self.group / "cgroup.freeze").write_text("1")
        while "frozen 1" not in (self.group / "cgroup.events").read_text():
            pass

    def thaw(self) -> None:
        """They go on."""
        (self.group / "cgroup.freeze").write_text("0")


def compiled(name: str, into: Path) -> Path:
    """One of the C programs beside this file, statically linked."""
    if (ready := Path(os.environ.get(PROGRAMS, "/nowhere"), name)).exists():
        return ready
    made = into / name
    subprocess.run(["cc", "-O1", "-static", "-pthread", "-o", str(made), str(HERE / f"{name}.c")], check=True)
    return made
