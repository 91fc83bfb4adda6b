"""Guests of a lab host as a person at the prompt would make and see them, and a host put back as it was.

Rule: everything goes through the tools' own command lines, so that it would be the same on a real VServer host.
"""

import subprocess
from dataclasses import dataclass

from scenarios.lab.hosts import Host
from scenarios.lab.vserver.template import SMALL, Template

SWITCHES = "/etc/vserver-emulation"
RESET = """
rm -f /etc/vserver-emulation/*
for group in /sys/fs/cgroup/vserver/*/; do
    [ -e "$group" ] || continue
    echo 1 > "$group/cgroup.kill"
    while grep -q 'populated 1' "$group/cgroup.events"; do sleep 0.01; done
    rmdir "$group"
done
sed -n 's/^[^ ]* \\(\\/vservers\\/[^ ]*\\|\\/data[^ ]*\\|\\/srv[^ ]*\\) .*/\\1/p' /proc/mounts | sort -r | while read -r place; do
    umount -l "$(printf '%b' "$place")"
done
rm -rf /run/vserver-emulation /var/lib/vserver-emulation /run/vservers /run/vshelper /var/cache/vservers/* /var/lock/vserver.*
for directory in /etc/vservers/*; do [ ! -e "$directory" ] || rm -rf "$directory"; done
for directory in /vservers/* /vservers/.pkg/* /vservers/.hash/*; do [ ! -e "$directory" ] || rm -rf "$directory"; done
rm -rf /etc/vservers/.defaults /etc/migrator /var/lib/migrator/vserver /var/lib/migrator/records /data /srv/*
rm -f /run/migrator/vserver-devices.json
mkdir -p /etc/vservers/.defaults/apps/vunify/hash
ln -sfn /vservers/.hash /etc/vservers/.defaults/apps/vunify/hash/root
iptables -F; iptables -t nat -F; ip6tables -F 2> /dev/null; nft flush ruleset
for device in $(ip -o link | sed -n 's/^[0-9]*: \\([^:@]*\\).*/\\1/p'); do
    case $device in lo | eth0 | br0) ;; *) ip link delete "$device" 2> /dev/null ;; esac
done
ip -o address show | while read -r number device family address rest; do
    case $rest in *"scope link"* | *"scope host"*) continue ;; esac
    case " $KEEP " in *" $address "*) continue ;; esac
    ip address delete "$address" dev "$device" 2> /dev/null
done
sysctl -q -w net.ipv4.ip_forward=0
for file in /proc/sys/net/ipv4/conf/*/promote_secondaries; do echo 0 > "$file"; done
/etc/rc2.d/S20vserver start
"""
"""Everything a test can have changed. KEEP names the host's own addresses."""


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest on one host."""

    host: Host
    name: str

    def __call__(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """`vserver NAME WORDS...`, whatever it ends with."""
        return self.host.run("env", "LC_ALL=C", "vserver", self.name, *words, check=False)

    def start(self) -> None:
        """Raises AssertionError when it does not run afterwards."""
        done = self("start")
        assert self.running, done.stderr

    @property
    def running(self) -> bool:
        """As `running` says."""
        return self("running").returncode == 0

    @property
    def config(self) -> str:
        """Its configuration directory."""
        return f"/etc/vservers/{self.name}"

    @property
    def root(self) -> str:
        """Its root directory."""
        return f"/vservers/{self.name}"

    def write(self, path: str, text: str) -> None:
        """A file of its configuration."""
        write(self.host, f"{self.config}/{path}", text)

    def read(self, path: str) -> str:
        """A file of its root."""
        return self.host.run("cat", f"{self.root}/{path}").stdout


def build(host: Host, name: str, xid: int, *interfaces: str, template: Template = SMALL, style: str = "sysv") -> Guest:
    """A guest from a template; an interface is written as `vserver build --interface` takes it."""
    words = [word for interface in interfaces for word in ("--interface", interface)]
    words = ["-m", "template", "--context", str(xid), "--hostname", name, "--initstyle", style, *words]
    host.run("vserver", name, "build", *words, "--", "-t", template.path)
    return Guest(host, name)


def write(host: Host, path: str, text: str) -> None:
    """A file on the host, with the directories above it; an empty path is left to `rm`."""
    host.run("sh", "-c", 'mkdir -p "$(dirname "$1")"; cat > "$1"', "sh", path, text=text)


def switch(host: Host, name: str, value: str) -> None:
    """A quirk or fault of the emulation."""
    write(host, f"{SWITCHES}/{name}", f"{value}\n")


def reset(host: Host) -> None:
    """No guest, no address, no rule, no switch that was not there when the host was installed."""
    now = host.record
    keep = f"{now.address}/24 {now.address6}/64"
    host.run("sh", "-c", f"KEEP='{keep}'\n{RESET}")


def addresses(host: Host) -> dict[str, list[str]]:
    """Device -> addresses with prefix length, without those the kernel makes itself."""
    found: dict[str, list[str]] = {}
    for line in host.run("ip", "-o", "address", "show").stdout.splitlines():
        words = line.split()
        if "link" not in words and "host" not in words:
            found.setdefault(words[1], []).append(words[3])
    return found
