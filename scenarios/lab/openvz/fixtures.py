"""What tests need of OpenVZ hosts: a lab of two, alpha and beta, made once a run; each test finds both without containers.

Rule: as `scenarios.lab.fixtures`: a lab of a dead run is taken away before this run's is made.
"""

import contextlib
import json
from collections.abc import Iterator

import pytest

from scenarios.lab.fixtures import need_root, own_name, remove_abandoned
from scenarios.lab.fleet import Lab
from scenarios.lab.hosts import Host
from scenarios.lab.openvz.install import ROLE, install, install_lab
from scenarios.lab.topology import HostSpec, Topology

HOSTS = (HostSpec("alpha", roles=(ROLE,)), HostSpec("beta", roles=(ROLE,)))


@pytest.fixture(scope="session")
def openvz_lab() -> Iterator[Lab]:
    """The lab, installed; shared by the run's tests."""
    need_root()
    remove_abandoned()
    made = Lab.up(Topology(own_name("z"), HOSTS))
    try:
        install_lab(made)
        yield made
    finally:
        made.down()


@pytest.fixture
def alpha(openvz_lab: Lab) -> Host:
    """The first host, without containers."""
    return _clean(openvz_lab.host("alpha"))


@pytest.fixture
def beta(openvz_lab: Lab) -> Host:
    """The second host, without containers."""
    return _clean(openvz_lab.host("beta"))


def _clean(host: Host) -> Host:
    empty(host)
    return host


def empty(host: Host) -> None:
    """Take away every container of a host and what tests changed in /etc/vz."""
    clear_faults(host)
    for group in host.path("/sys/fs/cgroup").glob("vz-*"):
        (group / "cgroup.kill").write_text("1")
        (group / "cgroup.freeze").write_text("0")
    for point in _mounts(host):
        host.run("umount", "-l", point, check=False)
    script = (
        "rm -rf /vz/private/* /vz/root/* /vz/dump/* /vz/dump/.[!.]* /vz/lock/* /etc/vz/conf/* /etc/vz/names/* "
        "/etc/vz/lab-cpt.conf /var/lib/vzctl/veip/* /var/lib/vzctl/vepid/* /var/lib/migrator/openvz;"
        "for link in $(ls /sys/class/net | grep -E '^(veth|venet0[.])'); do ip link delete $link; done;"
        "ip route flush dev venet0; ip -6 route flush dev venet0 proto boot;"
        "ip neigh flush proxy dev br0; ip -6 neigh flush proxy dev br0; "
        "for group in /sys/fs/cgroup/vz-*; do rmdir $group; done; true"
    )
    host.run("sh", "-c", script, check=False)
    install(host)


def _mounts(host: Host) -> list[str]:
    lines = host.path("/proc/1/mountinfo").read_text().splitlines()
    return sorted((line.split()[4] for line in lines if line.split()[4].startswith("/vz/root/")), reverse=True)


def inject(host: Host, step: str, how: str = "error", **more: object) -> None:
    """Make a step of the emulated tools fail; see `tools.faults`."""
    path = host.path("/etc/vz/lab-faults.json")
    faults = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**faults, step: {"how": how, **more}}))


def clear_faults(host: Host) -> None:
    """No step fails any more."""
    with contextlib.suppress(FileNotFoundError):
        host.path("/etc/vz/lab-faults.json").unlink()
