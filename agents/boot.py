"""Makes the agent start with its host: a systemd unit where systemd runs, else an init script.

Rule: what is installed is removed by `remove` to the last file; nothing else of the host is changed.
"""

import os
import subprocess
from pathlib import Path

from agents import places, supervise

SYSTEMD = Path("/run/systemd/system")
UNIT = Path("/etc/systemd/system/migrator-agent.service")
SCRIPT = Path("/etc/init.d/migrator-agent")
LINKS = tuple(Path(f"/etc/rc{level}.d/S20migrator-agent") for level in "2345")

UNIT_TEXT = f"""\
[Unit]
Description=Agent of migrator, live migration of virtual environments
After=network.target local-fs.target

[Service]
ExecStart=/usr/bin/python3 -I {places.PROGRAM} serve
Restart=always
RestartSec=1
KillMode=process
Delegate=yes

[Install]
WantedBy=multi-user.target
"""
SCRIPT_TEXT = f"""\
#!/bin/sh
### BEGIN INIT INFO
# Provides:          migrator-agent
# Required-Start:    $local_fs $network
# Required-Stop:
# Default-Start:     2 3 4 5
# Default-Stop:
# Short-Description: agent of migrator, live migration of virtual environments
### END INIT INFO
case "$1" in
start) exec python3 -I {places.PROGRAM} supervise ;;
stop) exec python3 -I {places.PROGRAM} stop ;;
restart) python3 -I {places.PROGRAM} stop; exec python3 -I {places.PROGRAM} supervise ;;
*) echo "usage: $0 start|stop|restart"; exit 2 ;;
esac
"""


def install() -> None:
    """Install and start. May be called again: then the agent is started anew from the program that is current."""
    if SYSTEMD.is_dir():
        UNIT.write_text(UNIT_TEXT)
        _systemctl("daemon-reload")
        _systemctl("enable", UNIT.name)
        _systemctl("restart", UNIT.name)
        return
    SCRIPT.parent.mkdir(parents=True, exist_ok=True)
    SCRIPT.write_text(SCRIPT_TEXT)
    SCRIPT.chmod(0o755)
    for link in LINKS:
        if link.parent.is_dir() and not link.is_symlink():
            os.symlink(f"../init.d/{SCRIPT.name}", link)
    supervise.stop()
    supervise.supervise()


def remove() -> None:
    """Stop the agent and take away what `install` made; records, VEs and the program stay."""
    if UNIT.exists():
        _systemctl("disable", "--now", UNIT.name)
        UNIT.unlink()
        _systemctl("daemon-reload")
    supervise.stop()
    for path in (*LINKS, SCRIPT):
        path.unlink(missing_ok=True)


def _systemctl(*words: str) -> None:
    subprocess.run(["systemctl", *words], check=True, stdin=subprocess.DEVNULL)
