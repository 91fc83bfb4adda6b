"""A lab: hosts in namespaces of their own on a switch, and an outside place from which clients run.

Rule: everything made is named after the lab and noted before it is made, so that `down` finds it whatever happened;
processes are ended by recorded pid and start time, never by name.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
import tomllib
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from scenarios.lab import root as debian

STATE = Path(os.environ.get("MIGRATOR_LAB_STATE", "/var/lib/migrator-lab"))
HERE = Path(__file__).parent
UNIFIED = [Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")]


@dataclass(frozen=True, slots=True)
class Topology:
    """What a lab is made of."""

    name: str = "lab"
    hosts: tuple[str, ...] = ("alpha", "beta")
    rate: str = "1gbit"

    @classmethod
    def from_toml(cls, path: Path, name: str | None) -> "Topology":
        """Read a topology file."""
        data = tomllib.loads(path.read_text())
        return cls(
            name or data.get("name", "lab"),
            tuple(host["name"] for host in data["host"]),
            data.get("rate", "1gbit"),
        )

    @property
    def subnet(self) -> str:
        """First three numbers of the lab's IPv4 network, the same for the same name."""
        mixed = zlib.crc32(self.name.encode())
        return f"10.{64 + mixed % 64}.{mixed // 64 % 256}"

    @property
    def subnet6(self) -> str:
        """The lab's IPv6 prefix (ULA, /64)."""
        return f"fd6d:{zlib.crc32(self.name.encode()) & 0xFFFF:x}::"


@dataclass(slots=True)
class Host:
    """One host of a lab."""

    lab: str
    name: str
    number: int
    address: str
    address6: str
    pid: int = 0
    """Process 1 of the host, as the machine numbers it."""
    started: str = ""
    keeper_pid: int = 0
    keeper_started: str = ""

    @property
    def netns(self) -> str:
        """Name of its network namespace."""
        return f"{self.lab}-{self.name}"

    @property
    def directory(self) -> Path:
        """Its disk and mount point on the machine."""
        return STATE / self.lab / self.name

    def path(self, inside: str) -> Path:
        """A file of the running host, as seen from outside."""
        return Path(f"/proc/{self.pid}/root") / inside.lstrip("/")

    def argv(self, words: Sequence[str]) -> list[str]:
        """Argument list that runs `words` inside the host."""
        return ["nsenter", "-t", str(self.pid), "-m", "-n", "-p", "-u", "-i", "-C", "--", *words]

    def run(self, *words: str, check: bool = True, limit_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a program inside the host to its end."""
        return _run(self.argv(words), check=check, limit_s=limit_s)


@dataclass(slots=True)
class Lab:
    """A lab that is up, or was."""

    topology: Topology
    hosts: list[Host] = field(default_factory=list)

    @property
    def directory(self) -> Path:
        """Where the lab keeps what it knows."""
        return STATE / self.topology.name

    @property
    def inventory(self) -> Path:
        """The inventory file for migrator."""
        return self.directory / "inventory.toml"

    @property
    def client_netns(self) -> str:
        """Network namespace of the outside place."""
        return f"{self.topology.name}-client"

    def host(self, name: str) -> Host:
        """The named host."""
        return next(host for host in self.hosts if host.name == name)

    def client(self, *words: str) -> list[str]:
        """Argument list that runs `words` at the outside place."""
        return ["nsenter", f"--net=/run/netns/{self.client_netns}", "--", *words]

    # --- up ----------------------------------------------------------------------------------------

    @classmethod
    def up(cls, topology: Topology) -> "Lab":
        """Bring a lab up, after taking down whatever an earlier one of this name left."""
        lower = debian.ensure()
        with contextlib.suppress(FileNotFoundError):
            cls.load(topology.name).down()
        lab = cls(topology)
        lab.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for number, name in enumerate(topology.hosts, start=1):
            address, address6 = f"{topology.subnet}.{number}", f"{topology.subnet6}{number:x}"
            lab.hosts.append(Host(topology.name, name, number, address, address6))
        lab.save()
        lab._wire()
        for host in lab.hosts:
            lab.boot(host, lower)
        lab._write_access()
        return lab

    @classmethod
    def load(cls, name: str) -> "Lab":
        """A lab from what it noted. Raises FileNotFoundError when there is none."""
        data = json.loads((STATE / name / "lab.json").read_text())
        topology = Topology(name, tuple(data["topology"]["hosts"]), data["topology"]["rate"])
        return cls(topology, [Host(**host) for host in data["hosts"]])

    def save(self) -> None:
        """Note what is known, whole or not at all."""
        fresh = self.directory / "lab.json.new"
        fresh.write_text(json.dumps(asdict(self), indent=1))
        fresh.rename(self.directory / "lab.json")

    def _wire(self) -> None:
        name, switch = self.topology.name, f"{self.topology.name}-sw"
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", switch, "link", "set", "br0", "up")
        ends = [(host.netns, f"h{host.number}") for host in self.hosts] + [(self.client_netns, "client")]
        for netns, port in ends:
            _ip("netns", "add", netns)
            _ip("-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", netns)
            _ip("-n", switch, "link", "set", port, "master", "br0", "up")
            _ip("-n", netns, "link", "set", "lo", "up")
        for host in self.hosts:
            _ip("-n", host.netns, "link", "add", "br0", "type", "bridge")
            _ip("-n", host.netns, "link", "set", "eth0", "master", "br0", "up")
            self._address(host.netns, "br0", host.address, host.address6)
        self._address(self.client_netns, "eth0", f"{self.topology.subnet}.250", f"{self.topology.subnet6}fa")
        _ip("link", "add", f"mlab-{name}", "type", "veth", "peer", "name", "machine", "netns", switch)
        _ip("-n", switch, "link", "set", "machine", "master", "br0", "up")
        _ip("link", "set", f"mlab-{name}", "up")
        _ip("address", "add", f"{self.topology.subnet}.254/24", "dev", f"mlab-{name}")
        for host in self.hosts:
            self.set_link(host, rate=self.topology.rate)

    @staticmethod
    def _address(netns: str, link: str, address: str, address6: str) -> None:
        _ip("-n", netns, "link", "set", link, "up")
        _ip("-n", netns, "address", "add", f"{address}/24", "dev", link)
        _ip("-n", netns, "address", "add", f"{address6}/64", "dev", link, "nodad")

    def set_link(self, host: Host, *, rate: str | None = None, up: bool | None = None) -> None:
        """Shape or cut the host's line to the switch."""
        switch, port = f"{self.topology.name}-sw", f"h{host.number}"
        if up is not None:
            _ip("-n", switch, "link", "set", port, "up" if up else "down")
        if rate is not None:
            shape = ["root", "tbf", "rate", rate, "burst", "256k", "latency", "50ms"]
            _run(["tc", "-n", switch, "qdisc", "replace", "dev", port, *shape])
            _run(["tc", "-n", host.netns, "qdisc", "replace", "dev", "eth0", *shape])

    def boot(self, host: Host, lower: Path | None = None) -> None:
        """Start a host from its disk."""
        for part in ("upper", "work", "root"):
            (host.directory / part).mkdir(parents=True, exist_ok=True)
        init = host.directory / "upper/usr/local/sbin/lab-init"
        init.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / "lab_init.py", init)
        self._install_keys(host)
        group = _cgroup_root() / "migrator-lab" / self.topology.name / host.name
        group.mkdir(parents=True, exist_ok=True)
        inside = [str(HERE / "boot.sh"), host.name, str(lower or debian.ensure()), str(host.directory)]
        join = f"echo 0 > {group}/cgroup.procs; exec \"$@\""
        unshare = ["unshare", "-m", "-p", "-f", "-u", "-i", "-C", "--kill-child", "sh", *inside]
        with (host.directory / "console.log").open("a") as console:
            keeper = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{host.netns}", "--", "sh", "-c", join, "sh", *unshare],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        host.keeper_pid, host.keeper_started = keeper.pid, _started(keeper.pid)
        self.save()
        _await(lambda: bool(_children(keeper.pid)), f"{host.name} did not start", host)
        host.pid = _children(keeper.pid)[0]
        host.started = _started(host.pid)
        self.save()
        _await(lambda: self._ssh_up(host), f"sshd of {host.name} did not come up", host)

    def _ssh_up(self, host: Host) -> bool:
        probe = host.run("ss", "-Hltn", "sport = :22", check=False)
        return ":22" in probe.stdout

    def crash(self, host: Host) -> None:
        """Like a power cut: every process of the host ends at once; its disk stays."""
        _kill(host.keeper_pid, host.keeper_started)
        _kill(host.pid, host.started)
        _await(lambda: not Path(f"/proc/{host.pid}").exists(), f"{host.name} did not end", host)

    def _install_keys(self, host: Host) -> None:
        key = self.directory / "id_ed25519"
        if not key.exists():
            _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(key)])
        ssh = host.directory / "upper/root/.ssh"
        ssh.mkdir(parents=True, exist_ok=True, mode=0o700)
        ssh.parent.chmod(0o700)
        authorized = ssh / "authorized_keys"
        if not authorized.exists():
            authorized.write_text(key.with_suffix(".pub").read_text())

    def _write_access(self) -> None:
        known = self.directory / "known_hosts"
        lines, inventory = [], []
        for host in self.hosts:
            for public in sorted(host.path("/etc/ssh").glob("ssh_host_*_key.pub")):
                lines.append(f"{host.name},{host.address} {' '.join(public.read_text().split()[:2])}\n")
            inventory.append(
                f'[[host]]\nname = "{host.name}"\naddress = "{host.address}"\nuser = "root"\n'
                f'identity_file = "{self.directory}/id_ed25519"\nknown_hosts = "{known}"\n'
            )
        known.write_text("".join(lines))
        self.inventory.write_text("\n".join(inventory))

    # --- down --------------------------------------------------------------------------------------

    def down(self) -> None:
        """Take everything of the lab away. May be called again."""
        for host in self.hosts:
            self.crash(host)
        names = [host.netns for host in self.hosts] + [self.client_netns, f"{self.topology.name}-sw"]
        for netns in names:
            _run(["ip", "netns", "delete", netns], check=False)
        _run(["ip", "link", "delete", f"mlab-{self.topology.name}"], check=False)
        _remove_groups(_cgroup_root() / "migrator-lab" / self.topology.name)
        shutil.rmtree(self.directory, ignore_errors=True)


def _run(argv: Sequence[str], *, check: bool = True, limit_s: float = 120) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=limit_s
    )
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(argv)} ended with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done


def _ip(*words: str) -> None:
    _run(["ip", *words])


def _cgroup_root() -> Path:
    return next(path for path in UNIFIED if (path / "cgroup.procs").exists())


def _remove_groups(group: Path) -> None:
    """Remove a cgroup and all below it, the deepest first; empty ones only can be removed."""
    if not group.is_dir():
        return
    for _ in range(100):
        with contextlib.suppress(OSError):
            for directory, _, _ in os.walk(group, topdown=False):
                os.rmdir(directory)
            return
        time.sleep(0.02)


def _started(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except FileNotFoundError:
        return ""


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def _kill(pid: int, started: str) -> None:
    if pid and started and _started(pid) == started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _await(true: object, complaint: str, host: Host, limit_s: float = 20) -> None:
    end = time.monotonic() + limit_s
    assert callable(true)
    while not true():
        if time.monotonic() > end:
            console = (host.directory / "console.log").read_text()[-2000:]
            raise RuntimeError(f"{complaint} within {limit_s} s; its console:\n{console}")
        time.sleep(0.02)
