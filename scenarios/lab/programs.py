"""Runs programs on this machine and inside the places of a lab.

Rule: what is run inside a place ends with the place, and a program that is given up on is ended there too.
"""

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

ENTER_GROUPS = 'while [ "$1" != -- ]; do echo 0 > "$1/cgroup.procs" || exit 125; shift; done; shift; exec "$@"'
"""A shell that joins the cgroups named before `--` and becomes the program after it."""


class ProgramError(RuntimeError):
    """A program ended with another status than 0; the message carries its last words."""

    def __init__(self, argv: Sequence[str], status: int, words: str) -> None:
        self.status = status
        super().__init__(f"{' '.join(argv)} ended with {status}: {words.strip()[-2000:] or 'it said nothing'}")


def run(
    argv: Sequence[str],
    *,
    check: bool = True,
    text: str | None = None,
    limit_s: float = 120,
    named: Sequence[str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; `text` is its standard input. Raises ProgramError or TimeoutExpired."""
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL if text is None else None,
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=limit_s,
    )
    if check and done.returncode:
        raise ProgramError(named or argv, done.returncode, done.stderr or done.stdout)
    return done


class Place(ABC):
    """Somewhere in a lab where programs can be run."""

    @abstractmethod
    def argv(self, words: Sequence[str], *, on_parent_death: str = "KILL") -> list[str]:
        """Argument list that runs `words` there when it is run on this machine."""

    def run(
        self, *words: str, check: bool = True, text: str | None = None, limit_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a program there to its end. Raises ProgramError with its error output unless `check` is off."""
        return run(self.argv(words), check=check, text=text, limit_s=limit_s, named=words)

    def popen(
        self,
        *words: str,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = subprocess.PIPE,
        stderr: int | IO[Any] | None = subprocess.PIPE,
    ) -> "subprocess.Popen[str]":
        """Start a program there; ending it with terminate() ends it there."""
        argv = self.argv(words, on_parent_death="TERM")
        return subprocess.Popen(argv, stdin=stdin, stdout=stdout, stderr=stderr, text=True)


class Outside(Place):
    """The lab's client: this machine's files, but a network namespace of its own on the switch."""

    def __init__(self, netns: str, group: Path, address: str, address6: str) -> None:
        self.netns = netns
        self.group = group
        self.address = address
        self.address6 = address6

    def argv(self, words: Sequence[str], *, on_parent_death: str = "KILL") -> list[str]:
        """See Place; the program replaces the ones that lead to it, so that signals reach it."""
        return joined((self.group,), in_netns(self.netns, words))


def joined(groups: Sequence[Path], argv: Sequence[str]) -> list[str]:
    """Argument list that runs `argv` as a member of these cgroups."""
    return ["sh", "-c", ENTER_GROUPS, "sh", *map(str, groups), "--", *argv]


def in_netns(netns: str, argv: Sequence[str]) -> list[str]:
    """Argument list that runs `argv` in a named network namespace."""
    return ["nsenter", f"--net=/run/netns/{netns}", "--", *argv]


def environment(extra: Mapping[str, str] | None = None) -> list[str]:
    """`env` with what a program on a freshly booted host would find, nothing of the caller's."""
    plain = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
    }
    return ["env", "-i", *(f"{key}={value}" for key, value in (plain | dict(extra or {})).items())]
