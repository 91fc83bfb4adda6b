"""The emulated util-vserver does what the real one is known to do: each fact and quirk, and that it can be switched off.

The facts are of util-vserver 0.30.216 under the quoted texts of its scripts; what is the kernel's own (the loss of
secondary addresses) is the running kernel's here as well.
"""

import re
import time

import pytest

from scenarios.lab.hosts import Host
from scenarios.lab.vserver import guests, template
from scenarios.lab.vserver.guests import Guest, addresses, build, switch, write

pytestmark = pytest.mark.lab
ADDRESS = "br0:10.9.0.5/24"
STUBBORN = """#!/bin/sh
case $1 in
start) (trap '' TERM INT; while :; do sleep 1; done) < /dev/null > /dev/null 2>&1 & ;;
stop) ;;
esac
"""
"""A service that no polite signal ends."""


@pytest.fixture
def host(vserver_host: Host) -> Host:
    """A VServer host without guests."""
    return vserver_host


@pytest.fixture
def web(host: Host) -> Guest:
    """A guest that is stopped, with an address on br0."""
    return build(host, "web1", 100, ADDRESS)


def on_br0(host: Host) -> list[str]:
    """Addresses of br0 beside the host's own."""
    return [each for each in addresses(host)["br0"] if each.startswith("10.9.")]


# --- states and exit statuses -------------------------------------------------------------------------


def test_running_and_stopped(web: Guest) -> None:
    """`status` and `running` tell a running guest from a stopped one by text and status; `start` and `stop` end with 0."""
    stopped = web("status")
    started = web("start")
    running, quiet = web("status"), web("running")

    assert (stopped.returncode, stopped.stdout) == (3, "Vserver 'web1' is stopped\n")
    assert started.returncode == 0
    assert (quiet.returncode, quiet.stdout) == (0, "")
    assert running.returncode == 0
    assert re.fullmatch(
        r"Vserver 'web1' is running at context '100'\nNumber of processes:  \d+\nUptime:               00:00\n",
        running.stdout,
    )
    assert web("stop").returncode == 0
    assert web("running").returncode == 1


def test_silent_status_says_nothing(host: Host, web: Guest) -> None:
    """With --silent only the exit status is left."""
    done = host.run("vserver", "--silent", "web1", "status", check=False)

    assert (done.returncode, done.stdout) == (3, "")


def test_twice_is_as_good_as_once(web: Guest) -> None:
    """A second start and a second stop end with 0 and say why they did nothing."""
    web.start()
    again = web("start")
    web("stop")
    stopped = web("stop")

    assert (again.returncode, again.stderr) == (0, "vserver 'web1' already running\n")
    assert stopped.returncode == 0
    assert "vserver 'web1' is not running\n" in stopped.stderr


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (("nobody", "start"), 5, "Can not find a vserver-setup at '/etc/vservers/nobody/'."),
        (("100", "status"), 5, "Can not find a vserver-setup"),
        (("web1", "frobnicate"), 2, "Usage: "),
        (("--frobnicate", "web1", "start"), 1, "unrecognized option"),
        (("web1", "exec", "true"), 1, "supported for running vservers only"),
        (("web1", "delete"), 2, ""),
    ],
)
def test_refusals(host: Host, web: Guest, words: tuple[str, ...], status: int, text: str) -> None:
    """What cannot be done ends with the documented status and text; a context id is no name."""
    done = host.run("vserver", *words, check=False)

    assert done.returncode == status
    assert text in done.stderr


def test_exec_is_in_the_guest(web: Guest) -> None:
    """A program runs with the guest's root, name and capabilities, its words unchanged and its status handed on."""
    web.start()

    assert web("exec", "cat", "/proc/sys/kernel/hostname").stdout == "web1\n"
    assert web("exec", "sh", "-c", "exit 7").returncode == 7
    assert web("exec", "sh", "-c", "ls /etc/vservers").returncode != 0
    bounding = int(web("exec", "sed", "-n", "s/^CapBnd:.//p", "/proc/self/status").stdout, 16)
    assert not bounding & (1 << 27 | 1 << 21 | 1 << 12)  # MKNOD, SYS_ADMIN, NET_ADMIN
    assert bounding & 1 << 10  # NET_BIND_SERVICE


def test_delete_removes_root_and_configuration(host: Host, web: Guest) -> None:
    """With --silent nobody is asked; without the package directory it fails."""
    host.run("mv", "/vservers/.pkg", "/vservers/.gone")
    failed = host.run("vserver", "--silent", "web1", "delete", check=False)
    host.run("mv", "/vservers/.gone", "/vservers/.pkg")

    assert failed.returncode == 1
    assert "pkgcfgbase-dir '/vservers/.pkg' does not exist" in failed.stderr
    assert host.run("vserver", "--silent", "web1", "delete").returncode == 0
    assert host.run("ls", "/vservers", "/etc/vservers").stdout.split() == ["/etc/vservers:", "/vservers:"]


# --- start --------------------------------------------------------------------------------------------


def test_a_started_guest_has_address_mounts_and_names(host: Host, web: Guest) -> None:
    """Address on the host's device, fstab mounts in its own namespace only, its context known to all tools."""
    web.start()

    inside = host.run("vnamespace", "--enter", "100", "cat", "/proc/self/mounts").stdout
    assert on_br0(host) == ["10.9.0.5/24"]
    assert "/vservers/web1/tmp tmpfs" in inside
    assert "/vservers/web1/tmp" not in host.run("cat", "/proc/self/mounts").stdout
    assert host.run("vserver-info", "100", "ID").stdout == "/etc/vservers/web1\n"
    assert host.run("cat", "/run/vservers/web1").stdout == "100\n"
    assert "hide_netif" in host.run("vattribute", "--xid", "100", "--get").stdout
    web("stop")
    assert on_br0(host) == []


def test_context_id_taken(host: Host, web: Guest) -> None:
    """254 and the complaint, twice; addresses and mounts are gone again."""
    build(host, "other", 101)
    write(host, "/etc/vservers/other/context", "100\n")
    Guest(host, "other").start()

    done = web("start")

    assert done.returncode == 254
    assert done.stderr.count("vcontext: vc_ctx_create(): File exists") == 2
    assert "Failed to start vserver 'web1'" in done.stderr
    assert on_br0(host) == []


@pytest.mark.parametrize(("quirk", "status"), [("on", 0), ("off", 254)])
def test_network_context_taken(host: Host, web: Guest, quirk: str, status: int) -> None:
    """Silent: 0, and the guest joins the address set of another."""
    build(host, "other", 101, "br0:10.9.0.6/24").start()
    web.write("ncontext", "101\n")
    switch(host, "silent-nid-clash", quirk)

    done = web("start")

    assert done.returncode == status
    assert web.running is (status == 0)
    assert ("File exists" in done.stderr) is (status != 0)


@pytest.mark.parametrize(("quirk", "status"), [("on", 0), ("off", 1)])
def test_device_missing(host: Host, web: Guest, quirk: str, status: int) -> None:
    """0 although the device is not there: the guest runs without its address."""
    web.write("interfaces/0/dev", "nosuch0\n")
    switch(host, "start-ignores-devices", quirk)

    done = web("start")

    assert done.returncode == status
    assert 'Cannot find device "nosuch0"' in done.stderr
    assert web.running is (status == 0)


def test_address_taken_on_the_host(host: Host, web: Guest) -> None:
    """0 although the address was there already; the later stop takes it away all the same."""
    host.run("ip", "address", "add", "10.9.0.5/24", "dev", "br0")

    done = web("start")
    web("stop")

    assert done.returncode == 0
    assert re.search("File exists|already assigned", done.stderr)
    assert on_br0(host) == []


@pytest.mark.parametrize(("quirk", "status"), [("on", 0), ("off", 1)])
def test_mount_source_missing(host: Host, web: Guest, quirk: str, status: int) -> None:
    """0 although an fstab entry could not be mounted."""
    web.write("fstab", "/data/none /srv none bind 0 0\n")
    switch(host, "start-ignores-mounts", quirk)

    done = web("start")

    assert done.returncode == status
    assert "failed to mount fstab-entry" in done.stderr
    assert web.running is (status == 0)


def test_bad_fstab_line(host: Host, web: Guest) -> None:
    """1, and nothing is left."""
    web.write("fstab", "/data\n")

    done = web("start")

    assert done.returncode == 1
    assert "syntax error" in done.stderr
    assert (web.running, on_br0(host)) == (False, [])


@pytest.mark.parametrize(("quirk", "stays"), [("on", True), ("off", False)])
def test_failing_init(host: Host, web: Guest, quirk: str, stays: bool) -> None:
    """1 and addresses gone, but what init had started goes on in the context."""
    write(host, "/vservers/web1/etc/init.d/rc", "#!/bin/sh\nsleep 100 < /dev/null > /dev/null 2>&1 &\nexit 3\n")
    switch(host, "failed-init-stays", quirk)

    done = web("start")

    assert done.returncode == 1
    assert "Failed to start vserver 'web1'" in done.stderr
    assert on_br0(host) == []
    assert web.running is stays


def test_init_that_starts_nothing(host: Host, web: Guest) -> None:
    """1, with the advice to call stop; nothing runs, and vserver-stat has no row."""
    write(host, "/vservers/web1/etc/service", "#!/bin/sh\n")

    done = web("start")

    assert done.returncode == 1
    assert "vshelper.init: can not determine xid of vserver 'web1'; returned value was ''" in done.stderr
    assert web.running is False
    assert host.run("vserver-stat").stdout.count("\n") == 1


def test_runtime_directory_missing(host: Host, web: Guest) -> None:
    """255 when the directory behind the run link was not made at boot; nothing runs."""
    host.run("rm", "-rf", "/run/vservers")

    done = web("start")

    assert done.returncode == 255
    assert "save_ctxinfo: open(/var/run/vservers/web1)" in done.stderr
    assert web.running is False


def test_host_not_prepared(host: Host, web: Guest) -> None:
    """Without the boot scripts start ends early with 1: no vshelper, and then no /proc."""
    host.run("rm", "-rf", "/run/vserver-emulation")
    no_helper = web("start")
    host.run("util-vserver", "start")
    no_proc = web("start")

    assert (no_helper.returncode, no_proc.returncode) == (1, 1)
    assert "while verifying vshelper functionality" in no_helper.stderr
    assert "/proc/uptime can not be accessed" in no_proc.stderr
    assert host.run("vserver-info", "-", "VERIFYPROC", check=False).returncode == 1


def test_dynamic_contexts(host: Host, web: Guest) -> None:
    """Without a context id only an old kernel starts the guest, with an id of its own choice."""
    host.run("rm", "/etc/vservers/web1/context")
    refused = web("start")
    switch(host, "dynamic-contexts", "on")
    web.start()

    assert refused.returncode == 1
    assert "does not have dynamic contexts enabled" in refused.stderr
    assert host.run("vserver-info", "49152", "XIDTYPE").stdout == "dynamic\n"


@pytest.mark.parametrize(
    ("file", "word", "text"),
    [("bcapabilities", "NEW", "Unknown bcap"), ("ccapabilities", "X", "Unknown ccap"), ("cflags", "Y", "Unknown flag")],
)
def test_unknown_words(host: Host, web: Guest, file: str, word: str, text: str) -> None:
    """A capability or flag these tools do not know: 1, and the addresses are gone again."""
    web.write(file, f"{word}\n")

    done = web("start")

    assert done.returncode == 1
    assert text in done.stderr
    assert on_br0(host) == []


def test_vlan_without_vlans(web: Guest) -> None:
    """A VLAN is asked for and the kernel's module is not loaded: 1, nothing left."""
    web.write("interfaces/0/vlandev", "")

    done = web("start")

    assert done.returncode == 1
    assert "VLAN device-name used, but vlan subsystem not enabled" in done.stderr


def test_missing_final_newline(web: Guest) -> None:
    """A warning, no more."""
    web.write("apps/init/style", "sysv")

    done = web("start")

    assert done.returncode == 0
    assert "does not end on newline" in done.stderr


def test_second_start_waits_for_the_first(host: Host, web: Guest) -> None:
    """The start-up lock is waited for, then the guest is found running; with a stuck holder start goes on after 300 s."""
    with web.host.popen("sh", "-c", "vserver web1 start & vserver web1 start; wait") as both:
        _, errors = both.communicate(timeout=30)
    assert errors.count("already running") == 1
    web("stop")
    switch(host, "lock-wait-s", "0.3")
    holder = "import fcntl, time\nf = open('/var/lock/vserver.etcvserversweb1.startup', 'w')\nfcntl.lockf(f, 2)\n"
    with host.popen("python3", "-c", f"{holder}print('held', flush=True)\ntime.sleep(60)") as held:
        assert held.stdout is not None
        held.stdout.readline()

        began = time.monotonic()
        done = web("start")

        assert done.returncode == 0
        assert time.monotonic() - began > 0.3
        held.terminate()


def test_legacy_guests(host: Host) -> None:
    """A guest of the old kind is announced as such."""
    write(host, "/etc/vservers/old.conf", "S_CONTEXT=5\n")

    done = host.run("vserver", "old", "start", check=False)

    assert "WARNING: can not find configuration, assuming legacy method" in done.stderr


# --- stop ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quirk", ["on", "off"])
def test_stop_of_a_stopped_guest_takes_addresses(host: Host, web: Guest, quirk: str) -> None:
    """The address may be a running service's elsewhere on this host; it goes, and the status is 0."""
    host.run("ip", "address", "add", "10.9.0.5/24", "brd", "+", "dev", "br0")
    switch(host, "stop-removes-addresses", quirk)

    done = web("stop")

    assert done.returncode == 0
    assert on_br0(host) == ([] if quirk == "on" else ["10.9.0.5/24"])


@pytest.mark.parametrize("style", ["sysv", "plain"])
def test_stop_that_has_to_kill(host: Host, web: Guest, style: str) -> None:
    """After the sync timeout the process list is printed, everything is killed, and the status is 0."""
    web.write("apps/init/style", f"{style}\n")
    web.write("apps/vshelper/sync-timeout", "1\n")
    write(host, "/vservers/web1/etc/service", STUBBORN)
    web.start()

    done = web("stop")

    assert done.returncode == 0
    assert "A timeout occured while waiting for the vserver to finish" in done.stderr
    assert "100 web1" in done.stderr
    assert web.running is False


def test_stop_that_blocks(host: Host, web: Guest) -> None:
    """A process no signal reaches makes stop wait for ever; the guest runs on."""
    web.write("apps/vshelper/sync-timeout", "0\n")
    write(host, "/vservers/web1/etc/service", STUBBORN)
    web.start()
    switch(host, "uninterruptible", "web1")

    with host.popen("vserver", "web1", "stop") as stopping:
        assert stopping.stderr is not None
        while "100 web1" not in stopping.stderr.readline():
            pass
        blocked = stopping.poll() is None
        stopping.terminate()

    assert blocked
    assert web.running


@pytest.mark.parametrize(("quirk", "status"), [("on", 0), ("off", 1)])
def test_stop_that_did_not(host: Host, web: Guest, quirk: str, status: int) -> None:
    """0 although the guest still runs."""
    web.start()
    switch(host, "still-running", "web1")
    switch(host, "stop-always-0", quirk)

    done = web("stop")

    assert done.returncode == status
    assert "still running unexpectedly" in done.stderr
    assert web.running


@pytest.mark.parametrize("promote", ["0", "1"])
def test_secondary_addresses_go_with_their_primary(host: Host, web: Guest, promote: str) -> None:
    """The kernel's own: unless it promotes, a neighbour's address in the same subnet goes with this guest's."""
    web.start()
    build(host, "db", 101, "br0:10.9.0.6/24").start()
    host.run("sysctl", "-q", "-w", f"net.ipv4.conf.br0.promote_secondaries={promote}")

    web("stop")

    assert on_br0(host) == ([] if promote == "0" else ["10.9.0.6/24"])


def test_another_prefix_keeps_the_address(host: Host, web: Guest) -> None:
    """A prefix changed under way: deleting fails and the address stays on the host."""
    web.start()
    web.write("interfaces/0/prefix", "25\n")

    assert web("stop").returncode == 0
    assert on_br0(host) == ["10.9.0.5/24"]


def test_links_stay_up(host: Host, web: Guest) -> None:
    """Stop takes no link down."""
    host.run("ip", "link", "add", "own0", "type", "bridge")
    web.write("interfaces/0/dev", "own0\n")
    web.start()
    web("stop")

    assert ",UP" in host.run("ip", "link", "show", "own0").stdout


# --- what tells of it ---------------------------------------------------------------------------------


def test_stale_run_file_goes_by_the_question(host: Host, web: Guest) -> None:
    """A run file of a context that is not this guest's is deleted by asking whether the guest runs."""
    write(host, "/run/vservers/web1", "777\n")

    assert web.running is False
    assert host.run("test", "-e", "/run/vservers/web1", check=False).returncode == 1


@pytest.mark.parametrize(("quirk", "running"), [("on", False), ("off", True)])
def test_long_configuration_path(host: Host, quirk: str, running: bool) -> None:
    """The kernel keeps 64 characters of the path, so the guest behind a longer one always counts as stopped."""
    switch(host, "name-limit", quirk)
    guest = build(host, "x" * 55, 102)

    guest("start")

    assert guest.running is running


@pytest.mark.parametrize(("quirk", "name"), [("on", "a-name-longer-than-t"), ("off", "a-name-longer-than-twenty")])
def test_stat_cuts_names(host: Host, quirk: str, name: str) -> None:
    """Rows by id in fixed columns; names of at most 20 characters."""
    switch(host, "stat-cuts-names", quirk)
    build(host, "a-name-longer-than-twenty", 103).start()

    head, row = host.run("vserver-stat").stdout.splitlines()

    assert head == "CTX   PROC    VSZ    RSS  userTIME   sysTIME    UPTIME NAME"
    assert (row[:5].strip(), row[55:]) == ("103", name)
    assert int(row[5:10]) > 0
    assert re.fullmatch(r" *\d+m\d\ds\d\d", row[44:54])


def test_marked_guests_start_at_boot(host: Host) -> None:
    """Guests marked `default` come up, what they depend on first; ignored names and disabled ones do not."""
    for xid, name in enumerate(("front", "back", "off", "gone.~migrated~", "plain"), start=110):
        guest = build(host, name, xid)
        guest.write("scripts/pre-start", f"echo {name} >> /run/order\n")
        if name != "plain":
            guest.write("apps/init/mark", "default\n")
    write(host, "/etc/vservers/front/apps/init/depends", "back\n")
    write(host, "/etc/vservers/off/disabled", "")
    host.run("rm", "-f", "/run/order")

    host.run("/etc/rc2.d/S20vserver", "start")

    assert host.run("cat", "/run/order").stdout.split() == ["back", "front"]


def test_sysinfo_of_another_kernel(host: Host) -> None:
    """`???` where a VServer kernel would answer, and every other program says that it cannot."""
    report = host.run("vserver-info", "-", "SYSINFO").stdout
    switch(host, "vserver-kernel", "off")
    foreign = host.run("vserver-info", "-", "SYSINFO").stdout
    refused = host.run("vattribute", "--xid", "2", "--get", check=False)

    assert "                   VS-API: 0x00020308\n" in report
    assert "          vserver-Rootdir: /vservers" in report
    assert "                   VS-API: ???\n" in foreign
    assert (refused.returncode, refused.stderr) == (255, "vattribute: Function not implemented\n")


def test_vps_names_the_context(host: Host, web: Guest) -> None:
    """A column of 20 after the pid; of the host MAIN, of a guest its id and name."""
    web.start()

    lines = host.run("vps", "ax").stdout.splitlines()

    assert any(re.match(r" *\d+  100 web1 ", line) for line in lines)
    assert any(re.match(r" *\d+    0 MAIN ", line) for line in lines)


def test_guest_that_reboots_itself(host: Host, web: Guest) -> None:
    """The kernel calls vshelper, which starts the guest again, unless `apps/vshelper/disabled` is there."""
    web.start()
    before = host.run("vserver-info", "100", "INITPID").stdout
    host.run("/usr/lib/util-vserver/vshelper", "restart", "100")
    again = host.run("vserver-info", "100", "INITPID").stdout
    web.write("apps/vshelper/disabled", "")
    host.run("/usr/lib/util-vserver/vshelper", "restart", "100")

    assert before != again
    assert host.run("vserver-info", "100", "INITPID").stdout == again


# --- files --------------------------------------------------------------------------------------------


def test_tags_follow_who_made_the_file(host: Host, web: Guest) -> None:
    """What appears in a running guest has its tag, what the host makes has 0, and no copy carries a tag."""
    host.run("touch", "/vservers/web1/data/outside")
    web.start()
    web("exec", "touch", "/data/inside")
    host.run("rsync", "-aHAXS", "/vservers/web1/data/", "/vservers/copy/")

    listed = host.run(
        "lsxid", "-n", "/vservers/web1/data/inside", "/vservers/web1/data/outside", "/vservers/copy/inside"
    )

    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["100", "0", "0"]


@pytest.mark.parametrize(("quirk", "status"), [("on", 0), ("off", 1)])
def test_tagging_may_be_missing(host: Host, web: Guest, quirk: str, status: int) -> None:
    """`chxid -R` tags a tree; on a file system without tags it says `Invalid argument`."""
    switch(host, "tagging", quirk)

    done = host.run("chxid", "-c", "100", "-R", "/vservers/web1", check=False)

    assert done.returncode == status
    assert ("Invalid argument" in done.stderr) is (status == 1)


def test_attributes_are_lost_by_rsync(host: Host, web: Guest) -> None:
    """Barrier of the roots' parent, iunlink of unified files; a copy has neither."""
    host.run("vserver", "web1", "hashify")
    host.run("rsync", "-aHAXS", "/vservers/web1/usr/bin/", "/vservers/copy/")

    listed = host.run("showattr", "/vservers", "/vservers/web1/usr/bin/ls", "/vservers/copy/ls").stdout

    assert listed == ("----Buicx /vservers\n----bUIcx /vservers/web1/usr/bin/ls\n----buicx /vservers/copy/ls\n")


def test_disk_limits(host: Host, web: Guest) -> None:
    """Counted at start, kept by stop, refused when more is used than allowed."""
    web.write("dlimits/0/directory", "/vservers\n")
    web.write("dlimits/0/space_total", "100000\n")
    host.run("chxid", "-c", "100", "-R", "/vservers/web1")
    web.start()
    limit = host.run("vdlimit", "--xid", "100", "/vservers").stdout.splitlines()
    web("stop")
    kept = host.run("cat", "/var/cache/vservers/web1/dlimits/100__vservers").stdout
    web.write("dlimits/0/space_total", "10\n")
    refused = web("start")

    assert limit[0] == "100 /vservers"
    assert int(limit[1].removeprefix("space_used=")) > 1000
    assert re.fullmatch(r"space_used=\d+\ninodes_used=\d+\n", kept)
    assert refused.returncode == 1
    assert "invalid parameters: 'space_used' is larger than 'space_total'" in refused.stderr
    assert host.run("vdlimit", "--xid", "100", "/vservers", check=False).returncode == 1


# --- build --------------------------------------------------------------------------------------------


def test_build_writes_what_is_documented(host: Host) -> None:
    """Values, links, fstab, barrier, device nodes; without --context the next id from 40000."""
    host.run(
        "vserver",
        "a",
        "build",
        "-m",
        "skeleton",
        "--hostname",
        "a.example",
        "--interface",
        "n=br0:10.9.0.7/255.255.0.0",
    )
    read = host.run("sh", "-c", "cd /etc/vservers/a; cat context uts/nodename interfaces/0/*; readlink vdir run cache")

    assert read.stdout.split() == [
        "40000", "a.example", "br0", "10.9.0.7", "255.255.0.0", "n", "/vservers/a", "/var/run/vservers/a",
        "/var/cache/vservers/a",
    ]  # fmt: skip
    assert host.run("stat", "-c", "%F %t:%T", "/vservers/a/dev/null").stdout == "character special file 1:3\n"


def test_build_takes_nothing_away(host: Host, web: Guest) -> None:
    """A name or a context id in use is refused; --force renames what was there."""
    name = host.run("vserver", "web1", "build", "-m", "skeleton", "--context", "5", check=False)
    context = host.run("vserver", "web2", "build", "-m", "skeleton", "--context", "100", check=False)
    host.run("vserver", "web1", "build", "--force", "-m", "skeleton", "--context", "100")

    assert name.returncode == 1
    assert "already; please try to use '--force'" in name.stderr
    assert "Context '100' is already in use." in context.stderr
    assert re.search(r"web1\.~\d+~", host.run("ls", "/vservers").stdout)


def test_guests_die_with_the_power(vserver_host: Host) -> None:
    """A power cut ends guests and forgets contexts; the next boot starts the marked ones."""
    guest = build(vserver_host, "web1", 100, ADDRESS, template=template.SMALL)
    guest.write("apps/init/mark", "default\n")
    guest.start()

    vserver_host.crash()
    vserver_host.boot()

    assert guest.running
    assert guests.addresses(vserver_host)["br0"][-1] != ""
    assert on_br0(vserver_host) == ["10.9.0.5/24"]
