"""Puts the emulated util-vserver into a lab host: programs in /usr/sbin, directories, boot scripts, a guest template.

`python -m scenarios.lab.vserver.install LAB [HOST...]`
"""

import io
import shlex
import sys
import tarfile
from pathlib import Path

from scenarios.lab.fleet import Lab
from scenarios.lab.hosts import Host
from scenarios.lab.vserver.tools.main import PROGRAMS

HERE = Path(__file__).parent / "tools"
HOME = "/usr/lib/vserver-emulation"
TEMPLATE = "/vservers/.templates/small.tar"
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
BUSY = "sh cat ls sleep kill mkdir rm touch hostname ps sed"


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


def template(host: Host, programs: str = BUSY, service: str = "") -> None:
    """A small guest as a tarball: a shell, a few programs of the host's, an init script that starts `service`."""
    members = _closure(host, programs.split())
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as out:
        for path, content in {"etc/init.d/rc": (RC, 0o755), "etc/passwd": ("root:x:0:0:root:/:/bin/sh\n", 0o644),
                              "etc/service": (service or SERVICE, 0o755)}.items():  # fmt: skip
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(content[0]), content[1]
            out.addfile(info, io.BytesIO(content[0].encode()))
    host.path(TEMPLATE + ".part").write_bytes(archive.getvalue())
    listed = " ".join(shlex.quote(member) for member in members)
    host.run(
        "sh", "-c", f"cd / && tar -chf {TEMPLATE} {listed} && tar -Af {TEMPLATE} {TEMPLATE}.part && rm {TEMPLATE}.part"
    )


RC = """#!/bin/sh
# Both run levels of a guest: 3 starts the service, 6 ends it.
case $1 in
6) exec /etc/service stop ;;
*) exec /etc/service start ;;
esac
"""
SERVICE = """#!/bin/sh
# One process that writes a line a second and ends when it is told to.
case $1 in
start) (trap 'rm -f /service.pid; exit 0' TERM; n=0
        while :; do n=$((n + 1)); echo $n > /service.count; sleep 0.2; done) < /dev/null > /dev/null 2>&1 &
       echo $! > /service.pid ;;
stop)  kill $(cat /service.pid); while [ -e /service.pid ]; do sleep 0.05; done ;;
esac
"""


def _closure(host: Host, programs: list[str]) -> list[str]:
    """The programs' files and the libraries they name, without the leading slash."""
    script = (
        "for p in " + " ".join(programs) + "; do f=$(command -v $p) || exit 1; echo $f; ldd $f 2>/dev/null | "
        "grep -o '/[^ ]*'; done | sort -u"
    )
    found = host.run("bash", "-c", script).stdout.split()
    return [path.lstrip("/") for path in found]


def main() -> None:
    """Install into the named lab's hosts."""
    lab = Lab.load(sys.argv[1])
    for host in lab.hosts:
        if len(sys.argv) < 3 or host.name in sys.argv[2:]:
            install(host)
            template(host)
            print(f"{host.name}: emulated util-vserver installed; template {TEMPLATE}")


if __name__ == "__main__":
    main()
