"""Puts the emulated OpenVZ into a lab host: programs at their real paths, /etc/vz, /vz, a template, the init script.

Rule: after this the host looks to the engine like any OpenVZ host; nothing of the lab is named in /etc/vz/vz.conf.
"""

import shutil
import subprocess
from pathlib import Path

from scenarios.lab.hosts import Host

TOOLS = Path(__file__).parent / "tools"
HOME = "/usr/local/lib/vzemu"
PROGRAMS = ("vzctl", "vzlist", "vzcptcheck")
TEMPLATE = "debian-13-small"
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
# Starts at boot the containers that ask for it, as /etc/init.d/vz does.
[ "$1" = start ] || exit 0
python3 -IS -c "import sys; sys.path.insert(0, '/usr/local/lib/vzemu')
from tools.network import ensure_host; ensure_host()"
for conf in /etc/vz/conf/[0-9]*.conf; do
  [ -e "$conf" ] || continue
  grep -q '^ONBOOT="*yes"*' "$conf" && vzctl start "$(basename "$conf" .conf)"
done
"""


def install(host: Host, *, template: str = TEMPLATE) -> None:
    """Make `host` an OpenVZ host; may be called again."""
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


def share_template(source: Host, target: Host, template: str = TEMPLATE) -> None:
    """Give `target` the template `source` has made, so that it is made once."""
    name = f"/vz/template/cache/{template}.tar.gz"
    target.path(name).parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "--", source.path(name), target.path(name)], check=True)
