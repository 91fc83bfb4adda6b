"""The lab's network: a switch in a namespace of its own, a line from it to every place, and what a line can suffer.

Rule: all of it is found again by the lab's name alone, and only one link of it is in this machine's own network.
"""

import ipaddress
import json
from collections.abc import Sequence
from pathlib import Path

from scenarios.lab.programs import ProgramError, in_netns, run
from scenarios.lab.record import CLIENT, MACHINE, HostRecord, LabRecord, Line

NETNS = Path("/run/netns")
NO_BRIDGE_FILTER = "for f in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e $f ] || echo 0 > $f; done"
"""Kernels with br_netfilter built in send bridged frames through iptables; a host that never loaded it does not."""


class LineError(RuntimeError):
    """A line cannot be set as asked; says what the kernel said."""


def machine_link(lab: str) -> str:
    """Name of the link by which this machine itself reaches a lab."""
    return f"mlab-{lab}"


def build(lab: LabRecord) -> None:
    """Make the switch, the client's place, and this machine's own link into the lab."""
    _ip("netns", "add", lab.switch)
    _ip("-n", lab.switch, "link", "add", "br0", "type", "bridge")
    _ip("-n", lab.switch, "link", "set", "br0", "up")
    run(in_netns(lab.switch, ["sh", "-c", NO_BRIDGE_FILTER]))
    _plug(lab, lab.client, "client")
    _give(["-n", lab.client], "eth0", lab, CLIENT)
    link = machine_link(lab.name)
    _ip("link", "add", link, "type", "veth", "peer", "name", "machine", "netns", lab.switch)
    _ip("-n", lab.switch, "link", "set", "machine", "master", "br0", "up")
    _give([], link, lab, MACHINE)


def attach(lab: LabRecord, host: HostRecord, root: Path) -> None:
    """A fresh network for a host that boots: eth0 to the switch, in a bridge br0 that VEs' interfaces join."""
    detach(lab, host)
    _plug(lab, host.netns, port(host))
    inside = ["-n", host.netns]
    # A bridge takes the lowest MAC of its ports unless it has its own: a VE that joins would change the host's.
    number = ipaddress.ip_address(host.address).packed
    mac = "06:01:" + ":".join(f"{byte:02x}" for byte in number)
    _ip(*inside, "link", "add", "br0", "address", mac, "type", "bridge")
    _ip(*inside, "link", "set", "eth0", "master", "br0", "up")
    _give(inside, "br0", lab, host.number)
    run(in_netns(host.netns, ["sh", "-c", NO_BRIDGE_FILTER]))
    shape(lab, host, host.line, root)


def detach(lab: LabRecord, host: HostRecord) -> None:
    """Remove a host's network with everything in it. May be called again."""
    if (NETNS / lab.switch).exists():
        _ip("-n", lab.switch, "link", "delete", port(host), check=False)
    _forget(host.netns)


def attach_tap(lab: LabRecord, host: HostRecord, root: Path) -> None:
    """The line of a host that is a virtual machine: a tap device at the switch, for QEMU to open."""
    detach_tap(lab, host)
    tap = port(host)
    run(in_netns(lab.switch, ["ip", "tuntap", "add", "dev", tap, "mode", "tap"]))
    _ip("-n", lab.switch, "link", "set", tap, "master", "br0", "up")
    shape(lab, host, host.line, root)


def detach_tap(lab: LabRecord, host: HostRecord) -> None:
    """Remove it. May be called again."""
    if (NETNS / lab.switch).exists():
        _ip("-n", lab.switch, "link", "delete", port(host), check=False)


def shape(lab: LabRecord, host: HostRecord, line: Line, root: Path) -> None:
    """Set bandwidth, latency, loss (each way), what one connection gets, and state of a host's line. Raises LineError.

    A virtual machine's end is inside of it: only what goes to it is held to a rate.
    """
    at_switch = port(host)
    ends = [(lab.switch, at_switch)] + ([(host.netns, "eth0")] if (NETNS / host.netns).exists() else [])
    for netns, link in ends:
        _ip("-n", netns, "link", "set", link, "up" if line.up else "down")
        _queue(netns, link, line)
    _drop(lab.switch, at_switch, line, root)


def sweep(lab: str) -> None:
    """Remove every namespace and link of a lab, by name alone. May be called again."""
    if NETNS.is_dir():
        for path in sorted(NETNS.glob(f"{lab}-*")):
            _forget(path.name)
    _ip("link", "delete", machine_link(lab), check=False)


def taken_networks() -> tuple[ipaddress.IPv4Network, ...]:
    """IPv4 networks that this machine has addresses in."""
    links = json.loads(run(["ip", "-j", "-4", "address", "show"]).stdout or "[]")
    infos = [info for link in links for info in link.get("addr_info", [])]
    return tuple(ipaddress.IPv4Interface(f"{info['local']}/{info['prefixlen']}").network for info in infos)


def port(host: HostRecord) -> str:
    """Name of the switch's end of a host's line."""
    return f"h{host.number}"


def _plug(lab: LabRecord, netns: str, port: str) -> None:
    _ip("netns", "add", netns)
    _ip("-n", netns, "link", "set", "lo", "up")
    _ip("-n", lab.switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", netns)
    _ip("-n", lab.switch, "link", "set", port, "master", "br0", "up")


def _give(where: Sequence[str], link: str, lab: LabRecord, number: int) -> None:
    _ip(*where, "link", "set", link, "up")
    _ip(*where, "address", "add", f"{lab.address(number)}/{lab.prefix}", "brd", "+", "dev", link)
    _ip(*where, "address", "add", f"{lab.address6(number)}/64", "dev", link, "nodad")


def _queue(netns: str, link: str, line: Line) -> None:
    tc = ["tc", "-n", netns, "qdisc"]
    run([*tc, "delete", "dev", link, "root"], check=False)
    try:
        parent = ["root"]
        if line.rate:
            run(
                [
                    *tc,
                    "add",
                    "dev",
                    link,
                    *parent,
                    "handle",
                    "1:",
                    "tbf",
                    "rate",
                    line.rate,
                    "burst",
                    "256k",
                    "latency",
                    "50ms",
                ]
            )
            parent = ["parent", "1:"]
        if line.latency_ms:
            run([*tc, "add", "dev", link, *parent, "netem", "delay", f"{line.latency_ms / 2}ms", "limit", "10000"])
    except ProgramError as error:
        hint = " (this kernel has no netem)" if line.latency_ms and "netem" in str(error) else ""
        raise LineError(f"line {link} in {netns} cannot be set to {line}{hint}: {error}") from error


def _drop(switch: str, port: str, line: Line, root: Path) -> None:
    """Drop a share of the frames each way, and of each connection what is too much for one; at the switch. nft comes from the
    lab's root, the machine may have none."""
    table = f"netdev loss_{port}"
    rules = [f"add table {table}", f"delete table {table}"]
    for hook in ("ingress", "egress") if line.loss_percent or line.flow_mbit else ():
        rules.append(f"add table {table}")
        rules.append(f'add chain {table} {hook} {{ type filter hook {hook} device "{port}" priority 0; }}')
        if line.loss_percent:
            rules.append(f"add rule {table} {hook} numgen random mod 1000 < {round(line.loss_percent * 10)} drop")
        if line.flow_mbit:
            rules += _one_connection(table, hook, round(line.flow_mbit * 125))
    run(in_netns(switch, ["chroot", str(root), "nft", "-f", "-"]), text="\n".join(rules) + "\n")


def _one_connection(table: str, hook: str, kbytes_per_s: int) -> list[str]:
    """Rules that police each TCP connection by itself."""
    flow = "ip saddr . tcp sport . ip daddr . tcp dport"
    limit = f"limit rate over {kbytes_per_s} kbytes/second burst {max(256, kbytes_per_s // 20)} kbytes"
    return [
        f"add set {table} {hook}_flows {{ typeof {flow}; flags dynamic,timeout; timeout 60s; size 65535; }}",
        f"add rule {table} {hook} update @{hook}_flows {{ {flow} {limit} }} drop",
    ]


def _forget(netns: str) -> None:
    if (NETNS / netns).exists():
        _ip("netns", "delete", netns)


def _ip(*words: str, check: bool = True) -> None:
    run(["ip", *words], check=check)
