"""Tests in this folder run on real hosts of a lab."""

from scenarios.lab.fixtures import lab
from scenarios.lab.vserver.fixtures import vserver_host, vserver_lab, vserver_peer

__all__ = ["lab", "vserver_host", "vserver_lab", "vserver_peer"]
