"""What tests need of VServer hosts: a lab of two, alpha and beta, made once a run; each test finds both as installed.

Rule: as `scenarios.lab.fixtures`: a lab of a dead run is taken away; MIGRATOR_TEST_LAB names one to use and leave up
(its name with `v` behind it).
"""

import os
from collections.abc import Iterator

import pytest

from scenarios.lab.acts import Acts
from scenarios.lab.fixtures import given_lab, need_root, own_name, remove_abandoned
from scenarios.lab.fleet import Lab
from scenarios.lab.hosts import Host
from scenarios.lab.topology import HostSpec, Topology
from scenarios.lab.vserver import guests, install, template
from scenarios.lab.vserver.guests import Guest, build
from scenarios.lab.vserver.move import Move

HOSTS = (HostSpec("alpha", roles=("vserver",)), HostSpec("beta", roles=("vserver",)))


@pytest.fixture(scope="session")
def vserver_lab() -> Iterator[Lab]:
    """The lab, installed."""
    need_root()
    if given := os.environ.get("MIGRATOR_TEST_LAB"):
        yield installed(given_lab(Topology(f"{given}v", HOSTS)))
        return
    remove_abandoned()
    made = Lab.up(Topology(own_name("v"), HOSTS))
    try:
        yield installed(made)
    finally:
        made.down()


def installed(lab: Lab) -> Lab:
    """The same lab with the emulated tools and the templates on every host."""
    for host in lab.hosts:
        install.install(host)
        for each in (template.SMALL, template.SERVER):
            template.make(host, each)
    return lab


@pytest.fixture
def vserver_host(vserver_lab: Lab) -> Iterator[Host]:
    """The first host, without guests."""
    yield from _fresh(vserver_lab, "alpha")


@pytest.fixture
def vserver_peer(vserver_lab: Lab) -> Iterator[Host]:
    """The second host, without guests."""
    yield from _fresh(vserver_lab, "beta")


def _fresh(lab: Lab, name: str) -> Iterator[Host]:
    host = lab.host(name)
    if not host.alive:
        host.boot()
    guests.reset(host)
    yield host


@pytest.fixture
def here(vserver_host: Host) -> Iterator[Acts]:
    """The engine on the first host."""
    with Acts(vserver_host, "vserver") as acts:
        yield acts


@pytest.fixture
def there(vserver_peer: Host) -> Iterator[Acts]:
    """The engine on the second host."""
    with Acts(vserver_peer, "vserver") as acts:
        yield acts


@pytest.fixture
def ip(vserver_lab: Lab) -> str:
    """An address for a guest, in the lab's own network."""
    return vserver_lab.ve_addresses(120)[0]


@pytest.fixture
def web(vserver_host: Host, ip: str) -> Guest:
    """A stopped guest with an alias on br0, started at boot."""
    guest = build(vserver_host, "web1", 100, f"web=br0:{ip}")
    guest.write("apps/init/mark", "default\n")
    return guest


@pytest.fixture
def move(vserver_host: Host, vserver_peer: Host, here: Acts, there: Acts, web: Guest) -> Move:
    """Its move to the other host, not begun."""
    return Move(vserver_host, vserver_peer, here, there, web.name)
