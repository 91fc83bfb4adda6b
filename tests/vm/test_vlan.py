"""VLANs, which this machine's kernel may not have: up with the first guest, real on the wire, down with the last."""

import json
from typing import Any

import pytest

from scenarios.lab.fleet import Lab
from scenarios.lab.hosts import Host

pytestmark = pytest.mark.vm

DEVICE, VLAN = "br0.7", 7
ADDRESSES = {"alpha": "192.168.77.1", "beta": "192.168.77.2"}
GUESTS = """
import sys
sys.path[:0] = ["/srv/agent.pyz"]
from agents.engines.vserver import lines
from agents.engines.vserver.guest import Address, Guest
from agents.engines.vserver.maps import Maps
from agents.network import aliases

def guest(name, ip):
    return Guest(name, "/etc/vservers/" + name, 100, None, None, (Address("0", ip, 24, "br0.7"),))

first, second = guest("web1", sys.argv[2]), guest("web2", "192.168.77.9")
match sys.argv[1]:
    case "first comes":
        print(lines.bring_up(first, Maps()))
        for address in lines.set_by_tools(first):
            aliases.add(lines.alias(address))
    case "second comes":
        print(lines.bring_up(second, Maps()))
    case "first goes":
        lines.take_off(lines.present(first))
        print(lines.let_down(first, Maps(), (second,)))
    case "second goes":
        print(lines.let_down(second, Maps(), ()))
"""


def act(host: Host, what: str) -> str:
    """Which devices came up or went down by it."""
    return host.run("python3", "-I", "-", what, ADDRESSES[host.name], text=GUESTS).stdout.strip()


def devices(host: Host) -> dict[str, Any]:
    """By name, as the host's own `ip` tells them."""
    return {each["ifname"]: each for each in json.loads(host.run("ip", "-json", "-detail", "link").stdout)}


def test_up_with_the_first_guest_and_down_with_the_last(machines: Lab) -> None:
    """The VLAN is made with the guest that needs it, carries what is tagged so, stays for the second guest, and goes with it."""
    alpha, beta = machines.host("alpha"), machines.host("beta")
    for host in (alpha, beta):
        assert DEVICE not in devices(host)
        assert act(host, "first comes") == f"('{DEVICE}',)"
    made = devices(alpha)[DEVICE]["linkinfo"]
    assert (made["info_kind"], made["info_data"]["id"]) == ("vlan", VLAN)
    alpha.run("ping", "-c", "3", "-W", "5", ADDRESSES["beta"])
    beta.run("ip", "link", "set", DEVICE, "down")
    assert alpha.run("ping", "-c", "1", "-W", "2", ADDRESSES["beta"], check=False).returncode != 0

    for host in (alpha, beta):
        act(host, "second comes")
        assert act(host, "first goes") == "()"
        assert DEVICE in devices(host)
        assert act(host, "second goes") == f"('{DEVICE}',)"
        assert DEVICE not in devices(host)
