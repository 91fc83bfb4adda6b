"""One migration under way with a client at its VE: what faults are done to, and what an operator does about it.

Rule: the operator has the documented commands only, and knows only what they print.
"""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from scenarios.faults import eyes
from scenarios.faults.eyes import AgentLog, Running, wait_for
from scenarios.faults.heartbeat import Heartbeats
from scenarios.faults.kinds import BEAT_PORT, DEADLINE_S
from scenarios.faults.moments import View
from scenarios.faults.site import Site
from scenarios.lab import groups
from scenarios.lab.hosts import Host, HostError

CONTROLLER_LIMIT_S = 90.0
LEAVE_AFTER_S = 3.0
QUIET_LIMIT_S = 90.0
SERVED_LIMIT_S = 30.0
TCP_PAUSE_MAX_S = 120.0
"""TCP_RTO_MAX of Linux: the longest pause between two attempts of a client to send the same again."""
CLIENT_LIMIT_S = 90.0
SAMPLE_S = 0.005
NOTE_LENGTH = 4000


class Client:
    """The client outside, run as a program in the lab's client place."""

    def __init__(self, site: Site, fill_bytes: int) -> None:
        words = [sys.executable, "-m", "scenarios.faults.client", site.address, str(BEAT_PORT), str(fill_bytes)]
        self._process = site.lab.client.popen(*words, stdin=subprocess.PIPE, stderr=None)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError("the client could not connect to the Redis in the VE")

    def say(self, word: str) -> None:
        """Give an order that has no answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()

    def state(self) -> dict[str, object]:
        """Where it is."""
        assert self._process.stdout is not None
        self.say("state")
        told: dict[str, object] = json.loads(self._process.stdout.readline())
        return told

    def stop(self) -> dict[str, object]:
        """Its whole account."""
        output, _ = self._process.communicate("stop\n", timeout=CLIENT_LIMIT_S)
        told: dict[str, object] = json.loads(output)
        return told

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.communicate()


class Sampler(threading.Thread):
    """Reads the VE's heartbeat off the disks of both hosts: a copy that is not on the network beats there too."""

    def __init__(self, site: Site) -> None:
        super().__init__(daemon=True)
        self.beats = Heartbeats()
        self._files = {name: host.directory for name, host in site.hosts.items()}
        self._site, self._end = site, threading.Event()

    def run(self) -> None:
        """Until it is closed."""
        while not self._end.wait(SAMPLE_S):
            for name in self._files:
                try:
                    self.beats.note(self._site.beat_file(name).read_text())
                except (OSError, HostError):
                    continue

    def close(self) -> None:
        """End it."""
        self._end.set()
        self.join()


class Scene:
    """Everything of one run."""

    def __init__(self, site: Site, fill_bytes: int) -> None:
        self.site = site
        self.source_name = site.where()
        if not self.source_name:
            raise RuntimeError("the VE does not run on exactly one host before the run")
        self.target_name = site.other(self.source_name)
        self.notes: list[str] = []
        self.complaints: list[str] = []
        """What the operator could not do as documented: each is a breach."""
        self.spoiled: bool | None = None
        self.off_unix_s: dict[str, float] = {}
        """Side -> when its power was certainly off."""
        self.fenced_unix_s: dict[str, float] = {}
        """Side -> when the operator began to say that its host is off, and was heard."""
        self.before = site.last()[0]
        self.client = Client(site, fill_bytes)
        self.sampler = Sampler(site)
        self.sampler.start()
        self.logs = {"source": AgentLog(self.side("source")), "target": AgentLog(self.side("target"))}
        self.began_unix_s = time.time()
        words = ("migrate", site.ve, self.target_name, "--mode", site.form.mode, "--deadline", str(DEADLINE_S))
        self.controller = Running(site.command.argv(*words, *site.form.options), site.command.environment)

    @property
    def view(self) -> View:
        """What moments are found in."""
        source, target = self.side("source"), self.side("target")
        return View(self.site.ve, source, target, self.logs["source"], self.logs["target"], self.controller)

    def side(self, side: str) -> Host:
        """The host on this side of the migration."""
        return self.site.host(self.source_name if side == "source" else self.target_name)

    def name(self, side: str) -> str:
        """Its name."""
        return self.source_name if side == "source" else self.target_name

    def crash(self, side: str) -> None:
        """Its host loses power."""
        self.side(side).crash()
        self.off_unix_s[side] = time.time()

    def logged(self, side: str, event: str) -> bool:
        """Whether an agent has logged such an event in this run."""
        self.logs[side].read()
        return any(str(line["event"]).startswith(event) for line in self.logs[side].lines)

    def migration(self) -> str:
        """This run's migration; empty: the journal does not have it (yet)."""
        last = self.site.last()[0]
        return last if last != self.before else ""

    def ended(self) -> str:
        """The phase in which this run's migration ended; empty: it has not, or there is none."""
        migration, phase = self.site.last()
        return phase if migration != self.before else ""

    def note(self, done: "subprocess.CompletedProcess[str]") -> None:
        """Keep what a command of the operator said."""
        words = " ".join(done.args[1:])
        self.notes.append(f"$ migrator {words}  -> {done.returncode}\n{(done.stdout + done.stderr).strip()}")

    # --- the operator ----------------------------------------------------------------------------

    def wait_for_controller(self) -> None:
        """Until the first controller has ended; one that does not is ended by hand, and that is noted."""
        if self.controller.wait(CONTROLLER_LIMIT_S) is None:
            self.complaints.append(f"the controller had not ended after {CONTROLLER_LIMIT_S:g} s and was killed")
            self.controller.close()

    def leave_controller(self) -> None:
        """The operator does not wait for a host that is known to be dead: Ctrl-C, and once more."""
        if self.controller.wait(LEAVE_AFTER_S) is None:
            self.controller.send(signal.SIGINT)
            if self.controller.wait(1) is None:
                self.controller.send(signal.SIGINT)
        self.wait_for_controller()

    def recover_until_quiet(self, limit_s: float = QUIET_LIMIT_S) -> bool:
        """`recover`, again and again, until the journal has nothing unfinished. Returns whether that came."""
        deadline = time.monotonic() + limit_s
        while self.site.unfinished() and time.monotonic() < deadline:
            self.note(self.site.migrator("recover"))
            if self.site.unfinished():
                time.sleep(1)
        return not self.site.unfinished()

    def fence(self, side: str) -> None:
        """The operator's word that a host is off, as soon as no controller holds the migration."""
        deadline = time.monotonic() + QUIET_LIMIT_S
        while self.site.unfinished() and time.monotonic() < deadline:
            said_unix_s = time.time()
            done = self.site.migrator("fence", self.name(side), "--why", "its power is off", "--yes")
            self.note(done)
            if "left to it" not in done.stderr:
                self.fenced_unix_s[side] = said_unix_s
                return
            time.sleep(1)

    def runs_without(self, side: str) -> None:
        """The VE runs while a host is off."""
        if not self.runs_again(SERVED_LIMIT_S):
            self.complaints.append(f"the VE did not run within {SERVED_LIMIT_S:g} s of the operator's word on {side}")

    def served(self) -> bool:
        """Whether the client's writes are answered, waited for.

        After an outage the client's own kernel waits: each attempt to send again comes after twice the pause of the one
        before, so that the next is up to as long away as the outage was long (RFC 6298, 5.5).
        """
        since, last_write_unix_s = time.time(), self._last_write_unix_s()
        limit_s = SERVED_LIMIT_S + min(max(0.0, since - last_write_unix_s), TCP_PAUSE_MAX_S)
        return wait_for(lambda: self._last_write_unix_s() > since and self._beat_since(since), limit_s, 0.05)

    def _last_write_unix_s(self) -> float:
        return float(str(self.client.state()["last_write_unix_s"]))

    def runs_again(self, limit_s: float) -> bool:
        """Whether a copy runs, waited for."""
        since = time.time()
        return wait_for(lambda: self._beat_since(since), limit_s, 0.02)

    def _beat_since(self, unix_s: float) -> bool:
        return max(self.sampler.beats.last_unix_s, 0.0) > unix_s

    def fill_memory(self, host: Host, file: str, spare_kb: int) -> None:
        """Take a host's memory, by a file in its RAM, up to a little below its limit."""
        group = groups.limited(host.lab, host.name)
        used = 0
        if group.is_dir():
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            used = int(stat["total_rss"]) + int(stat.get("total_shmem", 0))
            used += int((group / "memory.kmem.usage_in_bytes").read_text())
        else:
            stat = dict(line.split() for line in (host.group / "memory.stat").read_text().splitlines())
            used = int(stat["anon"]) + int(stat["shmem"]) + int(stat["kernel"])
        left_kb = (self.site.form.memory_mb << 10) - used // 1024 - spare_kb
        host.run("sh", "-c", f"head -c {max(0, left_kb)}k /dev/zero > {file}", check=False)

    def keep_evidence(self, directory: Path, breaches: Sequence[str], told: dict[str, object]) -> None:
        """Everything that somebody needs who was not there."""
        directory.mkdir(parents=True, exist_ok=True)
        for side, log in self.logs.items():
            log.read()
            text = "\n".join(json.dumps(line) for line in log.lines)
            (directory / f"{side}-{self.name(side)}.log").write_text(text + "\n")
        words = [*self.controller.lines, "", *(note[:NOTE_LENGTH] for note in self.notes)]
        (directory / "controller.txt").write_text("\n".join(words) + "\n")
        (directory / "breaches.txt").write_text("\n".join(breaches) + "\n")
        (directory / "client.json").write_text(json.dumps(told, indent=1) + "\n")

    def close(self) -> None:
        """End what this run started on this machine."""
        self.controller.close()
        self.client.close()
        self.sampler.close()


def agents_answer(site: Site) -> None:
    """Both agents run, or are started."""
    for host in site.hosts.values():
        if not eyes.agent(host):
            host.run("/etc/init.d/migrator-agent", "start", check=False)
