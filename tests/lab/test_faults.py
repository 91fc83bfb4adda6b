"""Real faults in real migrations: a part of what `make faults` does, and what is promised of single ones by number.

Every run is judged as there: one running copy, every acknowledged write, the client's connection, nothing left over on
either host, the thaw within 100 ms, the dark time within the deadline.
"""

import contextlib
import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrator.cli.exits import Exit
from scenarios.faults import eyes, matrix, trial
from scenarios.faults.kinds import DEADLINE_S
from scenarios.faults.site import Site
from scenarios.faults.trial import Result, Trial
from scenarios.lab import fleet
from scenarios.lab.fixtures import need_root, own_name, remove_abandoned

pytestmark = pytest.mark.lab
SEED = 1
LEAVE_LIMIT_S = 10.0
"""From the second Ctrl-C to the end of the program; the links to the hosts are closed in order."""


class Stage:
    """A site for many runs, made anew after one that left it out of order."""

    def __init__(self, name: str, engine: str = "oci") -> None:
        self._name, self._engine = name, engine
        self._site: Site | None = None

    @property
    def site(self) -> Site:
        """In order."""
        self._site = self._site or Site.up(self._name, self._engine)
        return self._site

    def run(self, name: str, evidence: Path) -> Result:
        """One run by its name, judged; the moment has to come."""
        [each] = matrix.named(SEED, name, self._engine)
        result = trial.run(self.site, each, evidence)
        if result.verdict.breaches:
            self.borrow()
        assert not result.verdict.breaches, f"{each.repeat}: {result.verdict.breaches}"
        assert result.reached, f"{name}: the moment did not come"
        return result

    def borrow(self) -> Site:
        """For a test that does other things with it; not used again unless it is given back, in order."""
        site, self._site = self.site, None
        return site

    def give_back(self, site: Site) -> None:
        """With nothing on either host that was not there before."""
        for name in site.hosts:
            seen = site.look(name)
            assert site.out_of_order(name, seen, home=seen.runs) == []
        self._site = site


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """One lab for all of these tests."""
    need_root()
    remove_abandoned()
    name = own_name("q")
    yield Stage(name)
    fleet.down(name)


LOST_POWER = "target-crash@target wrote owner"
SUBSET = (
    "kill-source-agent@source wrote given",
    "kill-target-agent@target did hold",
    "kill-target-crun@target runs crun restore",
    "kill-source-rsync@source runs rsync",
    "kill-source-ssh@source did dump",
    "source-line-short@source did send",
    "target-disk-full@target did accept",
    "target-memory-full@source did freeze",
    LOST_POWER,
)


@pytest.mark.parametrize("name", SUBSET)
def test_fault(stage: Stage, tmp_path: Path, name: str) -> None:
    """Whatever is broken, and whenever: the rule holds."""
    stage.run(name, tmp_path)


@pytest.mark.parametrize("engine", ["openvz", "vserver"])
def test_other_engines(tmp_path: Path, engine: str) -> None:
    """The rule is every engine's: an agent killed after the point of no return, a line cut in the blackout, power lost."""
    need_root()
    name = own_name(engine[0])
    try:
        stage = Stage(name, engine)
        for each in ("kill-source-agent@source wrote given", "target-line-short@source did freeze", LOST_POWER):
            stage.run(each, tmp_path)
    finally:
        fleet.down(name)


@pytest.mark.parametrize("change", ["image-flipped", "image-truncated"])
def test_spoiled_image_is_refused_and_the_source_thaws_at_once(stage: Stage, tmp_path: Path, change: str) -> None:
    """Not restored, and the source runs within 100 ms of its decision to undo."""
    result = stage.run(f"{change}@source did freeze", tmp_path)

    assert any(event.startswith("did not hold: corrupt") for event in result.said["target"]), result.said["target"]
    assert "did hold" not in result.said["target"]
    assert result.ended == "undone"
    [thaw_ms] = result.verdict.thaws_ms
    assert thaw_ms <= 100


def test_criu_killed_in_its_dump_harms_nobody(stage: Stage, tmp_path: Path) -> None:
    """Killed with the VE in its hands, at whatever moment of its dump that is: the VE goes on, the connection as well."""
    ends = [
        trial.run(stage.site, Trial("kill-source-criu", "source runs criu", SEED, number), tmp_path)
        for number in range(4)
    ]

    assert [result.verdict.breaches for result in ends] == [[]] * 4
    assert "undone" in [result.ended for result in ends]


@pytest.mark.parametrize("moment", ["source did freeze", "source wrote given"])
def test_blackout_without_a_controller(stage: Stage, tmp_path: Path, moment: str) -> None:
    """`kill -9` of the controller in the middle of the blackout: the hosts bring the VE back on one side, within the deadline."""
    result = stage.run(f"kill-controller@{moment}", tmp_path)

    assert 0 < result.verdict.dark_s <= DEADLINE_S
    assert result.ended == "done"


def test_dead_source(stage: Stage, tmp_path: Path) -> None:
    """The source loses power when the target holds a complete image: after `fence` the VE runs there, and no write is lost."""
    result = stage.run("source-dead@target did hold", tmp_path)

    assert result.ended == "done"


class Terminal:
    """The program at a terminal of its own, as a person runs it."""

    def __init__(self, site: Site, *words: str) -> None:
        self._keyboard, screen = pty.openpty()
        self._text = ""
        self._process = subprocess.Popen(
            ["setsid", "--ctty", *site.command.argv(*words)],
            env=site.command.environment,
            stdin=screen,
            stdout=screen,
            stderr=screen,
        )
        os.close(screen)
        os.set_blocking(self._keyboard, False)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._keyboard)

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.write(self._keyboard, b"\x03")

    def shows(self, words: str, limit_s: float = 30.0) -> bool:
        """Whether the words come, waited for."""
        return eyes.wait_for(lambda: words in self.text, limit_s, 0.01)

    def ends(self, limit_s: float) -> int | None:
        """Its exit status; None: not in time."""
        eyes.wait_for(lambda: bool(self.text) and self._process.poll() is not None, limit_s, 0.01)
        return self._process.returncode

    @property
    def text(self) -> str:
        """All that was on the screen; where lines were broken does not count."""
        with contextlib.suppress(OSError):  # nothing there, or the program has ended
            while data := os.read(self._keyboard, 1 << 16):
                self._text += data.decode(errors="replace")
        return " ".join(self._text.split())


def test_second_interrupt_leaves_and_says_how_to_go_on(stage: Stage) -> None:
    """Ctrl-C twice at a real terminal while the source cannot answer: status 130, no traceback, and the command that goes on.

    The same command again names the migration that is not over; one Ctrl-C leaves its recovery, which aborts nothing.
    """
    site = stage.borrow()
    source, target = site.host(site.where()), site.host(site.other(site.where()))
    with Terminal(site, "migrate", site.ve, target.name, "--bandwidth", "1") as terminal:
        assert terminal.shows("copying while it runs")
        stopped = eyes.agent(source)
        for process in stopped:
            process.send(signal.SIGSTOP)
        terminal.interrupt()
        assert terminal.shows("aborting: what has not been handed over is undone")
        terminal.interrupt()
        left = terminal.ends(LEAVE_LIMIT_S)
    [migration] = site.unfinished()
    how_to_go_on = f"Next: migrator resume {migration} (or see: migrator status)"
    assert (left, "Traceback" in terminal.text) == (Exit.DETACHED, False), terminal.text
    assert f"nobody drives migration {migration} now" in terminal.text
    assert how_to_go_on in terminal.text

    with Terminal(site, "recover") as terminal:
        assert terminal.shows("asking both hosts where it is")
        terminal.interrupt()
        assert terminal.ends(LEAVE_LIMIT_S) == Exit.DETACHED, terminal.text
        assert how_to_go_on in terminal.text

    again = site.migrator("migrate", site.ve, target.name)
    for process in stopped:
        process.send(signal.SIGCONT)
    resumed = site.migrator("resume", migration)
    assert (again.returncode, f"migrator resume {migration}" in again.stderr) == (Exit.REFUSED, True), again
    assert resumed.returncode == Exit.UNDONE, resumed
    assert site.where() == source.name
    stage.give_back(site)


def test_the_command_of_a_killed_controller_again(stage: Stage) -> None:
    """`kill -9` while it copies, and the same command: refused with the way on, and `resume` goes on copying to the end."""
    site = stage.borrow()
    source, target = site.where(), site.other(site.where())
    with Terminal(site, "migrate", site.ve, target, "--bandwidth", "20") as terminal:
        assert terminal.shows("copying while it runs")
    [migration] = site.unfinished()
    again = site.migrator("migrate", site.ve, target)
    assert again.returncode == Exit.REFUSED
    assert "if that program is dead its hold ends within 20 s" in again.stderr
    assert "Traceback" not in again.stderr
    done = None
    for _ in range(60):
        done = site.migrator("resume", migration)
        if "another controller drives" not in done.stderr:
            break
        time.sleep(0.5)
    assert done is not None
    assert done.returncode == Exit.DONE, done
    assert site.where() == target != source
    stage.give_back(site)
