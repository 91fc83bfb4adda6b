"""The vserver engine's acts on real hosts: what each promises, and that a guest is the same guest after its move."""

import json

import pytest

from migrator.wire.faults import FaultCode
from scenarios.lab.acts import Acts
from scenarios.lab.hosts import Host
from scenarios.lab.vserver.guests import Guest, addresses, build, write
from scenarios.lab.vserver.move import Move

pytestmark = pytest.mark.lab


def carried(host: Host) -> dict[str, object]:
    """What is written down on a host about web1."""
    text = host.run("cat", "/var/lib/migrator/vserver/web1/carry/guest.json").stdout
    found: dict[str, object] = json.loads(text)
    return found


def test_probe_names_tool_and_engine(here: Acts) -> None:
    """util-vserver with its version, usable."""
    [tool], offers = here.probe()

    assert (tool.name, tool.version, tool.problem) == ("util-vserver", "0.30.216-pre3131", "")
    assert offers == ("vserver",)


def test_facts_of_a_running_guest(here: Acts, web: Guest, ip: str) -> None:
    """Name, state, address, size, processes, mark; it is never live; ignored names and nobody's names are not guests."""
    build(web.host, "old.~1234~", 101)
    here.start("web1")

    [facts] = here.discover()

    assert (facts.ve, facts.engine, facts.state, facts.live) == ("web1", "vserver", "running", False)
    assert facts.addresses == (ip,)
    assert facts.interfaces[0].name == "br0"
    assert facts.root == "/vservers/web1"
    assert facts.processes > 0
    assert facts.memory_bytes > 1 << 20
    assert facts.disk_bytes > 4 << 20
    assert facts.autostart
    assert here.inspect("nobody") is None
    assert here.look("nobody") == "absent"


def test_start_and_stop_may_be_repeated(here: Acts, web: Guest, ip: str) -> None:
    """Each does nothing the second time, and `look` follows."""
    states = []
    for act in ("start", "start", "stop", "stop"):
        getattr(here, act)("web1")
        states.append(here.look("web1"))

    assert states == ["running", "running", "stopped", "stopped"]
    assert ip not in addresses(web.host)["br0"]


def test_fence_is_durable_and_comes_off_whole(here: Acts, web: Guest) -> None:
    """No boot mark, no restart by the guest itself; the configuration is byte for byte the same afterwards."""
    before = web.host.run("sh", "-c", "cd /etc/vservers/web1; find . -type f | sort | xargs md5sum").stdout
    here.fence("web1")
    here.fence("web1")
    web.host.run("/etc/rc2.d/S20vserver", "start")
    booted = web.running
    here.start("web1")
    init = web.host.run("vserver-info", "100", "INITPID").stdout
    web.host.run("/usr/lib/util-vserver/vshelper", "restart", "100")
    same = web.host.run("vserver-info", "100", "INITPID").stdout == init
    here.unfence("web1")

    assert (booted, same) == (False, True)
    assert web.host.run("sh", "-c", "cd /etc/vservers/web1; find . -type f | sort | xargs md5sum").stdout == before


def test_a_whole_move(move: Move, web: Guest, ip: str) -> None:
    """Running there with address, mark, tags, barrier and data; nothing left here."""
    move.leaving.start("web1")
    web("exec", "sh", "-c", "echo kept > /data/file")
    assert move.vet() == ()

    move.all()

    guest = Guest(move.target, "web1")
    assert guest.running
    assert guest.read("data/file") == "kept\n"
    assert ip in addresses(move.target)["br0"]
    assert ip not in addresses(move.source)["br0"]
    assert move.target.run("cat", f"{guest.config}/apps/init/mark").stdout == "default\n"
    assert move.target.run("sh", "-c", f"test ! -e {guest.config}/apps/vshelper/disabled; echo $?").stdout == "0\n"
    assert "100" in move.target.run("lsxid", "-n", f"{guest.root}/data/file").stdout
    assert move.target.run("showattr", "-d", "/vservers").stdout.startswith("----B")
    assert move.leaving.look("web1") == "absent"
    assert move.source.run("ls", "/vservers", "/etc/vservers").stdout.split() == ["/etc/vservers:", "/vservers:"]
    for host in (move.source, move.target):
        assert host.run("ls", "/var/lib/migrator/vserver").stdout == ""


def test_there_and_back_again(move: Move, web: Guest) -> None:
    """What came can leave again, and its second home is its first."""
    move.leaving.start("web1")
    move.all()
    back = Move(move.target, move.source, move.arriving, move.leaving, "web1")
    assert back.vet() == ()

    back.all()

    assert web.running
    assert web.host.run("cat", f"{web.config}/apps/init/mark").stdout == "default\n"


def test_every_act_may_be_repeated(move: Move, web: Guest) -> None:
    """An agent that died before it noted that an act was done does it again, and nothing changes."""
    move.leaving.start("web1")
    facts = move.coming()
    for act, words in (("fence", ["web1"]),):
        move.leaving.within(60, act, *words)
        move.leaving.within(60, act, *words)
    move.arriving.accept(facts)
    move.facts = facts.facts
    move.places = {tree.name: tree for tree in move.arriving.accept(facts)}
    move.copy(running=True)
    move.stop()
    move.stop()
    for _ in range(2):
        move.arriving.arrange("web1")
    for _ in range(2):
        move.arriving.start("web1")
    for _ in range(2):
        move.leaving.discard("web1")
    for _ in range(2):
        move.arriving.unfence("web1")
    for _ in range(2):
        move.leaving.destroy("web1")

    assert Guest(move.target, "web1").running
    assert move.leaving.look("web1") == "absent"


@pytest.mark.parametrize("moment", ["accepted", "stopped", "arranged", "started"])
def test_undo_at_every_step(move: Move, web: Guest, ip: str, moment: str) -> None:
    """From any moment before it is given away: it runs here as before, and nothing of it is there."""
    move.leaving.start("web1")
    move.prepare()
    if moment != "accepted":
        move.stop()
    if moment in ("arranged", "started"):
        move.arriving.arrange("web1")
    if moment == "started":
        move.arriving.start("web1")
        move.arriving.stop("web1")

    move.undo()

    assert web.running
    assert ip in addresses(move.source)["br0"]
    assert web.host.run("cat", f"{web.config}/apps/init/mark").stdout == "default\n"
    assert move.arriving.look("web1") == "absent"
    assert ip not in addresses(move.target)["br0"]
    found = move.target.run("ls", "/vservers", "/etc/vservers", "/var/lib/migrator/vserver", "/run/vservers").stdout
    assert "web1" not in found


def test_the_copy_that_stays_cannot_start(move: Move, web: Guest) -> None:
    """Discarded and not destroyed: no tool starts it, no boot script, not this engine; it is still known here."""
    move.leaving.start("web1")
    move.prepare()
    move.stop()
    move.arriving.arrange("web1")
    move.leaving.discard("web1")

    by_hand = web("start")
    web.host.run("/etc/rc2.d/S20vserver", "start")
    fault = move.leaving.fault("start", "web1")

    assert by_hand.returncode == 5
    assert web.host.run("vserver-stat").stdout.count("\n") == 1
    assert fault.code is FaultCode.CONFLICT
    assert "moved away" in fault.message
    assert move.leaving.look("web1") == "stopped"
    assert "cannot start" in move.leaving.inspect("web1").notes[0]
    move.leaving.destroy("web1")
    assert move.leaving.look("web1") == "absent"


def test_a_new_name_and_a_new_id(move: Move, web: Guest) -> None:
    """Under another name with another context id: configuration, links and the tags of all files follow."""
    build(move.target, "other", 100)
    move.target_ve, move.names = "shop", {"context:web1": "140"}
    move.leaving.start("web1")
    assert move.vet() == ()

    move.all()

    shop = Guest(move.target, "shop")
    read = move.target.run("sh", "-c", "cd /etc/vservers/shop; cat context name uts/nodename; readlink vdir run cache")
    assert shop.running
    assert read.stdout.split() == [
        "140", "shop", "shop", "/vservers/shop", "/var/run/vservers/shop", "/var/cache/vservers/shop",
    ]  # fmt: skip
    tags = move.target.run("sh", "-c", "lsxid -R -n /vservers/shop/etc | sed 's/  .vservers.*//'").stdout.split()
    assert set(tags) == {"140"}
    assert shop("exec", "cat", "/proc/sys/kernel/hostname").stdout == "shop\n"


def test_an_id_of_the_targets_choice(move: Move) -> None:
    """`auto`: the first free one, also not one of a guest that is on its way."""
    build(move.target, "other", 40000)
    move.names = {"context:web1": "auto"}
    move.leaving.start("web1")

    move.all()

    assert move.target.run("cat", "/etc/vservers/web1/context").stdout == "40001\n"


def test_names_of_the_other_host(move: Move, web: Guest, ip: str) -> None:
    """Device, label, mount source and root directory as the target calls them; the rest byte for byte."""
    move.target.run("ip", "link", "add", "lan", "type", "bridge")
    for host, path in ((move.source, "/srv/www"), (move.target, "/data/www")):
        write(host, f"{path}/index", "shared\n")
    web.write("fstab", "# ours\n/srv/www\t/srv  none bind,ro 0 0\n")
    move.names = {"interface:br0": "lan", "label:web": "w1", "directory:/srv": "/data"}
    move.leaving.start("web1")
    assert move.vet() == ()

    move.all()

    assert ip in addresses(move.target)["lan"]
    assert "lan:w1" in move.target.run("ip", "address", "show", "lan").stdout
    assert move.target.run("cat", "/etc/vservers/web1/fstab").stdout == "# ours\n/data/www\t/srv  none bind,ro 0 0\n"
    assert Guest(move.target, "web1")("exec", "cat", "/srv/index").stdout == "shared\n"


def test_a_bound_directory_moves_along(move: Move, web: Guest) -> None:
    """Data outside the root that is said to be carried: it is there, and mounted."""
    write(move.source, "/srv/www/index", "mine\n")
    web.write("fstab", "/srv/www /srv none bind 0 0\n")
    move.names = {"carry:/srv/www": "/data/www"}
    move.leaving.start("web1")
    assert move.vet() == ()

    move.all()

    assert move.target.run("cat", "/data/www/index").stdout == "mine\n"
    assert Guest(move.target, "web1")("exec", "cat", "/srv/index").stdout == "mine\n"


def test_a_file_system_below_the_root_moves_along(move: Move, web: Guest) -> None:
    """One that the host has mounted there, with odd characters in its place; the root's own pass leaves it alone."""
    place = "/vservers/web1/big [1]*"
    web.host.run("mkdir", "-p", place, "/data/fs")
    web.host.run("mount", "--bind", "/data/fs", place)
    write(web.host, "/data/fs/inner", "x\n")
    write(web.host, "/vservers/web1/bigger", "y\n")
    move.leaving.start("web1")
    move.prepare()
    web.host.run("mkdir", "/data/fs/later")
    move.stop()
    move.arriving.arrange("web1")
    move.arriving.start("web1")

    assert move.target.run("ls", place, "/vservers/web1/bigger").stdout.split() == [
        "/vservers/web1/bigger", "/vservers/web1/big", "[1]*:", "inner", "later",
    ]  # fmt: skip


def test_package_data_outside_the_root_moves_along(move: Move, web: Guest) -> None:
    """What `apps/pkgmgmt/base` leads to is at the same place of the target's."""
    write(move.source, "/vservers/.pkg/web1/status", "installed\n")
    move.source.run(
        "sh", "-c", f"mkdir -p {web.config}/apps/pkgmgmt; ln -s /vservers/.pkg/web1 {web.config}/apps/pkgmgmt/base"
    )

    move.all()

    assert move.target.run("cat", "/etc/vservers/web1/apps/pkgmgmt/base/status").stdout == "installed\n"
    assert move.source.run("ls", "/vservers/.pkg").stdout == ""


def test_attributes_limits_and_links_to_the_pool(move: Move, web: Guest) -> None:
    """Unified and immutable files are so again, the disk limit is counted on the target, `run` is a link again."""
    web.host.run("vserver", "web1", "hashify")
    web.host.run("sh", "-c", "touch /vservers/web1/data/fixed && setattr --immutable /vservers/web1/data/fixed")
    web.host.run("sh", "-c", f"mkdir -p {web.config}/apps/vunify/refserver.0")
    web.write("dlimits/0/directory", "/vservers\n")
    web.write("dlimits/0/space_total", "900000\n")
    move.leaving.start("web1")
    assert move.vet() == ()

    move.all()

    shown = move.target.run("showattr", "/vservers/web1/usr/bin/ls", "/vservers/web1/data/fixed").stdout
    assert shown == "----bUIcx /vservers/web1/usr/bin/ls\n----buIcx /vservers/web1/data/fixed\n"
    used = move.target.run("vdlimit", "--xid", "100", "/vservers").stdout
    assert int(used.split("space_used=")[1].split()[0]) > 4000
    assert "space_total=900000" in used
    assert move.target.run("readlink", "/etc/vservers/web1/run").stdout == "/var/run/vservers/web1\n"


def test_mounts_made_by_hand(move: Move, web: Guest) -> None:
    """They stand against the move until somebody says whether they are made again."""
    write(move.source, "/srv/inside", "here\n")
    write(move.target, "/srv/inside", "there\n")
    move.leaving.start("web1")
    web.host.run("vnamespace", "--enter", "100", "mount", "-n", "--bind", "/srv", "/vservers/web1/mnt")
    evidence = move.against()["live-mount"]
    move.names = {"mount:/mnt": "replay"}
    assert move.vet() == ()

    move.all()

    assert evidence == "/srv was mounted at /mnt by hand and is in no fstab"
    assert Guest(move.target, "web1")("exec", "cat", "/mnt/inside").stdout == "there\n"


def test_what_is_written_down_before_the_last_pass(move: Move, web: Guest) -> None:
    """Boot mark, ports, host rules: all in the tree that moves with it."""
    move.source.run("iptables", "-A", "OUTPUT", "-s", "10.9.9.9", "-j", "DROP")
    move.source.run(
        "iptables", "-A", "OUTPUT", "-s", move.leaving.inspect("web1").addresses[0].split("/")[0], "-j", "DROP"
    )
    move.leaving.start("web1")
    move.leaving.fence("web1")
    move.leaving.stop("web1")
    move.leaving.note("web1")

    noted = carried(move.source)

    assert noted["mark"] == "default"
    assert [rule["words"][0] for rule in noted["rules"]] == ["OUTPUT"]  # type: ignore[attr-defined]


def test_removal_stops_at_mounts(here: Acts, web: Guest) -> None:
    """Nothing that is mounted below the root is removed; the configuration is fenced all the same."""
    web.host.run(
        "sh", "-c", "mkdir -p /srv/precious; touch /srv/precious/x; mount --bind /srv/precious /vservers/web1/mnt"
    )

    fault = here.fault("destroy", "web1")
    kept = web.host.run("ls", "/srv/precious", "/vservers/web1/etc/passwd").stdout
    web.host.run("umount", "/vservers/web1/mnt")
    here.destroy("web1")

    assert fault.code is FaultCode.CONFLICT
    assert "/vservers/web1/mnt is mounted below /vservers/web1" in fault.message
    assert "x" in kept
    assert web.host.run("ls", "/vservers", "/srv/precious").stdout.split() == ["/srv/precious:", "x", "/vservers:"]
