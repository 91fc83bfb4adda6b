"""The emulated vzctl, vzlist and vzcptcheck behave as documented of the real ones.

FACTS is the table: each documented fact, by the section that states it, and the test that holds the emulation to it.
"""

import json
import os
import re
from collections.abc import Iterator
from subprocess import CompletedProcess

import pytest

from scenarios.lab.fleet import Lab
from scenarios.lab.hosts import Host
from scenarios.lab.openvz import fixtures
from scenarios.lab.openvz.fixtures import inject
from scenarios.lab.openvz.install import install
from scenarios.lab.programs import ProgramError

pytestmark = pytest.mark.lab

FACTS = {
    "2.1 wrong command lines, their words on stderr and codes 14, 20, 21": "test_command_line",
    "2.1 --version": "test_command_line",
    "2.1 no global config: 10": "test_no_global_config",
    "2.1 --quiet silences both streams, errors too; only the answer of status stays": "test_quiet",
    "2.1 log line format": "test_log",
    "2.1 a live lock: words, 9; not taken by exec and status, or with --skiplock": "test_lock",
    "2.1 a stale lock is removed, said on stdout": "test_stale_lock",
    "2.2 status: words, always 0, unknown is deleted, missing root on stderr unless quiet": "test_status",
    "2.2 suspended only with Dump.CTID in DUMPDIR and not running": "test_status_suspended",
    "2.2 a frozen or undumped container is running": "test_stages_on_the_source",
    "2.3 start: lines in order": "test_start",
    "2.3 start of a running one: 32; DISABLED: 105 unless --force": "test_start_refused",
    "2.3 start that fails: hint, code of the step, everything back": "test_start_that_fails",
    "2.3 start with a leftover dump restores": "test_start_with_a_dump_restores",
    "2.3 ... and boots, deletes the dump and returns 0 when that fails": "test_start_with_a_bad_dump_loses_it",
    "2.3 stop: lines; of a stopped one: stderr and 0; --fast; --skip-umount": "test_stop",
    "2.3 mount and umount: words and codes 0, 32, 40": "test_mount",
    "2.3 umount of a busy root: 51": "test_umount_busy",
    "2.3 destroy: words, files; running 32, mounted 41": "test_destroy",
    "2.3 exec 8, exec2 and exec3 31 or the command's own code; - reads stdin": "test_exec",
    "2.3 set --save, without --save, --private on a running one, names": "test_set",
    "2.3 set --name conflict: 131": "test_name_conflict",
    "2.3 create from a template; 44 and 91": "test_create",
    "2.4 chkpnt stages: lines, routes and proxy entries off at --dump, back at --resume": "test_stages_on_the_source",
    "2.4 --kill leaves it mounted and down": "test_kill_leaves_it_mounted",
    "2.4 two stages at once: 20": "test_command_line",
    "2.4 --dump without --dumpfile: 16": "test_dump_refused",
    "2.4 of a stopped one: 31, two texts": "test_checkpoint_of_a_stopped_one",
    "2.4 failed --suspend and --dump: 16, words, no file; --dump alone stays frozen": "test_dump_refused",
    "2.4 full chkpnt: lines, killed and unmounted, suspended; resumes itself when its dump fails": "test_full",
    "2.4 dump file is 0600": "test_stages_on_the_source",
    "2.5 full restore: lines, dump deleted": "test_full",
    "2.5 --undump holds, --resume lets go; dump stays; --kill leaves it mounted": "test_undump",
    "2.5 restore 32, 17, 31 against 17, words; nothing left; dump kept": "test_restore_that_fails",
    "2.5 killed by a signal after the work was done": "test_ends_by_a_signal_after_the_work",
    "2.6 quota commands with quota disabled: words, 61, 60, 66": "test_quota_disabled",
    "2.8 vzlist: columns, widths, -1, -H, unknown field, not found": "test_vzlist",
    "2.8 vzlist -j": "test_vzlist_json",
    "2.9 vzcptcheck version and caps": "test_vzcptcheck",
    "3.2 $VEID, last quote, first of two keys, unknown keys kept": "test_config_syntax",
    "3.5 action scripts on host and inside, non-zero is 79": "test_action_scripts",
    "4 venet: route, proxy entry, one announcement at add; veip file": "test_venet",
    "4 veth: bridge, names and MACs of NETIF; default host name": "test_veth",
    "8 ordinary kernel: the notice, full checkpoint into a directory, restore removes it, vzlist is empty with 0":
        "test_ordinary_kernel",
    "8 ordinary kernel: a failed checkpoint keeps its logs in .fail, 16, container goes on; failed restore 17, dump kept":
        "test_ordinary_kernel_failures",
    "9.11 injectable failures: error, slow, disk full, killed before and after": "test_faults",
}  # fmt: skip


def test_table() -> None:
    """Every fact of the table is held by a test of this file."""
    assert {name for name in FACTS.values() if name not in globals()} == set()


@pytest.fixture
def ct(alpha: Host) -> Host:
    """A host with container 101 from the template, stopped."""
    make(alpha)
    return alpha


def make(host: Host, ctid: int = 101, *more: str) -> None:
    ip = more or ("--ipadd", address(host))
    host.run("vzctl", "create", str(ctid), "--ostemplate", "debian-13-small", "--hostname", f"web{ctid}", *ip)


def address(host: Host) -> str:
    return host.address.rsplit(".", 1)[0] + ".101"


def vzctl(host: Host, *words: str, text: str | None = None) -> CompletedProcess[str]:
    return host.run("vzctl", *words, check=False, text=text)


def said(host: Host, *words: str) -> tuple[int, str, str]:
    """Code, stdout and stderr of a vzctl call."""
    done = vzctl(host, *words)
    return done.returncode, done.stdout, done.stderr


def status(host: Host) -> str:
    return vzctl(host, "--quiet", "status", "101").stdout.removeprefix("CTID 101 ").strip()


def frozen(host: Host) -> bool:
    return "frozen 1" in host.path("/sys/fs/cgroup/vz-101/cgroup.events").read_text()


# --- 2.1 ----------------------------------------------------------------------------------------------

LINES: list[tuple[str, int, str, str]] = [
    ("--version", 0, "vzctl version 4.11.1\n", ""),
    ("foo 101", 20, "", "Bad command: foo\n"),
    ("start", 21, "", "CT ID missing\n"),
    ("start abc", 21, "", "Bad CT ID abc\n"),
    ("snapshot 101", 20, "", "Bad command: snapshot\n"),
    ("start 101 --x", 20, "", "vzctl: unrecognized option '--x'\n"),
    ("start 101 junk", 20, "", "Invalid extra arguments: junk \n"),
    ("start 55", 14, "", "Container config file does not exist\n"),
    ("chkpnt 101 --kill --resume", 20, "", "Invalid syntax: only one sub command may be used\n"),
]


def test_command_line(ct: Host) -> None:
    """Wrong words get the documented answers and codes."""
    for words, code, out, err in LINES:
        assert said(ct, *words.split()) == (code, out, err), words
    usage = vzctl(ct)
    assert (usage.returncode, usage.stdout, "Usage" in usage.stderr) == (20, "", True)


def test_no_global_config(ct: Host) -> None:
    """Without vz.conf nothing is done, with code 10."""
    path = ct.path("/etc/vz/vz.conf")
    kept = path.read_text()
    path.unlink()
    assert vzctl(ct, "start", "101").returncode == 10
    path.write_text(kept)


def test_quiet(ct: Host) -> None:
    """--quiet hides the reason of a failure; the answer of status stays."""
    assert said(ct, "--quiet", "umount", "101") == (40, "", "")
    assert said(ct, "--quiet", "status", "101") == (0, "CTID 101 exist unmounted down\n", "")


def test_log(ct: Host) -> None:
    """Each line goes to the log with a stamp and the container."""
    vzctl(ct, "mount", "101")
    last = ct.path("/var/log/vzctl.log").read_text().splitlines()[-1]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+0000 vzctl : CT 101 : Container is mounted", last)


def test_lock(ct: Host) -> None:
    """Somebody's lock is respected; status and exec do not take it, --skiplock goes past it."""
    ct.path("/vz/lock/101.lck").write_text("1\nmigrating\n")
    done = vzctl(ct, "mount", "101")
    assert (done.returncode, done.stdout) == (9, "")
    assert re.fullmatch(r"Locked by: pid 1, cmdline .*lab-init\nContainer already locked\n", done.stderr)
    assert vzctl(ct, "exec", "101", "true").returncode == 8
    assert status(ct) == "exist unmounted down"
    assert vzctl(ct, "--skiplock", "mount", "101").returncode == 0
    assert ct.path("/vz/lock/101.lck").read_text() == "1\nmigrating\n"


def test_stale_lock(ct: Host) -> None:
    """A dead process's lock is removed; afterwards no lock is left."""
    ct.path("/vz/lock/101.lck").write_text("4194000\n\n")
    code, out, _ = said(ct, "mount", "101")
    assert (code, out) == (0, "Removing stale lock file /vz/lock/101.lck\nContainer is mounted\n")
    assert not ct.path("/vz/lock/101.lck").exists()


# --- 2.2 ----------------------------------------------------------------------------------------------


def test_status(ct: Host) -> None:
    """The words, in every state that is not a checkpoint's."""
    ct.path("/vz/root/101").rmdir()
    assert said(ct, "status", "55")[:2] == (0, "CTID 55 deleted unmounted down\n")
    assert said(ct, "status", "101") == (
        0, "CTID 101 exist unmounted down\n", "stat(/vz/root/101): No such file or directory\n"
    )  # fmt: skip
    vzctl(ct, "mount", "101")
    assert status(ct) == "exist mounted down"
    vzctl(ct, "start", "101")
    assert status(ct) == "exist mounted running"


def test_status_suspended(ct: Host) -> None:
    """A dump under its default name counts, any other name does not, nor does one of a running container."""
    ct.path("/vz/dump/tmp-dump.101").touch()
    assert status(ct) == "exist unmounted down"
    ct.path("/vz/dump/Dump.101").touch()
    assert status(ct) == "exist unmounted down suspended"
    ct.path("/vz/dump/Dump.101").unlink()
    vzctl(ct, "start", "101")
    ct.path("/vz/dump/Dump.101").touch()
    assert status(ct) == "exist mounted running"


# --- 2.3 ----------------------------------------------------------------------------------------------


def test_start(ct: Host) -> None:
    """The lines of a start, addresses and CPU units included."""
    vzctl(ct, "set", "101", "--cpuunits", "1000", "--save")
    ip = address(ct)
    lines = f"Starting container...\nContainer is mounted\nAdding IP address(es): {ip}\n"
    assert said(ct, "start", "101") == (
        0, f"{lines}Setting CPU units: 1000\nContainer start in progress...\n", ""
    )  # fmt: skip


def test_start_refused(ct: Host) -> None:
    """A running one is not started again, a disabled one only by force."""
    vzctl(ct, "set", "101", "--disabled", "yes", "--save")
    assert said(ct, "start", "101") == (105, "", "Container start disabled\n")
    assert vzctl(ct, "start", "101", "--force").returncode == 0
    vzctl(ct, "set", "101", "--disabled", "no", "--save")
    assert said(ct, "start", "101") == (32, "", "Container is already running\n")


def test_start_that_fails(ct: Host) -> None:
    """The failing step's code, the hint, and nothing left of the try."""
    inject(ct, "start", text="Cannot allocate memory")
    code, _, err = said(ct, "start", "101")
    assert code == 7
    assert err.endswith('Container start failed (try to check kernel messages, e.g. "dmesg | tail")\n')
    assert "Container is unmounted\n" in err
    assert status(ct) == "exist unmounted down"
    assert routes(ct) == []


def test_start_with_a_dump_restores(ct: Host) -> None:
    """start takes up a suspended container where it was."""
    remember(ct)
    vzctl(ct, "chkpnt", "101")
    code, out, _ = said(ct, "start", "101")
    assert code == 0
    assert out.startswith("Dump file /vz/dump/Dump.101 exists, trying to restore from it\nRestoring container ...\n")
    assert remembered(ct)


def test_start_with_a_bad_dump_loses_it(ct: Host) -> None:
    """When that restore fails it boots, removes the dump and says 0: the memory is lost."""
    remember(ct)
    vzctl(ct, "chkpnt", "101")
    inject(ct, "restore.undump", text="Invalid argument")
    assert vzctl(ct, "start", "101").returncode == 0
    assert status(ct) == "exist mounted running"
    assert not ct.path("/vz/dump/Dump.101").exists()
    assert not remembered(ct)


def remember(host: Host) -> None:
    """A running container with something in a process's memory."""
    vzctl(host, "start", "101")
    script = "for i in 1 2 3 4 5 6 7 8 9 10; do redis-cli set k v && exit 0; sleep 0.1; done; exit 1"
    assert vzctl(host, "exec2", "101", script).returncode == 0


def remembered(host: Host) -> bool:
    return vzctl(host, "exec", "101", "redis-cli get k").stdout.strip() == "v"


def test_stop(ct: Host) -> None:
    """The lines of stop; stopping a stopped one is no error; --fast; --skip-umount leaves it mounted."""
    assert said(ct, "stop", "101") == (0, "", "Unable to stop: container is not running\n")
    vzctl(ct, "start", "101")
    assert said(ct, "stop", "101") == (
        0, "Stopping container ...\nContainer was stopped\nContainer is unmounted\n", ""
    )  # fmt: skip
    vzctl(ct, "start", "101")
    assert said(ct, "stop", "101", "--fast", "--skip-umount") == (
        0, "Killing container ...\nContainer was stopped\n", ""
    )  # fmt: skip
    assert status(ct) == "exist mounted down"


def test_mount(ct: Host) -> None:
    """mount and umount say what is so."""
    assert said(ct, "umount", "101") == (40, "", "CT is not mounted\n")
    assert said(ct, "mount", "101") == (0, "Container is mounted\n", "")
    assert said(ct, "mount", "101") == (0, "", "Container is already mounted\n")
    assert said(ct, "umount", "101") == (0, "Container is unmounted\n", "")
    vzctl(ct, "start", "101")
    assert said(ct, "umount", "101") == (32, "", "Container is running -- stop it first\n")


def test_umount_busy(ct: Host) -> None:
    """A root in use is not unmounted."""
    vzctl(ct, "mount", "101")
    with ct.popen("sh", "-c", "cd /vz/root/101 && echo in && sleep 60") as busy:
        assert busy.stdout is not None
        assert busy.stdout.readline() == "in\n"
        assert said(ct, "umount", "101") == (51, "", "Can't umount /vz/root/101: Device or resource busy\n")
        busy.terminate()


def test_destroy(ct: Host) -> None:
    """Only a stopped, unmounted one; files go or are renamed."""
    ct.path("/etc/vz/conf/101.mount").write_text("#!/bin/sh\n")
    ct.path("/etc/vz/conf/101.mount").chmod(0o755)
    vzctl(ct, "set", "101", "--name", "web", "--save")
    vzctl(ct, "start", "101")
    assert said(ct, "destroy", "101") == (32, "Container is currently running. Stop it first.\n", "")
    vzctl(ct, "stop", "101", "--skip-umount")
    assert said(ct, "destroy", "101") == (41, "Container is currently mounted (umount first)\n", "")
    vzctl(ct, "umount", "101")
    ct.path("/vz/dump/Dump.101").touch()
    assert said(ct, "destroy", "101") == (
        0, "Destroying container private area: /vz/private/101\nContainer private area was destroyed\n", ""
    )  # fmt: skip
    left = sorted(path.name for path in ct.path("/etc/vz/conf").iterdir())
    assert left == ["101.conf.destroyed", "101.mount.destroyed"]
    assert not os.path.lexists(ct.path("/etc/vz/names/web"))
    assert not ct.path("/vz/dump/Dump.101").exists()


def test_exec(ct: Host) -> None:
    """Codes of the three, with and without a running container."""
    assert said(ct, "exec", "101", "true") == (8, "", "Container is not running\n")
    assert said(ct, "exec2", "101", "true") == (31, "", "Container is not running\n")
    vzctl(ct, "start", "101")
    assert vzctl(ct, "exec", "101", "exit 3").returncode == 8
    assert vzctl(ct, "exec2", "101", "exit 3").returncode == 3
    assert said(ct, "exec2", "101", "echo", "$((1+1))")[:2] == (0, "2\n")
    assert said(ct, "exec3", "101", "echo", "$((1+1))")[:2] == (0, "$((1+1))\n")
    assert vzctl(ct, "exec2", "101", "-", text="echo read\n").stdout == "read\n"


def test_set(ct: Host) -> None:
    """Saved, not saved, and what cannot be changed on a running one."""
    assert said(ct, "set", "101", "--cpuunits", "500", "--save")[:2] == (
        0, "CT configuration saved to /etc/vz/conf/101.conf\n"
    )  # fmt: skip
    assert 'CPUUNITS="500"\n' in ct.path("/etc/vz/conf/101.conf").read_text()
    vzctl(ct, "start", "101")
    code, out, _ = said(ct, "set", "101", "--cpuunits", "600")
    assert (code, out) == (
        0,
        "Setting CPU units: 600\nWARNING: Settings were not saved to config and will be lost after CT restart "
        "(use --save flag)\n",
    )
    code, _, err = said(ct, "set", "101", "--private", "/vz/private/9", "--save")
    assert (code, err) == (
        32,
        "Unable to change VE_PRIVATE on a running container\n"
        "Error: failed to apply some parameters, not saving configuration file!\n",
    )


def test_name_conflict(ct: Host) -> None:
    """A name is a link; without --save, or taken by another, it is refused with 131."""
    make(ct, 102, "--cpuunits", "1000")
    code, out, _ = said(ct, "set", "101", "--name", "web", "--save")
    assert (code, out.splitlines()[0]) == (0, "Name web assigned")
    assert vzctl(ct, "set", "102", "--name", "db").returncode == 131
    assert said(ct, "set", "102", "--name", "web", "--save") == (
        131, "", "Conflict: name web already used by container 101\n"
    )  # fmt: skip
    assert said(ct, "status", "web")[1] == "CTID 101 exist unmounted down\n"


def test_create(ct: Host) -> None:
    """A container comes out of a template; an existing private area and an unknown template are refused."""
    assert ct.path("/vz/private/101/sbin").is_symlink()
    assert vzctl(ct, "create", "101", "--ostemplate", "debian-13-small").returncode == 44
    assert vzctl(ct, "create", "103", "--ostemplate", "nothing").returncode == 91
    assert said(ct, "create", "104", "--ostemplate", "debian-13-small")[1].splitlines() == [
        "Creating container private area (debian-13-small)",
        "Performing postcreate actions",
        "CT configuration saved to /etc/vz/conf/104.conf",
        "Container private area was created",
    ]


# --- 2.4, 2.5 -----------------------------------------------------------------------------------------

DUMP = ("--dumpfile", "/vz/dump/tmp-dump.101")


def routes(host: Host) -> list[str]:
    """What the host has for the container's address: routes to venet0 and proxy entries."""
    found = host.run("ip", "route", "show", "dev", "venet0").stdout + host.run("ip", "neigh", "show", "proxy").stdout
    return sorted(line.split()[0] for line in found.splitlines())


def test_stages_on_the_source(ct: Host) -> None:
    """Suspended it is frozen but called running; dumped it has lost its routes; resumed it has them again."""
    remember(ct)
    both = [address(ct)] * 2
    begin, done = "Setting up checkpoint...\n", "Checkpointing completed successfully\n"
    assert said(ct, "chkpnt", "101", "--suspend") == (0, f"{begin}\tsuspend...\n\tget context...\n{done}", "")
    assert frozen(ct)
    assert status(ct) == "exist mounted running"
    assert routes(ct) == both
    assert said(ct, "chkpnt", "101", "--dump", *DUMP) == (0, f"{begin}\tjoin context..\n\tdump...\n{done}", "")
    assert frozen(ct)
    assert routes(ct) == []
    assert ct.path(DUMP[1]).stat().st_mode & 0o777 == 0o600
    assert said(ct, "chkpnt", "101", "--resume") == (0, "Resuming...\n", "")
    assert routes(ct) == both
    assert remembered(ct)


def test_kill_leaves_it_mounted(ct: Host) -> None:
    """After --kill umount has still to follow."""
    vzctl(ct, "start", "101")
    vzctl(ct, "chkpnt", "101", "--suspend", "--flags", "0x10")
    assert said(ct, "chkpnt", "101", "--kill") == (0, "Killing...\n", "")
    assert status(ct) == "exist mounted down"
    assert vzctl(ct, "umount", "101").returncode == 0


def test_dump_refused(ct: Host) -> None:
    """Refused suspends leave it running, refused dumps leave it frozen and no file."""
    remember(ct)
    inject(ct, "chkpnt.suspend", text="Device or resource busy")
    assert said(ct, "chkpnt", "101", "--suspend")[::2] == (
        16, "Can not suspend container: Device or resource busy\nCheckpointing failed\n"
    )  # fmt: skip
    assert remembered(ct)
    vzctl(ct, "chkpnt", "101", "--suspend")
    assert said(ct, "chkpnt", "101", "--dump")[::2] == (
        16, "Error: dumpfile is not specified\nCheckpointing failed\n"
    )  # fmt: skip
    inject(ct, "chkpnt.dump", text="Invalid argument")
    code, _, err = said(ct, "chkpnt", "101", "--dump", *DUMP)
    assert (code, err.splitlines()[0], err.splitlines()[-1]) == (
        16, "Can not dump container: Invalid argument", "Checkpointing failed"
    )  # fmt: skip
    assert not ct.path(DUMP[1]).exists()
    assert frozen(ct)
    vzctl(ct, "chkpnt", "101", "--resume")
    assert remembered(ct)


def test_checkpoint_of_a_stopped_one(ct: Host) -> None:
    """31, with one text for what begins a checkpoint and another for what ends one."""
    long, short = "Unable to setup checkpointing: container is not running\n", "Container is not running\n"
    for words, text in ((("--suspend",), long), (("--dump", *DUMP), long), ((), long), (("--kill",), short)):
        assert said(ct, "chkpnt", "101", *words) == (31, "", text)
    assert said(ct, "restore", "101", "--resume") == (31, "", short)
    assert said(ct, "restore", "101", "--kill") == (31, "", short)


def test_full(ct: Host) -> None:
    """One call down and one up again; a failing dump resumes by itself."""
    remember(ct)
    inject(ct, "chkpnt.dump", text="Invalid argument")
    assert vzctl(ct, "chkpnt", "101").returncode == 16
    assert remembered(ct)
    begin, done = "Setting up checkpoint...\n", "Checkpointing completed successfully\nContainer is unmounted\n"
    assert said(ct, "suspend", "101")[:2] == (0, f"{begin}\tsuspend...\n\tdump...\n\tkill...\n{done}")
    assert status(ct) == "exist unmounted down suspended"
    assert said(ct, "resume", "101")[:2] == (
        0,
        "Restoring container ...\nContainer is mounted\n\tundump...\n"
        f"Adding IP address(es): {address(ct)}\n\tresume...\n"
        "Container start in progress...\nRestoring completed successfully\n",
    )
    assert remembered(ct)
    assert not ct.path("/vz/dump/Dump.101").exists()


def test_undump(ct: Host) -> None:
    """Undumped it exists and stands still, called running; resumed it goes on; killed it is still mounted."""
    remember(ct)
    vzctl(ct, "chkpnt", "101", "--suspend")
    vzctl(ct, "chkpnt", "101", "--dump", *DUMP)
    vzctl(ct, "chkpnt", "101", "--kill")
    code, out, _ = said(ct, "restore", "101", "--undump", *DUMP, "--skip_arpdetect")
    assert code == 0
    assert "\tget context...\n" in out
    assert frozen(ct)
    assert status(ct) == "exist mounted running"
    assert routes(ct) == [address(ct)] * 2
    assert said(ct, "restore", "101", "--kill") == (0, "Killing...\n", "")
    assert status(ct) == "exist mounted down"
    vzctl(ct, "restore", "101", "--undump", *DUMP)
    assert said(ct, "restore", "101", "--resume") == (0, "Resuming...\n", "")
    assert remembered(ct)
    assert ct.path(DUMP[1]).exists()


def test_restore_that_fails(ct: Host) -> None:
    """Before it exists 31, later 17; nothing is left running or mounted, and the dump is kept."""
    remember(ct)
    assert said(ct, "restore", "101") == (32, "", "Unable to perform restore: container already running\n")
    vzctl(ct, "chkpnt", "101")
    assert said(ct, "restore", "101", "--undump", "--dumpfile", "/vz/no")[::2] == (
        17, "Unable to open /vz/no: No such file or directory\n"
    )  # fmt: skip
    assert said(ct, "restore", "101", "--undump")[::2] == (17, "Error: dumpfile is not specified\n")
    inject(ct, "restore.undump", text="Invalid argument")
    code, _, err = said(ct, "restore", "101")
    assert code == 31
    assert err.startswith("Restore error, undump failed: Invalid argument\n")
    assert "Unable to apply network parameters: container is not running\n" in err
    inject(ct, "restore.resume", text="Invalid argument")
    code, _, err = said(ct, "restore", "101")
    assert code == 17
    assert err.splitlines()[-4:] == [
        "Killing container ...", "Container was stopped", "Container is unmounted", "Container restore failed"
    ]  # fmt: skip
    assert status(ct) == "exist unmounted down suspended"
    assert routes(ct) == []
    vzctl(ct, "restore", "101")
    assert remembered(ct)


def test_restore_of_a_cut_dump(ct: Host) -> None:
    """A dump that is cut short does not restore and leaves nothing running."""
    remember(ct)
    vzctl(ct, "chkpnt", "101")
    path = ct.path("/vz/dump/Dump.101")
    os.truncate(path, path.stat().st_size // 2)
    assert vzctl(ct, "restore", "101").returncode == 31
    assert status(ct) == "exist unmounted down suspended"


def test_ends_by_a_signal_after_the_work(ct: Host) -> None:
    """The known double free: the work is done, the program ends by SIGABRT."""
    remember(ct)
    inject(ct, "chkpnt.suspend", how="abort-after")
    assert vzctl(ct, "chkpnt", "101", "--suspend").returncode in (-6, 134)
    assert frozen(ct)


# --- 2.6 to 4 -----------------------------------------------------------------------------------------


def test_quota_disabled(ct: Host) -> None:
    """Each quota command has its own code for a quota that is off."""
    for verb, code in (("quotainit", 61), ("quotaon", 60), ("quotaoff", 66)):
        assert said(ct, verb, "101") == (code, "Disk quota is not enabled, skipping operation\n", "")


def test_vzlist(ct: Host) -> None:
    """Columns, padding, and the quirks of its codes."""

    def listed(*words: str) -> tuple[int, str, str]:
        done = ct.run("vzlist", *words, check=False)
        return done.returncode, done.stdout, done.stderr

    assert listed() == (0, "", "Container(s) not found\n")
    assert listed("55") == (1, "", "Container(s) not found\n")
    assert listed("-o", "nonsense") == (1, "", "Unknown field: nonsense\n")
    vzctl(ct, "start", "101")
    code, out, _ = listed()
    head, line = out.splitlines()
    assert (code, head) == (0, "      CTID      NPROC STATUS    IP_ADDR         HOSTNAME")
    assert re.fullmatch(rf"       101 +\d+ running   {address(ct):<15} web101", line)
    assert listed("-1") == (0, "       101\n", "")
    vzctl(ct, "stop", "101")
    assert listed("-a", "-H", "-o", "ctid,numproc,status") == (0, "       101          - stopped\n", "")


def test_vzlist_json(ct: Host) -> None:
    """JSON with typed values; an empty list where there is nothing."""
    assert json.loads(ct.run("vzlist", "-j").stdout) == []
    vzctl(ct, "start", "101")
    [found] = json.loads(ct.run("vzlist", "-a", "-j", "-o", "ctid,status,ip,onboot,numproc").stdout)
    assert (found["ctid"], found["status"], found["ip"]) == (101, "running", [address(ct)])
    assert found["onboot"] is False
    assert set(found["numproc"]) == {"held", "maxheld", "barrier", "limit", "failcnt"}


def test_vzcptcheck(ct: Host) -> None:
    """Versions and capabilities, asked and compared."""

    def checked(*words: str) -> tuple[int, str]:
        done = ct.run("vzcptcheck", *words, check=False)
        return done.returncode, done.stdout.strip() or done.stderr.strip()

    version, caps = int(checked("version")[1]), int(checked("caps")[1])
    assert checked("version", str(version)) == (0, "")
    assert checked("version", str(version + 1)) == (2, f"CPT version {version + 1} rejected: can't migrate")
    assert checked("caps", "101", str(caps)) == (0, "")
    assert checked("caps", "101", "0") == (2, "Insufficient CPU capabilities: can't migrate")
    assert checked("nonsense")[0] == 1


def test_config_syntax(ct: Host) -> None:
    """Parsed as text: the last quote closes, the first of two keys counts, unknown keys survive a rewrite."""
    path = ct.path("/etc/vz/conf/101.conf")
    path.write_text(path.read_text() + 'UNKNOWN="$(touch /tmp/sourced) "x" y"\nCPUUNITS="100"\nCPUUNITS="200"\n')
    assert "Setting CPU units: 100\n" in said(ct, "start", "101")[1]
    vzctl(ct, "set", "101", "--onboot", "yes", "--save")
    assert 'UNKNOWN="$(touch /tmp/sourced) "x" y"\n' in path.read_text()
    assert not ct.path("/tmp/sourced").exists()


def test_action_scripts(ct: Host) -> None:
    """mount runs on the host and knows the container; start runs inside; a failing one is 79."""
    for kind, text in (
        ("mount", '#!/bin/sh\necho "$VEID $VE_CONFFILE" > /tmp/mounted\n'),
        ("start", "#!/bin/bash\necho $$ > /started\n"),
        ("umount", "#!/bin/sh\nexit 1\n"),
    ):
        ct.path(f"/etc/vz/conf/101.{kind}").write_text(text)
        ct.path(f"/etc/vz/conf/101.{kind}").chmod(0o755)
    assert vzctl(ct, "start", "101").returncode == 0
    assert ct.path("/tmp/mounted").read_text() == "101 /etc/vz/conf/101.conf\n"
    assert ct.path("/vz/private/101/started").exists()
    assert vzctl(ct, "stop", "101").returncode == 79
    ct.path("/etc/vz/conf/101.umount").unlink()


def test_venet(ct: Host, openvz_lab: Lab) -> None:
    """A neighbour reaches the address by proxy ARP, both ways, IPv4 and IPv6; addresses are noted."""
    address6 = ct.address6.rsplit(":", 1)[0] + ":101"
    vzctl(ct, "set", "101", "--ipadd", address6, "--save")
    vzctl(ct, "start", "101")
    assert ct.path("/var/lib/vzctl/veip/101").read_text().split() == [address(ct), address6]
    for one in (address(ct), address6):
        reach(openvz_lab, one)
    vzctl(ct, "stop", "101")
    assert routes(ct) == []
    assert not ct.path("/var/lib/vzctl/veip/101").exists()


def reach(lab: Lab, one: str) -> None:
    """A TCP connection from outside to the Redis at this address."""
    program = (
        "import socket, sys, time\n"
        "for _ in range(50):\n"
        "    try: s = socket.create_connection((sys.argv[1], 6379), timeout=3)\n"
        "    except OSError: time.sleep(0.1); continue\n"
        "    s.sendall(b'PING\\r\\n'); assert s.recv(16) == b'+PONG\\r\\n'; break\n"
        "else: sys.exit('not reached')\n"
    )
    lab.client.run("python3", "-c", program, one)


def test_veth(alpha: Host) -> None:
    """Names and MACs are as NETIF says, the host's end is in its bridge."""
    make(alpha, 101, "--cpuunits", "1000")
    vzctl(alpha, "set", "101", "--netif_add", "eth0,00:18:51:00:00:01,veth101.0,FE:FF:FF:FF:FF:FF,br0", "--save")
    vzctl(alpha, "start", "101")
    [link] = json.loads(alpha.run("ip", "-j", "link", "show", "veth101.0").stdout)
    assert (link["master"], link["address"]) == ("br0", "fe:ff:ff:ff:ff:ff")
    inside = vzctl(alpha, "exec2", "101", "ip -o link show eth0").stdout
    assert "00:18:51:00:00:01" in inside
    vzctl(alpha, "stop", "101")
    assert not alpha.path("/sys/class/net/veth101.0").exists()


# --- 8 ------------------------------------------------------------------------------------------------

NOTICE = "Directory /proc/vz not found, assuming non-OpenVZ kernel\n"


@pytest.fixture
def ordinary(alpha: Host) -> Iterator[Host]:
    """A host whose vzctl has no OpenVZ kernel, with container 101."""
    install(alpha, ordinary_kernel=True)
    make(alpha)
    yield alpha
    install(alpha)


def test_ordinary_kernel(ordinary: Host) -> None:
    """The notice before all but status; whatever stage is asked for, the whole checkpoint is made."""
    code, out, _ = said(ordinary, "mount", "101")
    assert (code, out) == (0, f"{NOTICE}Container is mounted\n")
    assert NOTICE not in said(ordinary, "status", "101")[1]
    remember(ordinary)
    assert said(ordinary, "chkpnt", "101", "--suspend") == (
        0, f"{NOTICE}Container is unmounted\n", "Checkpointing finished successfully\n"
    )  # fmt: skip
    assert status(ordinary) == "exist unmounted down suspended"
    assert ordinary.path("/vz/dump/Dump.101/inventory.img").exists()
    assert said(ordinary, "chkpnt", "101", "--resume")[0] == 16
    assert ordinary.run("vzlist", check=False).stdout == ""
    assert ordinary.run("vzlist", check=False).returncode == 0
    assert vzctl(ordinary, "restore", "101").returncode == 0
    assert "v" in vzctl(ordinary, "exec", "101", "redis-cli get k").stdout.split()
    assert not ordinary.path("/vz/dump/Dump.101").exists()
    with pytest.raises(ProgramError):
        ordinary.run("/etc/init.d/vz", "status")


def test_ordinary_kernel_failures(ordinary: Host) -> None:
    """A failed checkpoint leaves it running and its logs aside; a failed restore keeps the dump."""
    remember(ordinary)
    inject(ordinary, "chkpnt.dump")
    assert said(ordinary, "chkpnt", "101")[::2] == (
        16,
        "Failed to checkpoint the Container\nAll dump files and logs were saved to /vz/dump/Dump.101.fail\n",
    )
    assert "v" in vzctl(ordinary, "exec", "101", "redis-cli get k").stdout.split()
    vzctl(ordinary, "chkpnt", "101")
    inject(ordinary, "restore.undump")
    code, _, err = said(ordinary, "restore", "101")
    assert (code, err.splitlines()[0]) == (17, "The restore log was saved in /vz/dump/Dump.101/restore.log")
    assert err.splitlines()[-1].startswith("Container restore failed (try to check")
    assert status(ordinary) == "exist unmounted down suspended"
    assert vzctl(ordinary, "restore", "101").returncode == 0


# --- 9 ------------------------------------------------------------------------------------------------


def test_faults(ct: Host) -> None:
    """Each way a step can be made to go wrong does so once and is then over."""
    vzctl(ct, "start", "101")
    vzctl(ct, "chkpnt", "101", "--suspend")
    inject(ct, "chkpnt.dump", text="No space left on device")
    assert "No space left on device" in said(ct, "chkpnt", "101", "--dump", *DUMP)[2]
    inject(ct, "chkpnt.dump", how="die-before")
    assert vzctl(ct, "chkpnt", "101", "--dump", *DUMP).returncode in (-9, 137)
    assert not ct.path(DUMP[1]).exists()
    inject(ct, "chkpnt.dump", how="die-after")
    assert vzctl(ct, "chkpnt", "101", "--dump", *DUMP).returncode in (-9, 137)
    assert ct.path(DUMP[1]).stat().st_size > 0
    inject(ct, "chkpnt.dump", how="slow", seconds=0.2)
    assert vzctl(ct, "chkpnt", "101", "--dump", *DUMP).returncode == 0
    assert frozen(ct)


alpha = fixtures.alpha
openvz_lab = fixtures.openvz_lab
