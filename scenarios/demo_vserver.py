"""`make demo-vserver`: a Linux-VServer guest with 50,000 awkward files moves between two hosts, and not one differs afterwards.

Rule: as `scenarios.demo`. util-vserver is emulated (no kernel of today has it); the files, rsync, SSH and the two hosts are
real. What is compared is read from the files themselves, before on the source and afterwards on the target.
"""

import difflib
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scenarios.demo import Demo
from scenarios.lab import many_files
from scenarios.lab.fleet import Lab
from scenarios.lab.hosts import Host
from scenarios.lab.topology import HostSpec, Topology
from scenarios.lab.vserver import guests, install, template

FILES = 50_000
GUEST = "web1"
TREE = f"/vservers/{GUEST}/srv/files"
HOSTS = (HostSpec("alpha", roles=("vserver",)), HostSpec("beta", roles=("vserver",)))
MAKE_LIMIT_S = 300.0
SHOWN = 20
KINDS = {
    "10": "regular files",
    "12": "symbolic links",
    "14": "sockets",
    "1": "fifos",
    "2": "character devices",
    "4": "directories",
    "6": "block devices",
}
"""The leading octal digits of a mode -> in words."""


@contextmanager
def hosts_up(name: str) -> Iterator[Lab]:
    """A lab of two VServer hosts, taken down again."""
    lab = Lab.up(Topology(name, HOSTS))
    try:
        for host in lab.hosts:
            install.install(host)
            template.make(host, template.SMALL)
        yield lab
    finally:
        lab.down()


def build(host: Host, address: str, count: int) -> list[str]:
    """A guest with a tree of `count` files, started; the list of the tree."""
    guest = guests.build(host, GUEST, 100, f"web=br0:{address}")
    host.run("mkdir", "-p", TREE)
    _on(host, "make", TREE, str(count))
    guest.start()
    return listed(host)


def listed(host: Host) -> list[str]:
    """Everything that can be seen of the tree's files."""
    return _on(host, "list", TREE)


def _on(host: Host, *words: str) -> list[str]:
    script = Path(many_files.__file__).read_text()
    return host.run("python3", "-", *words, text=script, limit_s=MAKE_LIMIT_S).stdout.splitlines()


def differences(before: list[str], after: list[str]) -> list[str]:
    """What is not the same, a line each; - was, + is."""
    if before == after:
        return []
    return [
        line for line in difflib.unified_diff(before, after, "source", "target", lineterm="", n=0) if line[0] in "-+"
    ]


def _census(lines: list[str]) -> str:
    fields = [line.split(" ", 5) for line in lines]
    kinds = Counter(mode[:-4] for mode, *_ in fields)
    hard = sum(links != "1" and not mode.startswith("4") for mode, _, _, _, links, _ in fields)
    words = [f"{count:,} {KINDS.get(kind, kind)}" for kind, count in kinds.most_common()]
    return ", ".join(words) + f"; {hard:,} names are hard links"


def run() -> int:
    """All of it; the exit status."""
    print("bringing up two hosts on this machine, with util-vserver (emulated)", flush=True)
    with hosts_up("demov") as lab:
        source, target = lab.host("alpha"), lab.host("beta")
        demo = Demo(lab)
        for host in lab.hosts:
            demo.migrator("host", "add", host.name)
        print(f"\na guest is built with {FILES:,} files of every kind that is easily lost …", flush=True)
        before = build(source, lab.ve_addresses(120)[0], FILES)
        print(_census(before), flush=True)
        demo.migrator("ve", "list")
        demo.migrator("plan", GUEST, target.name)
        began_s = time.monotonic()
        demo.migrator("migrate", GUEST, target.name)
        took_s = time.monotonic() - began_s
        demo.migrator("ve", "list")
        after = listed(target)
        gone = source.run("ls", "/vservers").stdout.split()
    different = differences(before, after)
    for line in different[:SHOWN]:
        print(line)
    print(
        f"\n{len(before):,} entries compared: content, type, mode, owner, times to the nanosecond, hard links, holes, "
        f"devices, ACLs, extended attributes.\n{len(different):,} differ. The move took {took_s:.1f} s; "
        f"the source keeps {', '.join(gone) or 'nothing'}.\nthe lab is taken down"
    )
    return 1 if different or not before or GUEST in gone else 0


def main() -> int:
    """Needs root."""
    if os.geteuid() != 0:
        print("the demo makes namespaces and mounts: run it as root", file=sys.stderr)
        return 1
    try:
        return run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
