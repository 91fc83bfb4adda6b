"""What tests need of VServer hosts: a lab of two, alpha and beta, made once a run; each test finds both as installed.

Rule: as `scenarios.lab.fixtures`: a lab of a dead run is taken away; MIGRATOR_TEST_LAB names one to use and leave up
(its name with `v` behind it).
"""

import os
from collections.abc import Iterator

import pytest

from scenarios.lab.fixtures import given_lab, need_root, own_name, remove_abandoned
from scenarios.lab.fleet import Lab
from scenarios.lab.hosts import Host
from scenarios.lab.topology import HostSpec, Topology
from scenarios.lab.vserver import guests, install, template

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
