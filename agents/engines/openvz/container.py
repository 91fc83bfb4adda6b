"""One VE's files on this host: config, scripts, places, dump; and what of it a firewall may name.

Rule: everything is read when it is asked for.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agents.engines.openvz import host, marks, parameters, rewrite, stillness
from agents.engines.openvz.config import Config
from agents.engines.openvz.host import SCRIPTS, Host
from agents.network.namespaces import inside_of
from agents.network.ve_rules import Named
from migrator.wire.facts import Interface

VENET = "venet0"
MTU = 1500
BIND = re.compile(r"^[^#\n]*\bmount\b[^\n]*?(?:--bind|--rbind|-o\s*\S*bind)[^\n]*$", re.MULTILINE)
BOUND = re.compile(r"(?<![\w$}/])(/[\w./@+-]+)")


@dataclass(frozen=True, slots=True)
class Container:
    """A VE by its id; it need not be here."""

    ve: str

    @property
    def path(self) -> Path:
        """Its config file."""
        return host.config_directory() / f"{self.ve}.conf"

    @property
    def here(self) -> bool:
        """Whether it has a config."""
        return self.path.is_file()

    @property
    def config(self) -> Config:
        """Its config as it stands on disk, the fence included; empty when there is none."""
        try:
            return Config.parse(self.path.read_bytes())
        except FileNotFoundError:
            return Config(())

    @property
    def own_config(self) -> Config:
        """Its config as its operator wants it: without our fence."""
        noted = marks.read(self.ve)
        now = self.config
        if not noted.fenced:
            return now
        before = Config.parse(noted.before.encode(errors="surrogateescape"))
        return before if rewrite.fenced(before) == now else rewrite.unfenced(now, rewrite.fence_state(before))

    def place(self, key: str) -> Path:
        """VE_ROOT or VE_PRIVATE."""
        return Host.read().place(self.ve, self.config.values, key)

    @property
    def root(self) -> Path:
        """Mount point."""
        return self.place("VE_ROOT")

    @property
    def private(self) -> Path:
        """Private area."""
        return self.place("VE_PRIVATE")

    @property
    def dump(self) -> Path:
        """Where vzctl looks for the dump of a suspended VE: a file, on ordinary kernels a directory."""
        return Host.read().dump_directory / f"Dump.{self.ve}"

    @property
    def kept_dump(self) -> Path:
        """Where we keep a dump that no plain `vzctl restore` or `start` may find."""
        return Host.read().dump_directory / f"migrator-kept.{self.ve}"

    @property
    def dump_tree(self) -> Path:
        """Directory in which a suspended VE's dump moves."""
        return Host.read().dump_directory / f"migrator.{self.ve}"

    def script(self, kind: str) -> Path:
        """One of its action scripts."""
        return self.path.with_suffix(f".{kind}")

    @property
    def scripts(self) -> tuple[str, ...]:
        """Kinds of action scripts it has."""
        return tuple(kind for kind in SCRIPTS if self.script(kind).is_file())

    @property
    def bound(self) -> tuple[str, ...]:
        """Host directories that its mount scripts bind into it, as far as their text tells."""
        text = "\n".join(self.script(kind).read_text(errors="replace") for kind in self.scripts if "mount" in kind)
        found: list[str] = []
        for line in BIND.findall(text):
            found += [path for path in BOUND.findall(line)[:1] if not path.startswith("/bin/mount")]
        return tuple(dict.fromkeys(found))

    @property
    def mounts(self) -> tuple[tuple[str, str, str], ...]:
        """What is mounted below its root and its private area, made by the host."""
        return (*host.mounts_below(self.root), *host.mounts_below(self.private))

    def interfaces(self, values: dict[str, str]) -> tuple[Interface, ...]:
        """venet with the addresses of its config, and each veth with those it has inside, where that can be seen."""
        found = []
        if venet := parameters.venet_addresses(values):
            held = tuple(f"{address}/{128 if ':' in address else 32}" for address in venet)
            found.append(Interface(VENET, "", VENET, "", MTU, held))
        netifs = parameters.netifs(values.get("NETIF", ""))
        inside = _addresses_inside(stillness.init(self.ve)) if netifs else {}
        for one in netifs:
            mac, outer, bridge = one.get("mac").lower(), one.host_ifname(self.ve), one.get("bridge")
            found.append(Interface(one.ifname, mac, outer, bridge, MTU, inside.get(one.ifname, ())))
        return tuple(found)

    def named(self, interfaces: Sequence[Interface]) -> Named:
        """What of it a rule of the host may name."""
        veths = [each for each in interfaces if each.name != VENET]
        host_macs = [one.get("host_mac") for one in parameters.netifs(self.config.get("NETIF"))]
        return Named.of(
            [address for each in interfaces for address in each.addresses],
            [*(each.mac for each in veths), *(mac for mac in host_macs if mac.upper() != "FE:FF:FF:FF:FF:FF")],
            [each.host_name for each in veths],
        )

    def disk_bytes(self) -> int:
        """What the private area takes on disk. Blocks: walks it."""
        total, seen = 0, set()
        for directory, names, files in os.walk(self.private):
            for name in (*names, *files):
                try:
                    entry = os.lstat(os.path.join(directory, name))
                except OSError:
                    continue
                if entry.st_nlink == 1 or (entry.st_dev, entry.st_ino) not in seen:
                    seen.add((entry.st_dev, entry.st_ino))
                    total += entry.st_blocks * 512
        return total


def _addresses_inside(pid: int) -> dict[str, tuple[str, ...]]:
    """Interface -> addresses with prefix length in a process's network namespace; link-local ones are not told."""
    path = Path(f"/proc/{pid}/ns/net")
    if not pid or not path.exists():
        return {}
    found: dict[str, list[str]] = {}
    with inside_of(path) as inside:
        names = {link["index"]: str(link.get_attr("IFLA_IFNAME")) for link in inside.get_links()}
        for entry in inside.get_addr():
            address = str(entry.get_attr("IFA_ADDRESS"))
            if not address.startswith("fe80:") and entry["index"] in names:
                found.setdefault(names[entry["index"]], []).append(f"{address}/{entry['prefixlen']}")
    return {name: tuple(addresses) for name, addresses in found.items()}


def memory_bytes(ve: str) -> int:
    """Proportional share of all memory its processes map."""
    return sum(_share_bytes(pid) for pid in stillness.processes(ve))


def _share_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0
