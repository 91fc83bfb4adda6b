"""`migrator scenario`: the four scenarios from the field, and what the runner itself promises."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from scenarios.lab import record
from scenarios.lab.fixtures import need_root
from scenarios.lab.remains import remains
from scenarios.runner import play
from scenarios.runner.format import ScenarioError, read

ACCEPTANCE = ("openvz-venet", "openvz-veth", "vserver-alias", "vserver-pair")
PROGRAM = str(Path(sys.executable).parent / "migrator")
LIMIT_S = 400
BARE = """
title = "a host"
[[host]]
name = "alpha"
"""


def scenario(*words: str) -> "subprocess.CompletedProcess[str]":
    """`migrator scenario WORDS...`"""
    argv = [PROGRAM, "scenario", *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=LIMIT_S)


def file(directory: Path, *steps: str, head: str = BARE) -> Path:
    """A scenario file of these steps."""
    path = directory / "made.toml"
    path.write_text(head + "".join(f"[[step]]\n{step}\n" for step in steps))
    return path


def told(lines: Sequence[str], beginning: str) -> str:
    """The first line that begins so, white space aside."""
    return next(line.strip() for line in lines if line.strip().startswith(beginning))


# --- the format -------------------------------------------------------------------------------------


def test_scenarios_of_the_checkout_can_be_read() -> None:
    """All of them, the four from the field among them, and each has a title."""
    found = play.catalogue()

    assert set(ACCEPTANCE) <= {each.name for each in found}
    assert all(each.title and each.steps for each in found)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ('type = "ls"', "step 1: type: host is missing"),
        ('type = "ls"\nhost = "gamma"', "step 1: there is no host 'gamma'"),
        ('type = "ls"\nhost = "alpha"\nsaid = "x"', "step 1: type: unknown 'said'; known are "),
        ('type = "ls"\nhost = "alpha"\nstatus = "0"', "step 1: type: status = '0' is not of the kind"),
        ('type = "ls"\nmigrator = "status"', "step 1: wanted one of "),
        ('interface = "br0"\nhost = "alpha"\nstate = "on"', "state = 'on': wanted up or down or absent"),
        ('connection = "same"\nclient = "a"', "step 1: client 'a' has not connected before"),
        ('as_remembered = "alpha"', "step 1: host 'alpha' has not been remembered before"),
        ('reachable = "x:1"\nis_ = false', "step 1: reachable: unknown 'is_'; known are "),
    ],
)
def test_a_slip_in_a_step_is_told(tmp_path: Path, step: str, words: str) -> None:
    """What is wrong, in which step; nothing is taken for a check that checks nothing."""
    with pytest.raises(ScenarioError) as error:
        read(file(tmp_path, step))

    assert words in str(error.value)


def test_all_slips_are_told_at_once(tmp_path: Path) -> None:
    """Host, address, step and top of the file; the command line ends with 7 and has made no lab."""
    head = 'titel = "x"\n[addresses]\nweb = 7\n[[host]]\nname = "alpha"\nroles = ["xen"]\n'

    done = scenario("run", str(file(tmp_path, 'type = "ls"', head=head)))

    assert done.returncode == 7
    for words in ("title is missing", "unknown 'titel'", "web = 7", "unknown roles ['xen']", "host is missing"):
        assert words in done.stderr
    assert str(tmp_path / "made.toml") in done.stderr


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """Ends with 8 and says where names come from."""
    done = scenario("run", str(tmp_path / "none.toml"))

    assert done.returncode == 8
    assert "migrator scenario list" in done.stderr


# --- the runner -------------------------------------------------------------------------------------


@pytest.mark.lab
@pytest.mark.slow
@pytest.mark.parametrize("name", ACCEPTANCE)
def test_acceptance(name: str) -> None:
    """A VE is deployed as in the field, moved, and reachable at its address; the source is as it was. The lab is gone."""
    need_root()

    done = scenario("run", name, "--json")

    assert done.returncode == 0, done.stdout + done.stderr
    played = json.loads(done.stdout)
    assert played["good"] is True
    assert remains(played["lab"]) == []


@pytest.mark.lab
def test_a_failed_expectation(tmp_path: Path) -> None:
    """Says what was expected and what was found, makes the checks behind it, does nothing more; status 1, no lab left."""
    need_root()
    steps = (
        'type = "echo one; echo more >&2"\nhost = "alpha"\nanswer = "two"',
        'interface = "br0"\nhost = "alpha"\nstate = "up"',
        'interface = "br0"\nhost = "alpha"\nstate = "absent"',
        'type = "touch /root/never"\nhost = "alpha"',
    )

    done = scenario("run", str(file(tmp_path, *steps)))

    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert told(lines, "expected:") == "expected: the answer 'two'"
    assert told(lines, "found:") == "found:    'one'"
    assert "expected: br0 absent" in done.stdout
    assert "br0 on alpha is up" in done.stdout
    assert "touch /root/never" not in done.stdout
    assert "made: 3 of 4 steps done, NOT as it should be: step 1, 3" in lines
    assert not [name for name in record.names() if name.startswith("s") and not _alive(name)]


@pytest.mark.lab
def test_what_is_left_is_found(tmp_path: Path) -> None:
    """A file, an address, a rule and a link that were not there, and one that has gone, each by name."""
    need_root()
    lines = ("touch /root/crumb /srv/x", "ip address add 192.0.2.7/32 dev br0", "ip link add left0 type bridge")
    steps = (
        'type = "touch /root/had"\nhost = "alpha"',
        'remember = "alpha"',
        'as_remembered = "alpha"',
        f'type = """\n{chr(10).join(lines)}\nrm /root/had\n"""\nhost = "alpha"',
        'as_remembered = "alpha"',
    )

    done = scenario("run", str(file(tmp_path, *steps)), "--json")

    played = json.loads(done.stdout)
    assert [step["expected"] for step in played["steps"]] == ["", "", "", "", "alpha as it was"]
    for words in (
        "left: file /root/crumb", "left: file /srv/x", "left: address br0 192.0.2.7/32", "left: link left0",
        "gone: file /root/had",
    ):  # fmt: skip
        assert words in played["steps"][-1]["found"]


@pytest.mark.lab
@pytest.mark.parametrize(("sent", "options"), [(signal.SIGINT, ()), (signal.SIGTERM, ("--json",))])
def test_interrupted(tmp_path: Path, sent: signal.Signals, options: tuple[str, ...]) -> None:
    """Ctrl-C or SIGTERM in the middle of a step: status 130, and nothing of the lab is left."""
    need_root()
    mark = tmp_path / "reached"
    mark.write_text("")
    path = file(tmp_path, 'type = "sleep 300"\nhost = "alpha"', 'type = "true"\nhost = "alpha"')
    # As at a terminal: what a shell starts in the background ignores Ctrl-C, and so would this.
    argv = ["env", "--default-signal=INT", PROGRAM, "scenario", "run", str(path), *options]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        _wait_until_it_sleeps(f"s{running.pid}")
        running.send_signal(sent)
        _, errors = running.communicate(timeout=LIMIT_S)

    assert running.returncode == 130
    assert "interrupted; the lab is taken down" in errors
    assert remains(f"s{running.pid}") == []


@pytest.mark.lab
def test_kept(tmp_path: Path) -> None:
    """--keep leaves the lab up, and says how to get into it and rid of it."""
    need_root()
    path = file(tmp_path, 'type = "touch /root/here"\nhost = "alpha"')
    try:
        done = scenario("run", str(path), "--keep", "--lab", "sckept")
        argv = [sys.executable, "-m", "scenarios.lab", "exec", "--name", "sckept", "alpha", "--", "ls", "/root/here"]
        found = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    finally:
        argv = [sys.executable, "-m", "scenarios.lab", "down", "--name", "sckept"]
        subprocess.run(argv, capture_output=True, check=True, timeout=LIMIT_S)

    assert done.returncode == 0, done.stderr
    assert "make lab-down LAB=sckept" in done.stdout
    assert found.stdout == "/root/here\n"


def _alive(name: str) -> bool:
    return Path(f"/proc/{name[1:]}").exists() or not name[1:].isdigit()


def _wait_until_it_sleeps(lab: str) -> None:
    """Until the host's shell is in the middle of its line."""
    while True:
        for words in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                inside = f"/{lab}/" in (words.parent / "cgroup").read_text()
                if inside and words.read_bytes() == b"sleep\x00300\x00":
                    return
            except OSError:
                continue
