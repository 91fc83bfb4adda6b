"""Memory that is changed and checked by its owner all the time is moved there and back, and no page of it is ever wrong."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrator.wire.facts import MemoryMethod
from scenarios.faults import eyes
from scenarios.lab import bundles, workloads
from scenarios.lab.command import CommandLine
from scenarios.lab.fleet import Lab
from scenarios.lab.hosts import Host

pytestmark = pytest.mark.lab

TIMES = int(os.environ.get("MIGRATOR_TEST_ROUNDTRIPS", "1"))
PROGRAM = "/usr/local/bin/weaver"
PAGES = 4 * 3000
NUMBERS = {"tracked": 243, "content": 244, "post-copy": 245}
POST_COPY = ("--memory", MemoryMethod.TRACKED, "--over-budget", "post-copy", "--budget", "1")
"""No blackout is as short as this budget, so that every move leaves something on the source."""
ANSWER_LIMIT_S = 60.0


class Weaver:
    """The VE on alpha, see weaver.c; and the command line."""

    def __init__(self, lab: Lab, directory: Path, way: str) -> None:
        self.lab, self.ve, self.way = lab, f"weaver-{way}", way
        self._command = CommandLine(lab.inventory, directory / "journal.db")
        for host in lab.hosts:
            self._command.run("host", "add", host.name)
        made = directory / "weaver"
        source = Path(workloads.__file__).parent / "weaver.c"
        subprocess.run(["cc", "-O1", "-static", "-pthread", "-o", str(made), str(source)], check=True)
        alpha = lab.host("alpha")
        alpha.path(PROGRAM).write_bytes(made.read_bytes())
        alpha.path(PROGRAM).chmod(0o755)
        words = [self.ve, "crun", *lab.ve_addresses(NUMBERS[way]), PROGRAM, "--", PROGRAM, "/data"]
        alpha.run("python3", "-", *words, text=Path(bundles.__file__).read_text())
        self._command.run("ve", "start", self.ve)

    def move(self, target: str) -> None:
        """This way, and no other."""
        options = POST_COPY if self.way == "post-copy" else ("--memory", self.way)
        report = json.loads(self._command.run("migrate", self.ve, target, *options, "--json"))
        assert report["memory_method"] == options[1], json.dumps(report)
        assert (report["owed_bytes"] > 0) == (self.way == "post-copy"), json.dumps(report)

    def wrong(self, host: Host) -> tuple[int, int]:
        """(how much it has checked, what was wrong of that), after it has checked everything now."""
        data = host.path(f"/var/lib/migrator/ve/{self.ve}/rootfs/data")
        (data / "answer").unlink(missing_ok=True)
        (data / "ask").touch()
        eyes.wait_for((data / "answer").exists, ANSWER_LIMIT_S)
        assert (data / "answer").exists(), f"{self.ve} does not answer on {host.name}"
        _, checked, _, wrong = (data / "answer").read_text().split()
        return int(checked), int(wrong)

    def remove(self) -> None:
        """From both hosts."""
        for host in self.lab.hosts:
            if host.path(f"/var/lib/migrator/ve/{self.ve}").exists():
                self._command.run("ve", "stop", self.ve)
            host.run(
                "rm", "-rf", f"/var/lib/migrator/ve/{self.ve}", f"/var/lib/migrator/records/{self.ve}.json", PROGRAM
            )


@pytest.fixture(params=NUMBERS)
def weaver(request: pytest.FixtureRequest, lab: Lab, tmp_path: Path) -> Iterator[Weaver]:
    """It runs on alpha."""
    made = Weaver(lab, tmp_path, request.param)
    yield made
    made.remove()


def test_no_page_is_ever_wrong(weaver: Weaver) -> None:
    """Four threads change mappings and pages, by their stacks, children and allocations too; after each move all is checked."""
    lab, before = weaver.lab, 0
    assert weaver.wrong(lab.host("alpha"))[1] == 0
    for target in ["beta", "alpha"] * TIMES:
        weaver.move(target)
        checked, wrong = weaver.wrong(lab.host(target))
        assert wrong == 0
        assert checked > before + PAGES
        before = checked
