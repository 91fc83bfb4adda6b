"""Watches a migration from this machine: the agents' logs, the ownership records, the processes, the controller's words.

Rule: it asks nobody of the migration and changes nothing; a moment is seen within about a millisecond of its being.
"""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenarios.lab import groups
from scenarios.lab.hosts import Host

LOOK_AGAIN_S = 0.001
LOG = "var/lib/migrator/agent.log"
RECORDS = "var/lib/migrator/records"
IMAGES, WORK = "run/migrator/images", "run/migrator/work"
EARLY = "descriptors.json"
"""Among the images: what a runtime writes before CRIU begins."""
AGENT, AGENT_PARENT = "agent/current serve", ("agent/current install", "agent/current supervise")
VE_GROUPS = ("migrator/", "vz-", "vserver/")
"""Where the engines put VEs, below a host's cgroup."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process of a host, as this machine numbers it."""

    pid: int
    since: str
    words: str

    @property
    def name(self) -> str:
        """The program's name."""
        first = self.words.split(" ")[0].rstrip(":")
        return first.rsplit("/", 1)[-1]

    def send(self, number: int) -> bool:
        """Signal it, if it still is the one that was seen. Returns whether it was."""
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(self.pid)
            try:
                if groups.started(self.pid) == self.since:
                    signal.pidfd_send_signal(handle, number)
                    return True
            finally:
                os.close(handle)
        return False


def processes(host: Host) -> list[Process]:
    """Every process of a host but those that VEs are made of; CRIU counts as a tool wherever it works, and what it restores
    counts to the VE, although it is called as CRIU is until it is done."""
    found = [each for pid in groups.processes(host.group) if (each := _process(pid)) is not None]
    depth = _depth(host.pid)
    return [each for each in found if not _in_ve(host, each.pid) or (each.name == "criu" and _depth(each.pid) == depth)]


def _process(pid: int) -> Process | None:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ").strip()
    except OSError:
        return None
    since = groups.started(pid)
    return Process(pid, since, words) if words and since else None


def _depth(pid: int) -> int:
    """In how many PID namespaces a process is; 0: it has gone."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/status").read_text()
        return next((len(line.split()) - 1 for line in text.splitlines() if line.startswith("NSpid:")), 0)
    return 0


def _in_ve(host: Host, pid: int) -> bool:
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/cgroup").read_text()
        return any(f"/{host.name}/{each}" in text for each in VE_GROUPS)
    return True


def agent(host: Host) -> list[Process]:
    """The agent's process."""
    return [each for each in processes(host) if AGENT in each.words]


def supervisor(host: Host) -> list[Process]:
    """What would start the agent again."""
    return [each for each in processes(host) if each.words.endswith(AGENT_PARENT)]


def tools(host: Host, names: Iterable[str]) -> list[Process]:
    """Tools that work for a migration on a host."""
    wanted = tuple(names)
    return [each for each in processes(host) if each.name in wanted]


def doors(host: Host) -> list[Process]:
    """What stands in CRIU's place while it waits."""
    return [each for each in processes(host) if "/door.py " in each.words]


def changed_ns(path: Path) -> int:
    """When a file was changed; 0: it is not there."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


class AgentLog:
    """What an agent has written since this was made."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._at = self._size()
        self.lines: list[dict[str, Any]] = []

    def _size(self) -> int:
        try:
            return self._host.path(LOG).stat().st_size
        except OSError:
            return 0

    def read(self) -> list[dict[str, Any]]:
        """The new lines. The file is not kept open: it would keep a crashed host's disk busy."""
        try:
            with self._host.path(LOG).open("rb") as file:
                file.seek(self._at)
                data = file.read()
        except (OSError, RuntimeError):
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        fresh = [line for text in whole.decode(errors="replace").splitlines() if (line := _json(text))]
        self.lines += fresh
        return fresh


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and "event" in found else {}


def record(host: Host, ve: str) -> dict[str, Any]:
    """What a host's record of the VE says now; empty: nothing."""
    try:
        found: dict[str, Any] = json.loads(host.path(f"{RECORDS}/{ve}.json").read_text())
    except (OSError, ValueError, RuntimeError):
        return {}
    return found


class Running:
    """A program of this machine whose words are read as they come."""

    def __init__(self, argv: list[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    def wait(self, limit_s: float) -> int | None:
        """Its exit status; None: it did not end in time."""
        try:
            status = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None
        self._reader.join(5)
        return status

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    def send(self, number: int) -> None:
        """Signal it."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def close(self) -> None:
        """End it, whatever it does."""
        self.send(signal.SIGCONT)
        self.send(signal.SIGKILL)
        self.wait(5)
        if self.process.stdout is not None:
            self.process.stdout.close()


def wait_for(condition: Callable[[], bool], limit_s: float, every_s: float = LOOK_AGAIN_S) -> bool:
    """Whether a condition came true within a limit."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True
