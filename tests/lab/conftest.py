"""Tests in this folder run on real hosts of a lab."""

from scenarios.lab.fixtures import lab
from scenarios.lab.vserver.fixtures import here, ip, move, there, vserver_host, vserver_lab, vserver_peer, web

__all__ = ["here", "ip", "lab", "move", "there", "vserver_host", "vserver_lab", "vserver_peer", "web"]
