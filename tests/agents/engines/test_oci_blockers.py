"""What the oci engine says of odd things in a running VE, held against what CRIU does with them."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from migrator.wire.faults import FaultError
from scenarios.lab import workloads
from scenarios.lab.fleet import Lab
from scenarios.lab.workloads.oddities import KINDS
from tests.agents.engines.contract import leave_and_arrive
from tests.agents.engines.oci_harness import OciHarness, engine_on

pytestmark = pytest.mark.lab

REFUSED = {
    "io_uring": "io_uring",
    "userfault": "userfaultfd",
    "perf": "perf_event",
    "bpf_map": "bpf-map",
    "landlock": "landlock-ruleset",
    "netlink_unread": "has not read",
    "mptcp": "Multipath TCP",
    "vsock": "VSOCK",
    "unix_outside": "UNIX socket",
    "renamed": "/data/first",
    "ghost": "/data/large",
    "outside_file": "outside the VE",
    "fuse": "the device /dev/fuse",
    "half_terminal": "terminal",
    "traced": "is traced by",
    "hugetlb_memfd": "huge pages",
    "ramfs": "kind ramfs",
    "overlay": "kind overlay",
    "nested_uts": "uts namespace",
    "nested_ipc": "ipc namespace",
    "nested_user": "user namespace",
    "nested_pid": "pid namespace",
    "nested_cgroup": "cgroup namespace",
    "nested_time": "time namespace",
}
"""Kind -> words that have to be in what is said of it; every other kind is carried."""
CAPABILITIES = [
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE",
    "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_CHROOT", "SYS_PTRACE", "SYS_ADMIN", "SYS_NICE", "SYS_TIME", "MKNOD",
    "LEASE", "PERFMON", "BPF", "CHECKPOINT_RESTORE", "SYSLOG",
]  # fmt: skip
OUTSIDE = "/run/outside"
SERVER = f"""
import os, socket
master, slave = os.openpty()
os.symlink(os.ttyname(slave), "{OUTSIDE}/pts")
server = socket.socket(socket.AF_UNIX)
server.bind("{OUTSIDE}/server.sock")
server.listen()
print("ready", flush=True)
connections = []
while True:
    connections.append(server.accept())
"""


@pytest.fixture(scope="module")
def outside(engine_lab: Lab) -> Iterator[None]:
    """Things of the host with which a VE may get involved: a server, a terminal, a file."""
    host = engine_lab.host("alpha")
    host.run("mkdir", "-p", OUTSIDE)
    host.run("touch", f"{OUTSIDE}/file", f"{OUTSIDE}/terminal")
    with host.popen("python3", "-I", "-c", SERVER, stderr=None) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        host.run("sh", "-c", f"mount --bind $(readlink {OUTSIDE}/pts) {OUTSIDE}/terminal")
        yield
        host.run("umount", f"{OUTSIDE}/terminal")
        server.terminate()
    host.run("rm", "-rf", OUTSIDE)


@pytest.fixture(scope="module")
def bundle(engine_lab: Lab, outside: None) -> Iterator[OciHarness]:
    """One bundle that all kinds use, one after the other."""
    host = engine_lab.host("alpha")
    with engine_on(host) as engine:
        harness = OciHarness(engine_lab, host, engine, "crun")
        workloads.install(host, harness.ve, "crun", harness.addresses, "oddities.py")
        yield harness
        trio.run(harness.clean)


@pytest.fixture
async def odd(bundle: OciHarness, request: pytest.FixtureRequest) -> AsyncIterator[OciHarness]:
    """A running VE that has made the thing; skipped where this kernel has no such thing."""
    await bundle.engine.stop(bundle.ve)
    bundle.host.run("sh", "-c", f"rm -rf /var/lib/migrator/ve/{bundle.ve}/rootfs/data/*")
    config = bundle.host.path(f"/var/lib/migrator/ve/{bundle.ve}/config.json")
    config.write_text(json.dumps(configured(json.loads(config.read_text()), request.param)))
    await bundle.engine.start(bundle.ve)
    said = await ready(bundle)
    if said.startswith("cannot"):
        pytest.skip(f"{request.param}: {said}")
    yield bundle
    await bundle.engine.stop(bundle.ve)


def configured(config: dict, kind: str) -> dict:  # type: ignore[type-arg]
    """The bundle's configuration for one kind of thing."""
    config["process"]["args"] = ["/usr/bin/python3", "-I", "-S", "-B", "/srv/oddities.py", kind]
    names = [f"CAP_{name}" for name in CAPABILITIES]
    config["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), names)
    mounts = [each for each in config["mounts"] if each["destination"] not in ("/outside", "/dev/pts")]
    options = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    mounts.append({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": options})
    if kind in ("outside_file", "unix_outside", "half_terminal"):
        mounts.append({"destination": "/outside", "type": "bind", "source": OUTSIDE, "options": ["rbind", "rw"]})
    return config | {"mounts": mounts}


async def ready(harness: OciHarness) -> str:
    """What the payload says when it has made the thing."""
    with trio.fail_after(20):
        while True:
            for pid in harness.processes():
                with suppress(OSError):
                    return Path(f"/proc/{pid}/root/dev/shm/ready").read_text()
            await trio.sleep(0.005)


@pytest.mark.parametrize("odd", [kind for kind in KINDS if kind not in REFUSED], indirect=True)
async def test_carried(odd: OciHarness) -> None:
    """Nothing is said against a thing that CRIU dumps and restores."""
    facts = await odd.engine.inspect(odd.ve)
    assert facts is not None
    assert facts.blockers == ()
    await moved(odd)


@pytest.mark.parametrize("odd", REFUSED, indirect=True)
async def test_refused(odd: OciHarness, request: pytest.FixtureRequest) -> None:
    """A thing that CRIU does not dump and restore is named before anything is frozen, with what to do."""
    kind = request.node.callspec.params["odd"]
    facts = await odd.engine.inspect(odd.ve)
    assert facts is not None
    named = [blocker for blocker in facts.blockers if REFUSED[kind] in blocker]
    assert named, facts.blockers
    assert ": " in named[0]
    if kind == "traced":
        return  # CRIU waits ten seconds before it says so
    with pytest.raises(FaultError):
        await moved(odd)


async def moved(odd: OciHarness) -> None:
    """Away and back."""
    await leave_and_arrive(odd)
    await odd.engine.hold(odd.ve, odd.scratch / "images")


@pytest.mark.parametrize("odd", ["nothing"], indirect=True)
async def test_exec_session(odd: OciHarness) -> None:
    """A process that came into the VE from outside is told of; the VE moves, and it does not."""
    program = ["/usr/bin/python3", "-I", "-S", "-B", "/srv/oddities.py", "nothing"]
    with odd.host.popen("crun", "--cgroup-manager=cgroupfs", "exec", odd.ve, *program) as session:
        with trio.fail_after(20):
            while len(odd.processes()) < 2:
                await trio.sleep(0.005)
        facts = await odd.engine.inspect(odd.ve)
        await moved(odd)
        session.terminate()
    assert facts is not None
    assert facts.blockers == ()
    assert ["exec session" in note for note in facts.notes] == [True]
    assert len(odd.processes()) == 1
