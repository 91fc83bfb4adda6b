"""Puts the emulated util-vserver into a lab host: programs in /usr/sbin, directories, boot scripts, guest templates.

`python -m scenarios.lab.vserver.install LAB [HOST...]`
"""

import sys
from pathlib import Path

from scenarios.lab.fleet import Lab
from scenarios.lab.hosts import Host
from scenarios.lab.vserver import template
from scenarios.lab.vserver.tools.main import PROGRAMS

HERE = Path(__file__).parent / "tools"
HOME = "/usr/lib/vserver-emulation"
STUB = f"#!/usr/bin/python3 -I\nimport sys\nsys.path.insert(0, '{HOME}')\nfrom vemu.main import main\nmain()\n"
DIRECTORIES = [
    "/etc/vservers/.defaults/apps/vunify/hash",
    "/etc/vserver-emulation",
    "/vservers/.pkg",
    "/vservers/.hash",
    "/vservers/.templates",
    "/var/cache/vservers",
    "/usr/lib/util-vserver",
    "/etc/rc2.d",
    "/etc/rc0.d",
]
BOOT = """#!/bin/sh
# What the init scripts of util-vserver do at boot: runtime directories, vshelper, /proc, guests marked `default`.
case $1 in
start)
    mkdir -p /run/vservers /run/vshelper /run/lock
    util-vserver start
    vprocunhide
    start-vservers -m default --start ;;
stop)
    start-vservers --all --stop ;;
esac
"""


def install(host: Host) -> None:
    """Whole, on a host that is up; may be repeated."""
    host.run("mkdir", "-p", *DIRECTORIES, HOME + "/vemu", "/etc/vservers/.defaults")
    for source in sorted(HERE.glob("*.py")):
        host.path(f"{HOME}/vemu/{source.name}").write_text(source.read_text())
    for program in PROGRAMS:
        place = "/usr/lib/util-vserver" if program == "vshelper" else "/usr/sbin"
        stub = host.path(f"{place}/{program}")
        stub.write_text(STUB)
        stub.chmod(0o755)
    boot = host.path("/etc/rc2.d/S20vserver")
    boot.write_text(BOOT)
    boot.chmod(0o755)
    stop = host.path("/etc/rc0.d/K20vserver")
    stop.write_text(BOOT)
    stop.chmod(0o755)
    host.run("sh", "-c", "ln -sfn /vservers/.hash /etc/vservers/.defaults/apps/vunify/hash/root")
    host.run("sh", "-c", "[ -e /var/run ] || ln -s /run /var/run; [ -e /var/lock ] || ln -s /run/lock /var/lock")
    host.run("python3", "-m", "compileall", "-q", HOME)
    host.run("/etc/rc2.d/S20vserver", "start")


def main() -> None:
    """Install into the named lab's hosts."""
    lab = Lab.load(sys.argv[1])
    for host in lab.hosts:
        if len(sys.argv) < 3 or host.name in sys.argv[2:]:
            install(host)
            made = [template.make(host, each) for each in (template.SMALL, template.SERVER)]
            print(f"{host.name}: emulated util-vserver installed; templates {' '.join(made)}")


if __name__ == "__main__":
    main()
