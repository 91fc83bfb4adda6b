"""A lab comes up and goes away whole, whatever happened to the one before it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scenarios.lab import fleet, record
from scenarios.lab.fixtures import need_root, own_name
from scenarios.lab.fleet import Lab
from scenarios.lab.hosts import Host, HostError
from scenarios.lab.programs import ProgramError
from scenarios.lab.record import NoLabError
from scenarios.lab.remains import remains
from scenarios.lab.topology import HostSpec, Topology, hosts

pytestmark = pytest.mark.lab


@pytest.fixture
def name() -> Iterator[str]:
    """The name of a lab of this test's own; whatever is left of it goes afterwards."""
    need_root()
    chosen = own_name("u")
    yield chosen
    fleet.down(chosen)


def test_down_leaves_nothing(name: str) -> None:
    """After down there is no process, mount, namespace, link, cgroup or file; down again says so and does no harm."""
    lab = Lab.up(Topology(name, hosts("one", "two", "three")))
    forking = "setsid sleep 1000 & unshare -p -f -m sleep 1000"
    with lab.client.popen("sleep", "1000") as client, lab.host("two").popen("sh", "-c", forking):
        assert remains(name)
        lab.down()
        assert client.wait(timeout=10) != 0

    assert remains(name) == []
    assert fleet.down(name) is False
    with pytest.raises(NoLabError, match=f"no lab '{name}' is up"):
        Lab.load(name)


def test_labs_live_side_by_side(name: str) -> None:
    """Two labs on one machine have networks of their own, and taking one down leaves the other."""
    other = own_name("w")
    first, second = Lab.up(Topology(name, hosts("same"))), Lab.up(Topology(other, hosts("same")))
    try:
        assert first.record.subnet != second.record.subnet
        first.host("same").run("sh", "-c", f"! ping -q -c1 -W1 {second.host('same').address}")
        first.down()
        assert second.host("same").run("hostname").stdout == "same\n"
    finally:
        fleet.down(other)
    assert remains(other) == []


MOMENTS = {
    "noted": lambda name: (record.directory(name) / "lab.json").exists(),
    "switch": lambda name: Path(f"/run/netns/{name}-sw").exists(),
    "first host": lambda name: _keeper(name, 0) > 0,
    "second host": lambda name: _keeper(name, 1) > 0,
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_up_killed_half_way(name: str, moment: str, how: signal.Signals) -> None:
    """An `up` that was killed at any moment leaves nothing that the next `up` or `down` does not take away."""
    for _ in range(2):
        argv = [sys.executable, "-m", "scenarios.lab", "up", "--fresh", "--name", name]
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as started:
            deadline = time.monotonic() + 30
            while not MOMENTS[moment](name) and started.poll() is None:
                assert time.monotonic() < deadline
            started.send_signal(how)

    lab = Lab.up(Topology(name))

    assert [host.run("hostname").stdout for host in lab.hosts] == ["alpha\n", "beta\n"]
    lab.down()
    assert remains(name) == []


def test_lab_that_lost_its_notes_is_still_removed(name: str) -> None:
    """Down finds everything by the lab's name alone when lab.json is gone or unreadable."""
    lab = Lab.up(Topology(name, hosts("one")))
    (lab.directory / "lab.json").write_text("{half")

    fleet.down(name)

    assert remains(name) == []


def test_up_again_keeps_a_whole_lab(name: str) -> None:
    """At the prompt, up leaves a lab that is up alone; --fresh, or a missing host, makes it anew."""
    up = [sys.executable, "-m", "scenarios.lab", "up", "--name", name]
    subprocess.run(up, check=True, stdout=subprocess.DEVNULL)
    first = Lab.load(name).host("alpha").pid

    again = subprocess.run(up, check=True, capture_output=True, text=True)
    kept = Lab.load(name).host("alpha").pid
    Lab.load(name).host("beta").crash()
    subprocess.run(up, check=True, stdout=subprocess.DEVNULL)

    assert "is up already" in again.stdout
    assert kept == first
    assert Lab.load(name).host("alpha").pid != first
    assert Lab.load(name).host("beta").alive


def test_small_disk_is_full_when_it_is_full(name: str) -> None:
    """A host with a disk limit runs out of space, in its root and where VEs live, and keeps its disk over a crash."""
    lab = Lab.up(Topology(name, (HostSpec("small", disk_mb=64),)))
    small = lab.host("small")

    for place in ("/var/lib/migrator/big", "/root/big"):
        with pytest.raises(ProgramError, match="No space left"):
            small.run("sh", "-c", f"head -c 100M /dev/zero > {place}")
        small.run("rm", place)
    small.run("sh", "-c", "echo kept > /vz/kept; sync")
    small.crash()
    small.boot()

    assert small.run("cat", "/vz/kept").stdout == "kept\n"
    lab.down()
    assert remains(name) == []


def test_memory_limit_holds(name: str) -> None:
    """A host with a memory limit cannot use more than that, tmpfs included."""
    lab = Lab.up(Topology(name, (HostSpec("small", memory_mb=96),)))

    greedy = lab.host("small").run("python3", "-c", "x = b'x' * (200 << 20)", check=False)

    assert greedy.returncode in (137, -9)
    assert lab.host("small").run("hostname").stdout == "small\n"
    lab.down()
    assert remains(name) == []


def test_host_that_cannot_boot_says_why(name: str) -> None:
    """A host whose boot fails gives the end of its console, at once and not after a time limit."""
    lab = Lab.up(Topology(name, hosts("one")))
    one: Host = lab.host("one")
    one.run("sh", "-c", "echo 'import nothing_like_this' > /usr/local/sbin/lab-init")
    one.crash()

    before = time.monotonic()
    with pytest.raises(HostError, match=r"(?s)one did not come up.*nothing_like_this"):
        one.boot()

    assert time.monotonic() - before < 10


def test_state_is_private(name: str) -> None:
    """The key to the lab's hosts is readable by root only."""
    lab = Lab.up(Topology(name, hosts("one")))

    assert os.stat(lab.directory).st_mode & 0o777 == 0o700


def _keeper(name: str, number: int) -> int:
    try:
        return record.load(name).hosts[number].keeper_pid
    except NoLabError:
        return 0
