"""Networking of the emulation: venet as a bridge with proxy ARP, veth on a bridge, and the hooks vps-net_add and _del.

Rule: a host announces an address exactly when and as often as vzctl's hooks do: once, when it is added.
"""

import contextlib
import ipaddress
import json
import socket
import struct
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

VENET = "venet0"
VENET_MAC = "fe:ff:ff:ff:ff:ff"
GATEWAY6 = "fe80::1"
VEIP = Path("/var/lib/vzctl/veip")


@dataclass(frozen=True)
class Link:
    """One interface of a container: the container's name for it, the host's end, what it joins."""

    inner: str
    outer: str
    bridge: str
    mac: str = ""
    host_mac: str = ""


def links(ctid: int, conf: dict[str, str]) -> list[Link]:
    """The links a container's configuration asks for."""
    found = []
    if addresses(conf):
        found.append(Link(VENET, f"{VENET}.{ctid}"[:15], VENET))
    for one in filter(None, conf.get("NETIF", "").split(";")):
        parts = dict(part.split("=", 1) for part in one.split(",") if "=" in part)
        inner = parts.get("ifname", "eth0")
        outer = parts.get("host_ifname", f"veth{ctid}.{inner.removeprefix('eth')}")
        found.append(Link(inner, outer, parts.get("bridge", ""), parts.get("mac", ""), parts.get("host_mac", "")))
    return found


def addresses(conf: dict[str, str]) -> list[str]:
    """Venet addresses without masks."""
    return [word.split("/")[0] for word in conf.get("IP_ADDRESS", "").split()]


def ensure_host() -> None:
    """The host's side of venet: the device, forwarding, proxy ARP towards the containers."""
    if not Path("/sys/class/net", VENET).exists():
        _ip(
            [
                f"link add {VENET} type bridge",
                f"link set {VENET} address {VENET_MAC} up",
                f"address add {GATEWAY6}/64 dev {VENET} nodad",
            ]
        )
    for key in ("ipv4/ip_forward", f"ipv4/conf/{VENET}/proxy_arp", "ipv6/conf/all/forwarding"):
        Path("/proc/sys/net", key).write_text("1")
    Path("/proc/sys/net/ipv4/neigh", VENET, "proxy_delay").write_text("0")


def plug(ctid: int, conf: dict[str, str], pid: int) -> None:
    """Make the container's links in its network namespace; venet comes with its addresses and routes."""
    ensure_host()
    for link in links(ctid, conf):
        _ip([f"link add {link.outer} type veth peer name {link.inner} netns {pid}"])
        inside = [f"link set {link.inner} address {link.mac}"] if link.mac else []
        if link.inner == VENET:
            inside += [f"link set {VENET} up", *_venet_inside(addresses(conf))]
        _ip(inside, pid)
    _ip(["link set lo up"], pid)
    join(ctid, conf)


def _venet_inside(held: Sequence[str]) -> list[str]:
    lines = [f"address add {ip}/{128 if ':' in ip else 32} dev {VENET} nodad" for ip in held if ":" in ip]
    lines += [f"address add {ip}/32 dev {VENET}" for ip in held if ":" not in ip]
    if first := next((ip for ip in held if ":" not in ip), ""):
        lines.append(f"route add default dev {VENET} src {first}")
    if any(":" in ip for ip in held):
        lines.append(f"-6 route add default via {GATEWAY6} dev {VENET}")
    return lines


def join(ctid: int, conf: dict[str, str]) -> None:
    """Put the host ends where they belong and up: the container is on the network."""
    for link in links(ctid, conf):
        mac = [f"link set {link.outer} address {link.host_mac}"] if link.host_mac else []
        master = [f"link set {link.outer} master {link.bridge}"] if link.bridge else []
        _ip([*mac, *master, f"link set {link.outer} up"])


def part(ctid: int, conf: dict[str, str]) -> None:
    """Take the host ends off their bridges: no packet comes in or out. What the kernel's network lock does."""
    _ip([f"link set {link.outer} nomaster" for link in links(ctid, conf) if link.bridge])


def unplug(ctid: int, conf: dict[str, str]) -> None:
    """Remove the host ends; the namespace may take a moment to go by itself."""
    _ip([f"link delete {link.outer}" for link in links(ctid, conf) if Path("/sys/class/net", link.outer).exists()])


# --- hooks ------------------------------------------------------------------------------------------


class AddressInUseError(Exception):
    """Another host answered for an address."""


def net_add(ctid: int, held: Iterable[str], *, detect: bool, host: dict[str, str]) -> None:
    """vps-net_add: proxy entry on each neighbour device, one announcement, the route."""
    held = list(held)
    devices = neighbour_devices(host)
    for ip in held:
        if detect and ":" not in ip and any(arp_taken(ip, device) for device in devices):
            raise AddressInUseError(ip)
    for ip in held:
        version = "-6 " if ":" in ip else ""
        for device in devices:
            if version:
                Path("/proc/sys/net/ipv6/conf", device, "proxy_ndp").write_text("1")
            _ip([f"{version}neigh replace proxy {ip} dev {device}"])
            announce(ip, device)
        _ip([f"{version}route replace {ip} dev {VENET}"])
    VEIP.mkdir(parents=True, exist_ok=True)
    (VEIP / str(ctid)).write_text("".join(f"{ip}\n" for ip in held))


def net_del(ctid: int, held: Iterable[str], host: dict[str, str]) -> None:
    """vps-net_del: route and proxy entries go; nothing there is no error."""
    lines = []
    for ip in held:
        version = "-6 " if ":" in ip else ""
        lines += [f"{version}neigh delete proxy {ip} dev {device}" for device in neighbour_devices(host)]
        lines.append(f"{version}route delete {ip} dev {VENET}")
    _ip(lines)
    (VEIP / str(ctid)).unlink(missing_ok=True)


def neighbour_devices(host: dict[str, str]) -> list[str]:
    """Devices on which addresses are announced: up, with ARP, an address, no master, no veth; or those named."""
    named = host.get("NEIGHBOUR_DEVS", "")
    allowed = named.removeprefix("list:").replace(",", " ").split() if named.startswith("list:") else None
    done = subprocess.run(["ip", "-j", "address"], capture_output=True, text=True, check=True)
    found = []
    for entry in json.loads(done.stdout):
        name, flags = entry["ifname"], entry["flags"]
        fits = "UP" in flags and not {"LOOPBACK", "NOARP"} & set(flags) and "master" not in entry
        if fits and entry["addr_info"] and not name.startswith(("veth", "venet")):
            found.append(name)
    return [name for name in found if allowed is None or name in allowed]


def announce(ip: str, device: str) -> None:
    """One unsolicited ARP, or neighbour advertisement."""
    with contextlib.suppress(OSError):
        mac = bytes.fromhex(Path("/sys/class/net", device, "address").read_text().strip().replace(":", ""))
        if ":" in ip:
            _advertise(ip, device, mac)
        else:
            _send_arp(device, mac, ip, socket.inet_aton(ip))


def _send_arp(device: str, mac: bytes, target: str, sender: bytes) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((device, 0x0806))
        raw.send(_arp(mac, sender, socket.inet_aton(target)))


def _arp(mac: bytes, sender: bytes, target: bytes) -> bytes:
    head = b"\xff" * 6 + mac + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 1)
    return head + mac + sender + b"\0" * 6 + target


def _advertise(ip: str, device: str, mac: bytes) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        body = struct.pack("!BBHI", 136, 0, 0, 0x20000000) + ipaddress.IPv6Address(ip).packed + b"\x02\x01" + mac
        raw.sendto(body, ("ff02::1", 0, 0, socket.if_nametoindex(device)))


def arp_taken(ip: str, device: str, wait_s: float = 1.0) -> bool:
    """Whether somebody answers a probe for the address within a second, as `arpsend -D -c 1 -w 1` would see."""
    mac = bytes.fromhex(Path("/sys/class/net", device, "address").read_text().strip().replace(":", ""))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as raw:
        raw.bind((device, 0x0806))
        raw.send(_arp(mac, b"\0" * 4, socket.inet_aton(ip)))
        end = time.monotonic() + wait_s
        while (left := end - time.monotonic()) > 0:
            raw.settimeout(left)
            try:
                frame = raw.recv(128)
            except TimeoutError:
                return False
            if frame[20:22] == b"\0\2" and frame[28:32] == socket.inet_aton(ip):
                return True
    return False


def _ip(lines: Sequence[str], pid: int = 0) -> None:
    """Run `ip` with each line; what is already so, or already gone, is no error, as in vzctl's hook scripts."""
    enter = ["nsenter", f"--net=/proc/{pid}/ns/net"] if pid else []
    plain = [line for line in lines if not line.startswith("-6 ")]
    for words, chosen in (([], plain), (["-6"], [line[3:] for line in lines if line.startswith("-6 ")])):
        if chosen:
            subprocess.run(
                [*enter, "ip", "-force", *words, "-batch", "-"],
                input="\n".join(chosen) + "\n",
                capture_output=True,
                text=True,
                check=False,
            )
