"""Puts the emulated OpenVZ into a lab host: programs at their real paths, /etc/vz, /vz, a template, the init script.

Rule: after this the host looks to the engine like any OpenVZ host; nothing of the lab is named in /etc/vz/vz.conf.
"""

import shutil
import subprocess
from pathlib import Path

from scenarios.lab.fleet import Lab
from scenarios.lab.hosts import Host

TOOLS = Path(__file__).parent / "tools"
HOME = "/usr/local/lib/vzemu"
PROGRAMS = ("vzctl", "vzlist", "vzcptcheck")
TEMPLATE = "debian-13-small"
ROLE = "openvz"
LAUNCHER = """#!/usr/bin/python3 -IS
import sys
sys.path.insert(0, "{home}")
from tools.{program} import main
sys.exit(main())
"""
VZ_CONF = """## Global parameters
VIRTUOZZO=yes
LOCKDIR=/vz/lock
DUMPDIR=/vz/dump
VE0CPUUNITS=1000

## Logging parameters
LOGGING=yes
LOGFILE=/var/log/vzctl.log
LOG_LEVEL=0
VERBOSE=0

## Disk quota parameters
DISK_QUOTA=no
VZFASTBOOT=no

# Disable module loading. If set, vz initscript does not load any modules.
#MODULES_DISABLED=yes

# Controls which interfaces to send ARP requests and modify ARP tables on.
NEIGHBOUR_DEVS=detect
ERROR_ON_ARPFAIL="no"
STOP_TIMEOUT=10

## Template parameters
TEMPLATE=/vz/template

## Defaults for containers
VE_ROOT=/vz/root/$VEID
VE_PRIVATE=/vz/private/$VEID
DEF_OSTEMPLATE="debian-13-small"
VE_LAYOUT=simfs
"""
INIT_SCRIPT = """#!/bin/sh
# Starts and stops the containers that ask for it, as /etc/init.d/vz does; `status` says whether OpenVZ runs.
containers() {
  for conf in /etc/vz/conf/[0-9]*.conf; do
    [ ! -e "$conf" ] || basename "$conf" .conf
  done
}
case "$1" in
start)
  [ -e /etc/vz/lab-ordinary-kernel ] || [ -e /dev/vzctl ] || mknod -m 600 /dev/vzctl c 126 0
  python3 -IS -c "import sys; sys.path.insert(0, '/usr/local/lib/vzemu')
from tools.network import ensure_host; ensure_host()"
  rm -f /vz/lock/*.lck
  for id in $(containers); do
    grep -q '^ONBOOT="*yes"*' "/etc/vz/conf/$id.conf" && vzctl start "$id"
  done
  ;;
stop)
  for id in $(containers); do vzctl stop "$id" --fast; done
  ;;
status)
  [ -e /dev/vzctl ] || { echo "OpenVZ is stopped..."; exit 3; }
  echo "OpenVZ is running..."
  ;;
esac
exit 0
"""


def install(host: Host, *, template: str = TEMPLATE, ordinary_kernel: bool = False) -> None:
    """Make `host` an OpenVZ host; may be called again. `ordinary_kernel`: vzctl there has CRIU and no OpenVZ kernel."""
    home = host.path(HOME)
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(TOOLS, home / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    for program in PROGRAMS:
        _program(host.path(f"/usr/sbin/{program}"), LAUNCHER.format(home=HOME, program=program))
    for directory in (
        "etc/vz/conf",
        "etc/vz/names",
        "vz/private",
        "vz/root",
        "vz/dump",
        "vz/lock",
        "vz/template/cache",
    ):
        host.path(directory).mkdir(parents=True, exist_ok=True)
    host.path("/etc/vz/vz.conf").write_text(VZ_CONF)
    _program(host.path("/etc/init.d/vz"), INIT_SCRIPT)
    _ordinary(host, ordinary_kernel)
    link = host.path("/etc/rc2.d/S20vz")
    if not link.is_symlink():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to("../init.d/vz")
    host.run("/etc/init.d/vz", "start")
    host.run("env", f"PYTHONPATH={HOME}", "python3", "-m", "tools.template", template, limit_s=300)


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def _ordinary(host: Host, wanted: bool) -> None:
    marker = host.path("/etc/vz/lab-ordinary-kernel")
    if wanted:
        marker.touch()
        host.path("/dev/vzctl").unlink(missing_ok=True)
    else:
        marker.unlink(missing_ok=True)


def install_lab(lab: Lab, *, ordinary_kernel: bool = False) -> list[Host]:
    """Make every host of a lab that has the role `openvz`, or every host when none has it, an OpenVZ host."""
    chosen = [host for host in lab.hosts if ROLE in host.record.spec.roles] or lab.hosts
    for host in chosen:
        if host is not chosen[0]:
            share_template(chosen[0], host)
        install(host, ordinary_kernel=ordinary_kernel)
    return chosen


def share_template(source: Host, target: Host, template: str = TEMPLATE) -> None:
    """Give `target` the template `source` has made, so that it is made once."""
    name = f"/vz/template/cache/{template}.tar.gz"
    target.path(name).parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "--", source.path(name), target.path(name)], check=True)
