"""Files of every kind that is easily lost on the way, moved with a guest: `make demo-vserver`, smaller."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scenarios import demo_vserver
from scenarios.demo import Demo
from scenarios.lab import many_files
from scenarios.lab.fleet import Lab
from scenarios.lab.hosts import Host

pytestmark = pytest.mark.lab
COUNT = 1000


def test_every_file_is_the_same_file(vserver_lab: Lab, vserver_host: Host, vserver_peer: Host) -> None:
    """Content, type, mode, owner, time, hard links, holes, devices, ACLs, attributes; the source keeps none of them."""
    demo = Demo(vserver_lab)
    for host in (vserver_host, vserver_peer):
        demo.migrator("host", "add", host.name)
    before = demo_vserver.build(vserver_host, vserver_lab.ve_addresses(120)[0], COUNT)

    demo.migrator("migrate", demo_vserver.GUEST, vserver_peer.name)

    assert demo_vserver.differences(before, demo_vserver.listed(vserver_peer)) == []
    assert len(before) > COUNT
    assert demo_vserver.GUEST not in vserver_host.run("ls", "/vservers").stdout.split()
    [report] = json.loads(demo.migrator("history", "--json", "--limit", "1", capture=True))
    assert report["mode"] == "stop-copy"


@pytest.mark.parametrize(
    "change",
    [
        "printf x >> d0000/plain-0",
        "touch -d @1 d0000/plain-0",
        "chmod 600 d0000/plain-0",
        "chown 5 d0000/plain-0",
        "cp -a d0000/sparse-6 x; cat x > d0000/sparse-6",
        "rm d0000/again-2; cp -a d0000/plain-0 d0000/again-2",
        'python3 -c \'import os; os.removexattr("d0000/attribute-14", "user.origin")\'',
        "rm d0000/fifo-3",
    ],
)
def test_the_comparison_sees(tmp_path: Path, change: str) -> None:
    """Each kind of difference is found; a comparison that sees nothing would prove nothing."""
    script = Path(many_files.__file__)
    tree = tmp_path / "tree"
    subprocess.run([sys.executable, script, "make", tree, "100"], check=True)
    before = subprocess.run([sys.executable, script, "list", tree], check=True, capture_output=True, text=True).stdout
    subprocess.run(["sh", "-c", change], cwd=tree, check=True)
    after = subprocess.run([sys.executable, script, "list", tree], check=True, capture_output=True, text=True).stdout

    assert demo_vserver.differences(before.splitlines(), after.splitlines())
