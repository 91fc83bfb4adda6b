"""The program `migrator` of this checkout, run against a lab as a person would run it.

Rule: it is a process with an inventory and a journal of its own; nothing of it is imported here.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

LIMIT_S = 300.0


class CommandError(AssertionError):
    """It ended otherwise than it should have; with all that it said."""


@dataclass(frozen=True, slots=True)
class CommandLine:
    """For one lab's inventory and one journal."""

    inventory: Path
    journal: Path

    @property
    def environment(self) -> dict[str, str]:
        """What the program is told by the environment."""
        told = {"MIGRATOR_INVENTORY": str(self.inventory), "MIGRATOR_JOURNAL": str(self.journal), "MIGRATOR_LOG": ""}
        return os.environ | told

    @staticmethod
    def argv(*words: str) -> list[str]:
        """The program of the environment that this Python is in."""
        return [str(Path(sys.executable).parent / "migrator"), *words]

    def attempt(self, *words: str, limit_s: float = LIMIT_S) -> "subprocess.CompletedProcess[str]":
        """Run it to its end, whatever that is. Raises TimeoutExpired."""
        return subprocess.run(
            self.argv(*words),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=limit_s,
        )

    def run(self, *words: str, status: int = 0, limit_s: float = LIMIT_S) -> str:
        """Run it to its end; its standard output. Raises CommandError for another exit status."""
        done = self.attempt(*words, limit_s=limit_s)
        if done.returncode != status:
            raise CommandError(f"migrator {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Start it; what it says comes over one pipe."""
        return subprocess.Popen(
            self.argv(*words),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
