"""Hosts of a lab behave as hosts: reachable, separate, mortal, and back from their disk."""

import json
import subprocess
import sys
import time
import tomllib

import pytest

from scenarios.lab import root
from scenarios.lab.fleet import Lab
from scenarios.lab.hosts import Host, HostError
from scenarios.lab.programs import ProgramError
from scenarios.lab.switch import LineError

pytestmark = pytest.mark.lab


def ssh(lab: Lab, host: str, *words: str) -> "subprocess.CompletedProcess[str]":
    """A command on a host, as anybody with the lab's files would run it."""
    argv = ["ssh", "-F", str(lab.ssh_config), host, *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def test_ssh_with_verified_keys(lab: Lab) -> None:
    """The machine's shell reaches every host by name, with the host's real key verified."""
    assert [ssh(lab, name, "hostname").stdout for name in ("alpha", "beta")] == ["alpha\n", "beta\n"]


def test_changed_host_key_is_refused(lab: Lab) -> None:
    """A host that shows another key than the one in known_hosts is not talked to."""
    wrong = lab.directory / "known_wrong"
    known = (lab.directory / "known_hosts").read_text().splitlines()
    wrong.write_text(known[0].split()[0] + " " + known[1].split(maxsplit=1)[1] + "\n")
    argv = ["ssh", "-F", str(lab.ssh_config), "-o", f"UserKnownHostsFile={wrong}", "alpha", "true"]

    got = subprocess.run(argv, capture_output=True, text=True, check=False)

    assert got.returncode == 255
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in got.stderr


def test_inventory_names_what_is_there(lab: Lab) -> None:
    """The inventory file is enough to reach each host."""
    hosts = tomllib.loads(lab.inventory.read_text())["host"]

    for host in hosts:
        argv = ["ssh", "-F", "none", "-i", host["identity_file"], "-o", f"UserKnownHostsFile={host['known_hosts']}"]
        argv += ["-p", str(host["port"]), "-l", host["user"], host["address"], "hostname"]
        assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip() == host["name"]


def test_hosts_reach_each_other(lab: Lab) -> None:
    """Hosts, client and machine are on one network, over IPv4 and IPv6, and a host's sshd answers its neighbour."""
    beta = lab.host("beta")
    for address in (beta.address, beta.address6):
        lab.host("alpha").run("ping", "-q", "-c1", "-W2", address)
        lab.client.run(sys.executable, "-c", f"import socket; socket.create_connection(('{address}', 22), 5).close()")

    scanned = lab.host("alpha").run("ssh-keyscan", "-t", "ed25519", beta.address).stdout

    [key] = [line.split()[2] for line in scanned.splitlines() if not line.startswith("#")]
    assert key in (lab.directory / "known_hosts").read_text()


def test_hosts_share_nothing_they_should_not(lab: Lab) -> None:
    """Each host has its own names, processes, machine id, boot id, SSH host key and files."""
    alpha, beta = lab.hosts
    for words in (
        ("hostname",),
        ("cat", "/etc/machine-id", "/proc/sys/kernel/random/boot_id", "/etc/ssh/ssh_host_ed25519_key"),
    ):
        assert alpha.run(*words).stdout != beta.run(*words).stdout
    alpha.run("touch", "/root/only-here")

    assert beta.run("test", "-e", "/root/only-here", check=False).returncode == 1
    assert not (root.ensure() / "root/only-here").exists()
    assert int(alpha.run("sh", "-c", "ls -d /proc/[0-9]* | wc -l").stdout) < 20
    alpha.run("rm", "/root/only-here")


def test_tools_are_there(lab: Lab) -> None:
    """A host can checkpoint: CRIU finds the kernel good, and nothing of Debian's services was started."""
    alpha = lab.host("alpha")

    assert "Looks good" in (alpha.run("criu", "check").stdout + alpha.run("criu", "check").stderr)
    for tool in ("crun", "runc", "rsync", "nft", "arping", "conntrack"):
        alpha.run("sh", "-c", f"command -v {tool}")
    assert alpha.run("pgrep", "redis|nginx", check=False).stdout == ""


def test_failure_carries_the_program_s_words(lab: Lab) -> None:
    """A failed command raises with the program, its status and its own words."""
    with pytest.raises(ProgramError, match=r"ls /nowhere ended with 2: .*No such file"):
        lab.host("alpha").run("ls", "/nowhere")


def test_terminate_ends_the_program_inside(lab: Lab) -> None:
    """Ending a program from outside ends it in the host, not only the way there."""
    alpha = lab.host("alpha")
    with alpha.popen("sh", "-c", "echo $$; exec sleep 1000") as running:
        assert running.stdout is not None
        pid = running.stdout.readline().strip()
        running.terminate()

    alpha.run("tail", "-s0.02", f"--pid={pid}", "-f", "/dev/null", limit_s=10)


def test_power_cut_loses_memory_and_keeps_the_disk(lab: Lab) -> None:
    """A crash ends everything and loses tmpfs; the next boot finds the disk, another boot id, and runs scripts."""
    beta = lab.host("beta")
    script = "#!/bin/sh\ncase $1 in start) date > /root/started-at-boot;; esac\n"
    beta.run("sh", "-c", "cat > /etc/rc2.d/S99witness; chmod +x /etc/rc2.d/S99witness", text=script)
    beta.run(
        "sh",
        "-c",
        "echo kept > /var/lib/migrator/kept; echo kept > /root/kept; echo lost > /run/lost; echo lost > /dev/shm/lost",
    )
    beta.run(
        "sh", "-c", "ip netns add ve; ip link add ve0 type veth peer name eth0 netns ve; ip link set ve0 master br0 up"
    )
    boot_id = beta.run("cat", "/proc/sys/kernel/random/boot_id").stdout
    with beta.popen("sleep", "1000") as sleeping:
        beta.crash()
        assert sleeping.wait(timeout=10) != 0

    assert not beta.alive
    with pytest.raises(HostError, match="is down"):
        beta.run("true")
    lab.host("alpha").run("sh", "-c", f"! ping -q -c1 -W1 {beta.address}")

    beta.boot()

    assert beta.run("cat", "/var/lib/migrator/kept", "/root/kept").stdout == "kept\nkept\n"
    beta.run("sh", "-c", "test -s /root/started-at-boot && ! test -e /run/lost && ! test -e /dev/shm/lost")
    assert beta.run("ip", "netns", "list").stdout == ""
    assert "ve0" not in beta.run("ip", "link").stdout
    assert beta.run("cat", "/proc/sys/kernel/random/boot_id").stdout != boot_id
    assert ssh(lab, "beta", "hostname").stdout == "beta\n"
    beta.run("rm", "/etc/rc2.d/S99witness", "/root/started-at-boot", "/root/kept", "/var/lib/migrator/kept")


def test_halt_runs_the_stop_scripts(lab: Lab) -> None:
    """An orderly halt runs the K scripts before anything ends."""
    beta = lab.host("beta")
    script = "#!/bin/sh\n[ $1 = stop ] && pgrep -x sshd > /root/stopped\n"
    beta.run(
        "sh", "-c", "mkdir -p /etc/rc0.d; cat > /etc/rc0.d/K01witness; chmod +x /etc/rc0.d/K01witness", text=script
    )

    beta.halt()
    beta.boot()

    assert beta.run("cat", "/root/stopped").stdout.strip().isdigit()
    beta.run("rm", "/etc/rc0.d/K01witness", "/root/stopped")


def test_sshd_comes_back(lab: Lab) -> None:
    """Init starts sshd again when it ends, and reaps orphans."""
    alpha = lab.host("alpha")
    alpha.run("sh", "-c", "kill $(pgrep -xo sshd)")
    alpha.run("sh", "-c", "(sh -c 'exit 0' &) ; true")

    _until(lambda: ssh(lab, "alpha", "true").returncode == 0)

    assert "<defunct>" not in alpha.run("ps", "ax").stdout


def test_line_can_be_slow(lab: Lab) -> None:
    """A rate limit holds in both directions."""
    alpha = lab.host("alpha")
    alpha.set_link(rate="80mbit")
    try:
        for command in (f"{_ssh(lab)} alpha head -c 10M /dev/zero", f"head -c 10M /dev/zero | {_ssh(lab)} alpha cat"):
            before = time.monotonic()
            subprocess.run(["sh", "-c", f"{command} > /dev/null"], check=True)
            assert time.monotonic() - before > 0.9  # 10 MiB at 80 Mbit/s take 1.05 s
    finally:
        alpha.set_link(rate="1gbit")


def test_line_can_lose_and_break(lab: Lab) -> None:
    """Loss drops about its share each way; a pulled line carries nothing; both heal."""
    alpha, beta = lab.hosts
    ping = ("ping", "-q", "-i0.002", "-W1", alpha.address)
    # A neighbour resolved just now stays known for 15 s or more: a lost ARP answer would silence far more than its share.
    for host in lab.hosts:
        host.run("ip", "neigh", "flush", "all")
    beta.run(*ping, "-c20")
    try:
        alpha.set_link(loss_percent=30)
        lost = beta.run(*ping, "-c500", check=False).stdout
        alpha.set_link(loss_percent=0, up=False)
        beta.run("sh", "-c", f"! ping -q -c1 -W1 {alpha.address}")
    finally:
        alpha.set_link(loss_percent=0, up=True)

    share = float(lost.split("% packet loss")[0].rsplit(maxsplit=1)[-1])
    assert 41 < share < 61  # 1 - 0.7 * 0.7 = 51 %
    assert " 0% packet loss" in beta.run(*ping, "-c20").stdout


def test_latency_or_a_clear_refusal(lab: Lab) -> None:
    """Where the kernel has netem a line can be slow to answer; elsewhere it says why not and stays as it was."""
    alpha, beta = lab.hosts
    refused = ""
    try:
        alpha.set_link(latency_ms=40)
    except LineError as error:
        refused = str(error)
    answer = beta.run("ping", "-q", "-c3", alpha.address).stdout
    best_ms = float(answer.rsplit("= ", maxsplit=1)[-1].split("/")[0])

    assert "no netem" in refused or best_ms >= 39
    assert alpha.record.line.latency_ms == (0 if refused else 40)
    alpha.set_link(latency_ms=0)
    beta.run("ping", "-q", "-c1", "-W2", alpha.address)


def test_command_line_gives_status_and_runs_programs(lab: Lab) -> None:
    """What a person does at the prompt works on a lab of any name."""
    cli = [sys.executable, "-m", "scenarios.lab"]
    shown = subprocess.run([*cli, "status", "--name", lab.name, "--json"], capture_output=True, text=True, check=True)
    ran = subprocess.run(
        [*cli, "exec", "--name", lab.name, "alpha", "--", "sh", "-c", "echo -n $0; exit 7"],
        capture_output=True,
        text=True,
        check=False,
    )
    wrong = subprocess.run(
        [*cli, "exec", "--name", lab.name, "gamma", "true"], capture_output=True, text=True, check=False
    )

    assert [host["state"] for host in json.loads(shown.stdout)[0]["hosts"]] == ["up", "up"]
    assert (ran.returncode, ran.stdout) == (7, "sh")
    assert wrong.returncode == 1
    assert "no host 'gamma'" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def _ssh(lab: Lab) -> str:
    return f"ssh -F {lab.ssh_config}"


def _until(true: object, limit_s: float = 10) -> None:
    assert callable(true)
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline, "it did not become true"


def test_host_is_a_handle(lab: Lab) -> None:
    """A file of a host can be read from outside."""
    alpha: Host = lab.host("alpha")

    assert alpha.path("/etc/hostname").read_text() == "alpha\n"
