"""Every failure that is known from moving guests by hand, and the reaction to it that an operator can rely on.

Rule: ROWS holds the known failures by number; each names the tests that show its reaction, and a test sees that all of
them are there.
"""

import ast
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrator.wire.faults import FaultCode
from scenarios.lab.acts import Acts
from scenarios.lab.hosts import Host
from scenarios.lab.vserver.guests import Guest, addresses, build, switch, write
from scenarios.lab.vserver.move import Move

pytestmark = pytest.mark.lab
TESTS = Path(__file__).resolve().parents[1]
STUBBORN = """#!/bin/sh
# A service that no polite signal ends.
case $1 in start) (trap '' TERM HUP INT; while :; do sleep 0.1; done) < /dev/null > /dev/null 2>&1 & ;; esac
"""

ROWS: dict[int, tuple[str, tuple[str, ...]]] = {
    1: ("stop killed the guest", ("test_an_unclean_stop_is_reported", "test_an_unclean_stop_may_end_the_move")),
    2: ("stop blocks", ("test_a_stop_that_blocks",)),
    3: ("stop returns and it still runs", ("test_a_stop_that_did_not",)),
    4: ("stop of a stopped guest takes addresses", ("test_a_stopped_guest_is_not_stopped_again",)),
    5: ("secondaries go with the primary", ("test_neighbours_keep_their_addresses",)),
    6: ("an address remains", ("test_no_address_stays_behind",)),
    7: ("context id taken", ("test_what_the_target_has_against_it", "test_an_id_of_the_targets_choice")),
    8: ("network context id taken", ("test_a_network_context_that_is_in_use",)),
    9: ("name taken", ("test_what_the_target_has_against_it",)),
    10: ("device missing", ("test_a_device_that_goes", "test_each_clash_is_found_before_anything_stops")),
    11: ("address held elsewhere", ("test_an_address_that_another_station_holds",)),
    12: ("stale neighbours", ("test_neighbours_learn_where_it_is",)),
    13: ("mount source missing", ("test_a_mount_source_that_goes", "test_each_clash_is_found_before_anything_stops")),
    14: ("file system type missing", ("test_each_clash_is_found_before_anything_stops",)),
    15: ("unknown word", ("test_each_clash_is_found_before_anything_stops", "test_what_the_target_has_against_it")),
    16: ("older kernel", ("test_a_poorer_kernel_is_told",)),
    17: ("no VServer kernel", ("test_what_the_target_has_against_it",)),
    18: ("boot script has not run", ("test_what_the_target_has_against_it",)),
    19: ("vprocunhide has not run", ("test_guests_that_see_nothing_of_proc",)),
    20: ("init fails", ("test_a_start_that_fails_is_undone",)),
    21: ("start without processes", ("test_a_start_that_fails_is_undone",)),
    22: ("disk limit below use", ("test_a_disk_limit_below_what_is_used",)),
    23: (
        "tags differ",
        ("test_limits_where_nothing_is_tagged", "test_a_tagging_target_gets_tags_barrier_and_attributes"),
    ),
    24: ("unified files", ("test_unified_files_are_not_made_immutable_where_no_write_breaks_the_link",)),
    25: ("target too small", ("test_too_little_room",)),
    26: ("run link copied as a file", ("test_a_run_link_copied_as_a_file_becomes_a_link_again",)),
    27: ("path too long", ("test_a_path_beyond_what_the_kernel_keeps_is_a_problem",)),
    28: ("lock held", ("test_a_lock_that_somebody_holds",)),
    29: ("guest reboots itself", ("test_a_reboot_during_the_move",)),
    30: ("source reboots afterwards", ("test_the_copy_that_stays_cannot_start",)),
    31: ("connection lost", ("test_every_combination_has_an_answer", "test_every_act_may_be_repeated")),
    32: ("both say running", ("test_every_combination_has_an_answer",)),
    33: ("another machine's programs", ("test_programs_of_another_machine",)),
    34: ("port taken", ("test_a_port_that_is_taken",)),
    35: ("host scripts", ("test_host_scripts_are_pointed_out",)),
    36: ("legacy guest", ("test_each_clash_is_found_before_anything_stops", "test_a_legacy_guest_is_left_alone")),
    37: ("removal crosses mounts", ("test_removal_stops_at_mounts",)),
    38: ("translated output", ("test_a_translated_host",)),
}


def test_every_known_failure_has_a_test() -> None:
    """None of the 38 is without one, and none names a test that is not there."""
    there = {
        node.name
        for path in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }

    assert sorted(ROWS) == list(range(1, 39))
    assert {name for _, names in ROWS.values() for name in names} - there == set()
    assert all(names for _, names in ROWS.values())


# --- stop ---------------------------------------------------------------------------------------------


def stubborn(guest: Guest, timeout_s: int = 0) -> None:
    """It runs, and stop has to kill it."""
    guest.write("apps/vshelper/sync-timeout", f"{timeout_s}\n")
    write(guest.host, f"{guest.root}/etc/service", STUBBORN)
    guest.start()


def settings(host: Host, text: str) -> None:
    """What the host's operator has set for the engine."""
    write(host, "/etc/migrator/vserver.toml", text)


def test_an_unclean_stop_is_reported(move: Move, web: Guest) -> None:
    """A guest that had to be killed moves all the same, and the operator is told."""
    settings(move.source, "sync_timeout_s = 0\n")
    stubborn(web)
    move.prepare()
    move.stop()

    assert any("was killed" in text for text in move.leaving.remarks("web1"))
    assert move.leaving.look("web1") == "stopped"


def test_an_unclean_stop_may_end_the_move(move: Move, web: Guest) -> None:
    """Where policy says so, the move ends there, and the guest is back as it was."""
    settings(move.source, 'sync_timeout_s = 0\nunclean_stop = "abort"\n')
    stubborn(web)
    move.prepare()

    fault = move.leaving.fault("stop", "web1")
    move.undo()

    assert "was killed" in fault.message
    assert web.running
    assert move.arriving.look("web1") == "absent"


def test_a_stop_that_blocks(move: Move, web: Guest) -> None:
    """Our own limit ends the waiting; who does not end is named; it runs on here, nothing has moved."""
    settings(move.source, "sync_timeout_s = 0\nstop_margin_s = 1.0\nkill_limit_s = 0.5\n")
    stubborn(web)
    switch(move.source, "uninterruptible", "web1")
    move.prepare()

    fault = move.leaving.fault("stop", "web1")
    move.undo()

    assert (fault.code, fault.step) == (FaultCode.TOOL_FAILED, "stop")
    assert "does not end, even by SIGKILL; nothing has moved" in fault.message
    assert web.running


def test_a_stop_that_did_not(move: Move, web: Guest, ip: str) -> None:
    """Status 0 is not believed: what still runs is killed, and only then is it stopped."""
    web.start()
    switch(move.source, "still-running", "web1")

    move.prepare()
    move.stop()

    assert not web.running
    assert ip not in addresses(move.source)["br0"]


def test_a_stopped_guest_is_not_stopped_again(here: Acts, web: Guest, ip: str) -> None:
    """Its address may be somebody else's by now: it stays."""
    web.host.run("ip", "address", "add", f"{ip}", "dev", "br0")

    here.stop("web1")

    assert ip in addresses(web.host)["br0"]


def test_neighbours_keep_their_addresses(here: Acts, web: Guest, ip: str) -> None:
    """The kernel takes a subnet's other addresses with the first one; afterwards they are there."""
    first = build(web.host, "first", 101, "br0:10.9.0.5/24")
    build(web.host, "second", 102, "br0:10.9.0.6/24")
    for name in ("first", "second"):
        here.start(name)

    here.stop("first")

    assert "10.9.0.6/24" in addresses(web.host)["br0"]
    assert "10.9.0.5/24" not in addresses(web.host)["br0"]
    assert not first.running


def test_no_address_stays_behind(move: Move, web: Guest, ip: str) -> None:
    """A prefix changed under way makes the tools leave it; it is off before the target may start."""
    web.start()
    move.prepare()
    web.write("interfaces/0/prefix", "29\n")
    move.stop()

    assert [each for each in addresses(move.source)["br0"] if each.startswith(ip.split("/", maxsplit=1)[0])] == []


# --- what the target says -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        ("vserver other build -m template --context 100 -- -t /vservers/.templates/small.tar", "context-id"),
        ("vserver web1 build -m template --context 140 -- -t /vservers/.templates/small.tar", "ve-exists"),
        ("ip address add $IP dev br0", "address-taken"),
        ("echo off > /etc/vserver-emulation/vserver-kernel", "kernel"),
        ("rm -rf /run/vservers", "runtime-directory"),
    ],
)
def test_what_the_target_has_against_it(move: Move, ip: str, spoil: str, name: str) -> None:
    """Found before anything stops, with evidence and what to do."""
    move.target.run("sh", "-c", f"mkdir -p /etc/vserver-emulation; IP={ip}; {spoil}")

    found = {each.name: each for each in move.vet()}

    assert name in found
    assert found[name].evidence
    assert found[name].remedy
    assert not found[name].waivable


def test_a_network_context_that_is_in_use(move: Move, web: Guest) -> None:
    """The silent clash: seen beforehand, and if it comes later, the start is refused."""
    web.start()
    assert move.vet() == ()
    move.prepare()
    move.stop()
    move.arriving.arrange("web1")
    other = build(move.target, "other", 101, "br0:10.9.0.7/24")
    other.write("ncontext", "100\n")
    other.start()

    against = move.against()
    fault = move.arriving.fault("start", "web1")
    move.undo()

    assert "network-context-id" in against
    assert "network context 100 is in use here" in fault.message
    assert web.running


def test_guests_that_see_nothing_of_proc(move: Move) -> None:
    """Without vprocunhide no guest starts there; entries that only the source shows are pointed out."""
    write(move.source, "/etc/vservers/.defaults/apps/vprocunhide/files", "/proc/uptime\n/proc/own\n")
    move.target.run("sh", "-c", "rm -rf /run/vserver-emulation; util-vserver start")

    found = {each.name: each for each in move.vet()}

    assert found["vprocunhide"].remedy == "/etc/init.d/vprocunhide start"
    assert not found["vprocunhide"].waivable
    assert "/proc/own" in found["proc-entries"].evidence


def test_a_poorer_kernel_is_told(move: Move) -> None:
    """What its kernel at home gives and the other one lacks is named; the operator may go on."""
    switch(move.target, "cow", "off")

    [found] = [each for each in move.vet() if each.name == "kernel-features"]

    assert "breaking of links when a unified file is written" in found.evidence
    assert found.waivable


def test_a_disk_limit_below_what_is_used(move: Move, web: Guest) -> None:
    """`start` would end with 1; said before anything stops."""
    web.write("dlimits/0/directory", "/vservers\n")
    web.write("dlimits/0/space_total", "100\n")

    assert "is below" in move.against()["disk-limit"]


def test_limits_where_nothing_is_tagged(move: Move, web: Guest) -> None:
    """A limit cannot be kept there: the operator may waive it, and the move says that it is gone."""
    web.write("dlimits/0/directory", "/vservers\n")
    web.write("dlimits/0/space_total", "900000\n")
    switch(move.target, "tagging", "off")
    move.leaving.start("web1")

    [found] = [each for each in move.vet() if each.name == "tagging"]
    move.all()

    assert found.waivable
    assert any("disk limits are dropped" in text for text in move.arriving.remarks("web1"))
    assert Guest(move.target, "web1").running


def test_too_little_room(move: Move, web: Guest) -> None:
    """Counted as it will be there, without holes and without what the pool lends."""
    web.host.run("dd", "if=/dev/zero", f"of={web.root}/data/whole", "bs=1M", "count=64")
    with small_roots(move.target, "32m"):
        against = move.against()

    assert "MiB are needed" in against["disk"]


@contextlib.contextmanager
def small_roots(host: Host, size: str) -> Iterator[None]:
    """A small file system where the guests' roots are."""
    host.run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", "/vservers")
    try:
        yield
    finally:
        host.run("umount", "/vservers")


def test_programs_of_another_machine(move: Move, web: Guest) -> None:
    """Said before anything stops, not by a shell that cannot start."""
    machine = "printf '\\267\\000' | dd of=$0 bs=1 seek=18 conv=notrunc 2> /dev/null"
    real = web.host.run("sh", "-c", f"readlink -f {web.root}/bin/sh || true").stdout.strip()
    shells = web.host.run("sh", "-c", f"ls {web.root}/bin/* {web.root}/usr/bin/* {web.root}/sbin/* || true").stdout
    for path in {real, *shells.split()}:
        if path.startswith(web.root):
            web.host.run("sh", "-c", machine, path)

    assert "ELF machine 183" in move.against()["machine"]


# --- start --------------------------------------------------------------------------------------------


def failing_start(move: Move) -> str:
    """Everything up to the start, which fails; what is said. Then undone."""
    fault = move.arriving.fault("start", "web1")
    ran_there = Guest(move.target, "web1").running
    move.undo()
    assert not ran_there
    return fault.message


def arrived(move: Move) -> None:
    """All of it is on the target, not started."""
    move.leaving.start("web1")
    move.prepare()
    move.stop()
    move.arriving.arrange("web1")


@pytest.mark.parametrize(
    "service",
    ["#!/bin/sh\nsleep 100 < /dev/null > /dev/null 2>&1 &\nexit 3\n", "#!/bin/sh\n"],
    ids=["init-fails", "nothing-runs"],
)
def test_a_start_that_fails_is_undone(move: Move, web: Guest, ip: str, service: str) -> None:
    """Stopped there, addresses off, and it runs here again."""
    arrived(move)
    write(move.target, "/vservers/web1/etc/init.d/rc", service)

    failing_start(move)

    assert web.running
    assert ip in addresses(move.source)["br0"]
    assert ip not in addresses(move.target)["br0"]
    assert move.arriving.look("web1") == "absent"


def test_a_device_that_goes(move: Move, web: Guest) -> None:
    """`start` ends with 0 without it; it is looked at, and the guest goes home."""
    move.target.run("ip", "link", "add", "lan", "type", "bridge")
    move.names = {"interface:br0": "lan"}
    arrived(move)
    move.target.run("ip", "link", "delete", "lan")

    said = failing_start(move)

    assert "lan" in said
    assert web.running


def test_a_mount_source_that_goes(move: Move, web: Guest) -> None:
    """`start` ends with 0 without the mount; it is looked at, and the guest goes home."""
    for host in (move.source, move.target):
        write(host, "/srv/www/index", "shared\n")
    web.write("fstab", "/srv/www /srv none bind 0 0\n")
    arrived(move)
    move.target.run("rm", "-r", "/srv/www")

    assert "/srv/www is not mounted at /srv" in failing_start(move)
    assert web.running


def test_an_address_that_another_station_holds(move: Move, web: Guest, ip: str) -> None:
    """Asked on the network before it is put on: the start does not even begin."""
    move.leaving.start("web1")
    move.prepare()
    move.stop()
    move.source.run("ip", "address", "add", ip, "dev", "br0")

    fault = move.arriving.fault("arrange", "web1")
    move.source.run("ip", "address", "delete", ip, "dev", "br0")
    move.undo()

    assert fault.code is FaultCode.CONFLICT
    assert "is held by another station on br0" in fault.message
    assert web.running


def test_neighbours_learn_where_it_is(move: Move, web: Guest, ip: str) -> None:
    """Who had talked to it at home reaches it at once at the other host: the old entry is overwritten."""
    address = ip.split("/", maxsplit=1)[0]
    move.leaving.start("web1")
    move.prepare()
    move.stop()
    move.arriving.arrange("web1")
    move.arriving.start("web1")
    own = move.source.run("cat", "/sys/class/net/br0/address").stdout.strip()
    there = move.target.run("cat", "/sys/class/net/br0/address").stdout.strip()
    move.source.run("ip", "neigh", "replace", address, "lladdr", own, "nud", "stale", "dev", "br0")

    move.arriving.announce("web1")
    known = move.source.run("ip", "neigh", "show", address, "dev", "br0").stdout

    assert there in known


def test_a_port_that_is_taken(move: Move, web: Guest) -> None:
    """A program of the target's own that listens everywhere is named before anything stops."""
    listen = "import socket,time; s=socket.create_server(('%s', 8080)); print('up', flush=True); time.sleep(600)"
    address = move.leaving.inspect("web1").addresses[0].split("/")[0]
    move.leaving.start("web1")
    guest = ["vcontext", "--migrate", "--xid", "100", "--", "python3", "-c", listen % address]
    with (
        move.source.popen(*guest) as served,
        move.target.popen("python3", "-c", listen % "0.0.0.0") as taken,
    ):
        assert served.stdout is not None
        assert taken.stdout is not None
        served.stdout.readline()
        taken.stdout.readline()
        against = move.against()
        for each in (served, taken):
            each.kill()

    assert "port 8080" in against["port-taken"]


# --- the rest -----------------------------------------------------------------------------------------


def test_a_lock_that_somebody_holds(move: Move, web: Guest) -> None:
    """Who holds the start-up lock is named after seconds, not after the tools' five minutes."""
    web.start()
    holder = "import fcntl, time, os\nf = open('/var/lock/vserver.etcvserversweb1.startup', 'w')\nfcntl.lockf(f, 2)\n"
    with move.source.popen("python3", "-c", f"{holder}print(os.getpid(), flush=True)\ntime.sleep(600)") as held:
        assert held.stdout is not None
        held.stdout.readline()
        fault = move.leaving.fault("fence", "web1")
        held.kill()

    assert fault.code is FaultCode.CONFLICT
    assert "is being started by process" in fault.message
    assert web.running


def test_a_reboot_during_the_move(move: Move, web: Guest) -> None:
    """A guest that reboots itself while it is fenced does not come up again behind our back."""
    web.start()
    move.prepare()
    move.stop()
    move.source.run("/usr/lib/util-vserver/vshelper", "restart", "100", check=False)

    assert not web.running


def test_a_legacy_guest_is_left_alone(here: Acts, vserver_host: Host) -> None:
    """It is listed with a word on what it is; no act touches it."""
    write(vserver_host, "/etc/vservers/old.conf", "S_CONTEXT=5\n")

    [facts] = here.discover()
    fault = here.fault("start", "old")

    assert "is a legacy guest" in facts.notes[0]
    assert fault.code is FaultCode.BAD_REQUEST


def test_a_translated_host(vserver_host: Host, web: Guest) -> None:
    """Every tool is called under LC_ALL=C whatever the agent's own language is."""
    real = vserver_host.run("sh", "-c", "command -v vserver").stdout.strip()
    log = "/run/languages"
    vserver_host.run("sh", "-c", f"mkdir -p /opt/real; mv {real} /opt/real/vserver")
    try:
        wrapper = f'#!/bin/sh\necho "${{LC_ALL-none}}" >> {log}\nexec /opt/real/vserver "$@"\n'
        write(vserver_host, real, wrapper)
        vserver_host.run("chmod", "755", real)
        with Acts(vserver_host, "vserver") as acts:
            acts.start("web1")
            acts.stop("web1")
        seen = set(vserver_host.run("cat", log).stdout.split())
    finally:
        vserver_host.run("sh", "-c", f"mv /opt/real/vserver {real}; rmdir /opt/real")
        vserver_host.run("rm", "-f", log)

    assert seen == {"C"}
