"""The VE that is moved while things break, of each engine's kind: how it is made, where it is, and what may be killed.

Rule: each is what an operator of that kind of VE would have: made by its own tools, marked to start at boot, with a Redis
and a heartbeat in it. Engines that the lab only emulates are broken from outside alone, as the real ones would be.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from scenarios.faults import heartbeat
from scenarios.lab import bundles
from scenarios.lab.fleet import Lab
from scenarios.lab.hosts import Host
from scenarios.lab.openvz import install as openvz
from scenarios.lab.vserver import install as vserver
from scenarios.lab.vserver import template

BEAT_PORT = 7777
DEADLINE_S = 10
REDIS, BASH = "/usr/bin/redis-server", "/usr/bin/bash"
NUMBER = 101
"""Of its address in the lab's network."""


@dataclass(frozen=True, slots=True)
class Form:
    """What one kind is, to whoever looks from outside."""

    engine: str
    ve: str
    mode: str
    """As `--mode` takes it."""
    place: str
    """A directory of a host that is there as long as anything of the VE is."""
    root: str
    """Its root on the host's disk."""
    group: str
    """Its cgroup, below the host's."""
    tools: tuple[str, ...]
    """Programs that work for its migration and may be killed."""
    name: str = ""
    """What it is called where kinds are chosen; empty: as the engine."""
    options: tuple[str, ...] = ()
    """Of every `migrator migrate`."""
    roles: tuple[str, ...] = ()
    disk_mb: int = 400
    memory_mb: int = 600
    slack_s: float = 0.0
    """How much longer than an OCI bundle's its blackout, or the undoing of it, may be."""
    no_moments: tuple[str, ...] = ()
    """Parts of names of moments that do not come, or at which nothing may be broken."""
    no_faults: tuple[str, ...] = ()
    may_be: str = ""
    """A pattern of lines of the probe that come or go with such a VE, wherever it is."""

    @property
    def live(self) -> bool:
        """Whether its memory and connections move along."""
        return self.mode == "live"

    def fits(self, fault: str, moment: str) -> bool:
        """Whether this fault at this moment can be done to it."""
        return not any(each in moment for each in self.no_moments) and not any(each in fault for each in self.no_faults)


class Kind(Protocol):
    """A VE of one kind on a site's hosts."""

    @property
    def form(self) -> Form:
        """What it is from outside."""
        ...

    def install(self, lab: Lab) -> None:
        """What hosts need for it, the agents aside."""
        ...

    def deploy(self, lab: Lab, host: Host, *, persistent: bool) -> None:
        """Make it, stopped, marked to start at boot. `persistent`: its Redis writes to disk before it acknowledges."""
        ...

    def clear(self, host: Host) -> None:
        """Take it away from a host on which it is stopped, and any left half of it."""
        ...


def redis(*, persistent: bool, data: str, bind: str = "0.0.0.0") -> str:
    """The service's command line."""
    durable = "--appendonly yes --appendfsync always" if persistent else "--appendonly no"
    return f"{REDIS} --bind {bind} --protected-mode no --save '' --dir {data} {durable}"


BOOT_LINK = "/etc/rc2.d/S10ves"
"""Before the agent's: a host starts its VEs whether there is an agent or not."""
BOOT_SCRIPT = """\
#!/usr/bin/python3
# What a host does with VEs that are marked to start at boot: it starts them, and asks nobody.
import sys
sys.path.insert(0, "/var/lib/migrator/agent/current")
import trio
from agents.engines.oci.bundle import all_bundles
from agents.engines.oci.engine import OciEngine
for bundle in all_bundles():
    if bundle.autostart:
        trio.run(OciEngine().start, bundle.ve)
"""


@dataclass(frozen=True, slots=True)
class Bundle:
    """An OCI bundle under crun."""

    form: Form = Form(
        engine="oci",
        ve="shop",
        mode="live",
        place="/var/lib/migrator/ve/shop",
        root="/var/lib/migrator/ve/shop/rootfs",
        group="migrator/shop",
        tools=("criu", "crun", "rsync", "ssh", "ssh-keygen", "sshd-session"),
    )

    def install(self, lab: Lab) -> None:
        """A boot script of its own."""
        for host in lab.hosts:
            host.run("sh", "-c", f"cat > {BOOT_LINK}; chmod 755 {BOOT_LINK}", text=BOOT_SCRIPT)

    def deploy(self, lab: Lab, host: Host, *, persistent: bool) -> None:
        """A bundle with Redis and bash."""
        address, address6 = lab.ve_addresses(NUMBER)
        service = redis(persistent=persistent, data="/data")
        first = heartbeat.script(lab.client.address, BEAT_PORT, service)
        words = ["python3", "-", self.form.ve, "crun", address, address6, REDIS, BASH, "--", BASH, "-c", first]
        host.run(*words, text=Path(bundles.__file__).read_text())
        host.run("touch", f"{self.form.place}/autostart")
        host.run("mkfifo", f"{self.form.root}/{heartbeat.NEVER}")

    def clear(self, host: Host) -> None:
        """Files and network."""
        ve = self.form.ve
        host.run("rm", "-rf", self.form.place)
        host.run("sh", "-c", f"ip link delete ve-{ve}; ip netns delete {ve}", check=False)


@dataclass(frozen=True, slots=True)
class OpenVz:
    """A VE under (emulated) vzctl on an OpenVZ kernel, with a venet address."""

    form: Form = Form(
        engine="openvz",
        ve="101",
        mode="live",
        place="/vz/private/101",
        root="/vz/private/101",
        group="vz-101",
        # vzctl is never killed here: what its kernel does then is not known, and CRIU stands for that kernel.
        tools=("rsync", "ssh", "ssh-keygen", "sshd-session"),
        roles=("openvz",),
        disk_mb=1200,
        slack_s=4.0,
        no_moments=("crun", "criu"),
        no_faults=("-crun", "-criu", "-door"),
        may_be=r": (file /(etc/vz/conf/101\.[a-z]+\.destroyed|var/log/vzctl\.log|var/lib/vzctl/[^ ]*|vz/lock|vz/root/101)"
        r"|file /var/lib/migrator/openvz(/[^ ]*)?|route fe80::/64 dev venet0 .*)$",
    )

    def install(self, lab: Lab) -> None:
        """vzctl with its kernel."""
        openvz.install_lab(lab)

    def deploy(self, lab: Lab, host: Host, *, persistent: bool) -> None:
        """From the template, with the heartbeat as its service."""
        ve = self.form.ve
        address = lab.ve_addresses(NUMBER)[0].split("/", maxsplit=1)[0]
        host.run("vzctl", "create", ve, "--ostemplate", openvz.TEMPLATE, "--hostname", "shop", "--ipadd", address)
        host.run("vzctl", "set", ve, "--onboot", "yes", "--save")
        service = redis(persistent=persistent, data="/data")
        script = f"#!/bin/bash\nmkdir -p /data\n{heartbeat.script(lab.client.address, BEAT_PORT, service)}"
        _service(host, self.form.root, "etc/beat", script)
        _service(host, self.form.root, "etc/rc.d/50redis", "#!/bin/bash\nsetsid /etc/beat &\n")

    def clear(self, host: Host) -> None:
        """`vzctl destroy`, and what it keeps."""
        host.run("sh", "-c", "vzctl destroy 101; rm -rf /etc/vz/conf/101.* /vz/dump/*101 /vz/private/101", check=False)


FAULTY_SERVICE = """#!/bin/sh
# Redis with a heartbeat; both end when they are told to. Redis is started again when it ends by itself, as one that
# writes to disk before it acknowledges does when the disk is full.
case $1 in
start) bash /etc/beat < /dev/null > /dev/null 2>&1 & echo $! > /service.pid ;;
stop)  read redis < /service.pid; read beat < /beat.pid
       kill "$redis"; while kill -0 "$redis" 2> /dev/null; do sleep 0.02; done; kill "$beat" ;;
esac
"""

RESPAWN = """&
echo $! > /beat.pid
trap 'kill "$redis"; wait "$redis"; exit 0' TERM
while :; do
    {service} &
    redis=$!
    wait "$redis"
    sleep 0.2
done
"""

GUEST = template.Template("faults", FAULTY_SERVICE, (*template.BUSY, "redis-server", "bash", "kill"))


@dataclass(frozen=True, slots=True)
class VServer:
    """A guest of (emulated) util-vserver with an alias address; it moves by stop and start."""

    form: Form = Form(
        engine="vserver",
        ve="shop",
        mode="stop-copy",
        place="/vservers/shop",
        root="/vservers/shop",
        group="vserver",
        tools=("rsync", "ssh", "ssh-keygen", "sshd-session"),
        roles=("vserver",),
        disk_mb=800,
        slack_s=15.0,
        no_moments=("crun", "criu", "has images"),
        no_faults=("-crun", "-criu", "-door", "image-", "memory-full"),
        may_be=r": (file /(run|var/lib)/vserver-emulation(/[^ ]*)?"
        r"|file /(var/cache|run)/(vservers|vshelper)(/[^ ]*)?|file /var/lib/migrator/vserver(/[^ ]*)?"
        r"|file /run/migrator/vserver-devices\.json|cgroup /sys/fs/cgroup/vserver)$",
    )

    def install(self, lab: Lab) -> None:
        """util-vserver and a template."""
        for host in lab.hosts:
            vserver.install(host)
            template.make(host, GUEST)

    def deploy(self, lab: Lab, host: Host, *, persistent: bool) -> None:
        """Its service is stopped and started in each move: it always writes to disk before it acknowledges."""
        ve, address = self.form.ve, lab.ve_addresses(NUMBER)[0]
        words = ["-m", "template", "--context", "100", "--hostname", ve, "--initstyle", "sysv"]
        words += ["--interface", f"web=br0:{address}", "--", "-t", GUEST.path]
        host.run("vserver", ve, "build", *words)
        host.run("sh", "-c", f"mkdir -p /etc/vservers/{ve}/apps/init; echo default > /etc/vservers/{ve}/apps/init/mark")
        service = redis(persistent=True, data="/data", bind=address.split("/", maxsplit=1)[0])
        script = heartbeat.script(lab.client.address, BEAT_PORT, service)
        script = script.replace(f"&\nexec {service}\n", RESPAWN.format(service=service))
        _service(host, self.form.root, "etc/beat", script)

    def clear(self, host: Host) -> None:
        """Configuration, also a kept one, and files."""
        host.run("sh", "-c", "rm -rf /etc/vservers/shop /etc/vservers/shop.~migrated~ /vservers/shop", check=False)


def _service(host: Host, root: str, path: str, text: str) -> None:
    """A program in the VE's root, and the fifo of the heartbeat."""
    place, never = f"{root}/{path}", f"{root}/{heartbeat.NEVER}"
    host.run("sh", "-c", f"cat > {shlex.quote(place)}; chmod 755 {shlex.quote(place)}", text=text)
    host.run("sh", "-c", f"mkdir -p {root}/data; [ -p {never} ] || mkfifo {never}")


def _by(name: str, *options: str, slack_s: float = 0.0) -> Bundle:
    """The bundle, moved in a way of its own."""
    return Bundle(replace(Bundle().form, name=name, options=options, slack_s=slack_s))


WAYS = (
    _by("oci-content", "--memory", "content"),
    _by("oci-dump", "--memory", "dump"),
    # No blackout is as short as this budget; and a VE that waits for its memory stands still as long as the line is broken.
    _by("oci-post-copy", "--over-budget", "post-copy", "--budget", "1", slack_s=30.0),
)
KINDS: dict[str, Kind] = {kind.form.name or kind.form.engine: kind for kind in (Bundle(), OpenVz(), VServer(), *WAYS)}


def names() -> Sequence[str]:
    """Engines of which a VE can be broken."""
    return tuple(KINDS)
