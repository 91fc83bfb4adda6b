"""One container as vzctl sees it: its files, its status words, and the voice in which vzctl speaks of it."""

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from . import conf, kernel


class ExitError(Exception):
    """Ends a command with an exit code; the message, if any, goes to stderr."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass
class Voice:
    """Stdout, stderr and the log, as --quiet leaves them."""

    quiet: bool = False
    log: Path | None = None
    ctid: int = 0

    def say(self, text: str) -> None:
        """A line for stdout."""
        self._note(text)
        if not self.quiet:
            print(text, flush=True)

    def complain(self, text: str) -> None:
        """A line for stderr."""
        self._note(text)
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def _note(self, text: str) -> None:
        if self.log is not None:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S+0000", time.gmtime())
            with self.log.open("a") as file:
                file.write(f"{stamp} vzctl : CT {self.ctid} : {text.strip()}\n")


@dataclass
class Ct:
    """One container; `values` is its config, empty when it has none."""

    ctid: int
    host: dict[str, str]
    values: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, ctid: int, host: dict[str, str]) -> "Ct":
        """The container with what its config says now."""
        ct = cls(ctid, host)
        if ct.config.exists():
            ct.values = conf.read(ct.config)
        return ct

    @property
    def config(self) -> Path:
        """Its config file."""
        return conf.ETC / "conf" / f"{self.ctid}.conf"

    @property
    def private(self) -> Path:
        """Its private area."""
        return Path(self._path("VE_PRIVATE"))

    @property
    def root(self) -> Path:
        """Its mount point."""
        return Path(self._path("VE_ROOT"))

    def _path(self, key: str) -> str:
        return conf.with_id(self.values.get(key) or self.host[key], self.ctid)

    @property
    def dump(self) -> Path:
        """The default dump."""
        return Path(self.host["DUMPDIR"]) / f"Dump.{self.ctid}"

    @property
    def lock(self) -> Path:
        """The lock file."""
        return Path(self.host["LOCKDIR"]) / f"{self.ctid}.lck"

    @property
    def exists(self) -> bool:
        """Config and private area are both there."""
        return self.config.exists() and self.private.is_dir()

    @property
    def mounted(self) -> bool:
        """Whether the root is mounted."""
        point = os.path.realpath(self.root).replace(" ", "\\040")
        return any(line.split()[4] == point for line in Path("/proc/self/mountinfo").read_text().splitlines())

    @property
    def running(self) -> bool:
        """Whether it has processes; a frozen one counts."""
        return kernel.running(self.ctid)

    def status(self) -> str:
        """The answer of `vzctl status`."""
        running = self.running
        words = [
            "CTID",
            str(self.ctid),
            "exist" if self.exists else "deleted",
            "mounted" if self.mounted else "unmounted",
            "running" if running else "down",
        ]
        if self.exists and not running and self.dump.exists():
            words.append("suspended")
        return " ".join(words)

    def script(self, kind: str) -> Path:
        """An action script of this container."""
        return conf.ETC / "conf" / f"{self.ctid}.{kind}"


def ids() -> list[int]:
    """All containers that have a config, by number."""
    return sorted(int(path.stem) for path in (conf.ETC / "conf").glob("*.conf") if path.stem.isdigit())


def by_name(word: str) -> int:
    """The id a word on the command line means; raises ExitError 21."""
    if word.isdigit() and int(word) <= 2147483644:
        return int(word)
    link = conf.ETC / "names" / word
    if "/" not in word and link.is_symlink():
        stem = Path(os.readlink(link)).stem
        if stem.isdigit():
            return int(stem)
    raise ExitError(21, f"Bad CT ID {word}")
