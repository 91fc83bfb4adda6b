"""crun and runc: their command lines, and what they remember of a VE.

Rule: a runtime is told everything by its arguments and one configuration file of CRIU; nothing of the host is changed for it.
Its words go to a log file: an output of ours would be inherited by the VE, and a VE with a foreign pipe cannot be dumped.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agents import shell
from agents.shell import Ran

RUNTIMES = ("crun", "runc")
FORGET_LIMIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Runtime:
    """One of RUNTIMES."""

    name: str

    def argv(self, verb: str, ve: str, work: Path, *options: str) -> list[str]:
        """A call about one VE."""
        common = ["--cgroup-manager=cgroupfs"] if self.name == "crun" else []
        return [self.name, *common, f"--log={self.log(work)}", verb, *options, ve]

    def log(self, work: Path) -> Path:
        """Where its last words are."""
        return work / f"{self.name}.log"

    def checkpoint(self, ve: str, work: Path, images: Path) -> list[str]:
        """Dump; the VE stays, and stays frozen if it was."""
        return self.argv("checkpoint", ve, work, "--leave-running", *self._criu_options(work, images))

    def restore(self, ve: str, work: Path, images: Path, *, lazily: bool = False) -> list[str]:
        """Restore, and return when CRIU has let go.

        runc tells CRIU in every call whether it restores lazily, which counts for more than CRIU's configuration file (a VE
        restored without lazy-pages from such images has empty memory); crun says nothing of it, and has no such option.
        """
        lazy = ("--lazy-pages",) if lazily and self.name == "runc" else ()
        return self.argv("restore", ve, work, "-d", *lazy, *self._criu_options(work, images))

    def _criu_options(self, work: Path, images: Path) -> Sequence[str]:
        # crun may leave cgroups alone; runc knows no such mode before 1.2 and does no harm with its own.
        mode = ("--manage-cgroups-mode=ignore",) if self.name == "crun" else ()
        return "--tcp-established", "--file-locks", *mode, f"--image-path={images}", f"--work-path={work}"

    def state(self, ve: str) -> Path:
        """Where it keeps what it remembers of a VE."""
        return Path("/run") / self.name / ve

    def knows(self, ve: str) -> bool:
        """Whether it remembers a VE of this id, dead or alive."""
        return self.state(ve).exists()

    async def forget(self, ve: str) -> None:
        """Remove what it remembers of a VE without processes, by its own verb first; a failed restore leaves a half of it
        that the verb cannot remove. Nothing may be mounted there any more: both ways would remove the files in it."""
        if self.knows(ve):
            await shell.run([self.name, "delete", "-f", ve], limit_s=FORGET_LIMIT_S)
            shutil.rmtree(self.state(ve), ignore_errors=True)


def last_words(ran: Ran, log: Path) -> str:
    """What a runtime said: its log, else its error output."""
    try:
        said = log.read_text(errors="replace")
    except FileNotFoundError:
        said = ""
    return said + ran.stderr
