"""`make demo`: a Redis with a connected client moves between two hosts of a fresh lab, and the client tells what it saw.

Rule: nothing here is special: hosts, VE and client are what anyone would have, and the move is the `migrator` of this
checkout run as a program. The lab is taken down again however it ends; one that an earlier run left is taken away first.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from scenarios.lab import bundles
from scenarios.lab.fleet import Lab
from scenarios.lab.hosts import Host
from scenarios.lab.topology import Topology

HERE = Path(__file__).parent
RESULT = Path("build/demo.json")
DATA_BYTES = 100 << 20
VE = "shop"
REDIS = "/usr/bin/redis-server"
SERVICE = [REDIS, "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--appendonly", "no", "--dir", "/data"]
READY_LIMIT_S = 60.0


class Demo:
    """One run of it, in a lab that is up."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._environment = {
            **os.environ,
            "MIGRATOR_INVENTORY": str(lab.inventory),
            "MIGRATOR_JOURNAL": str(lab.directory / "journal.db"),
        }

    def migrator(self, *words: str, capture: bool = False) -> str:
        """Run the program as a person would; its standard output, if asked for."""
        print(f"\n$ migrator {' '.join(words)}", flush=True)
        argv = [str(Path(sys.executable).parent / "migrator"), *words]
        output = subprocess.PIPE if capture else None
        done = subprocess.run(argv, env=self._environment, stdout=output, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"migrator {words[0]} ended with {done.returncode}\n{done.stdout or ''}")
        return done.stdout or ""

    def deploy(self, host: Host) -> str:
        """A bundle with Debian's redis-server on a host; its IPv4 address."""
        address, address6 = self.lab.ve_addresses(100)
        script = Path(bundles.__file__).read_text()
        host.run("python3", "-", VE, "crun", address, address6, REDIS, "--", *SERVICE, text=script)
        self.migrator("ve", "start", VE)
        return address.split("/")[0]

    @contextmanager
    def client(self, address: str) -> Iterator["subprocess.Popen[str]"]:
        """The client, filled in and writing."""
        words = [sys.executable, str(HERE / "lab/writer.py"), address, str(DATA_BYTES)]
        process = self.lab.client.popen(*words, stdin=subprocess.PIPE, stderr=None)
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise SystemExit("the client could not connect to the Redis in the VE")
            yield process
        finally:
            process.kill()
            process.wait()


def run() -> int:
    """All of it; the exit status."""
    print("bringing up two hosts on this machine (namespaces, sshd, CRIU; about a minute the first time)", flush=True)
    lab = Lab.up(Topology("demo"))
    try:
        result = _move(Demo(lab))
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient second Ctrl-C would leave half of it
        lab.down()
        print("the lab is taken down", flush=True)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    return _judge(result)


def _move(demo: Demo) -> dict[str, object]:
    for host in demo.lab.hosts:
        demo.migrator("host", "add", host.name)
    address = demo.deploy(demo.lab.host("alpha"))
    print(f"\na client outside fills the Redis at {address} with {DATA_BYTES >> 20} MB and then writes all the time …")
    with demo.client(address) as client:
        demo.migrator("ve", "list")
        demo.migrator("plan", VE, "beta")
        demo.migrator("migrate", VE, "beta")
        [report] = json.loads(demo.migrator("history", "--json", "--limit", "1", capture=True))
        told = _stop(client)
    demo.migrator("ve", "list")
    return _result(report, told)


def _stop(client: "subprocess.Popen[str]") -> dict[str, object]:
    output, _ = client.communicate("stop\n", timeout=READY_LIMIT_S)
    told: dict[str, object] = json.loads(output)
    return told


def _result(report: dict[str, dict[str, object]], told: dict[str, object]) -> dict[str, object]:
    blackout = report["blackout"]
    return {
        "blackout_ms_agents": blackout["blackout_ms"],
        "blackout_ms_client": told["longest_gap_ms"],
        "overhead_ms": blackout["overhead_ms"],
        "criu_ms": blackout["criu_ms"],
        "wire_ms": blackout["wire_ms"],
        "parts_ms": blackout["parts_ms"],
        "writes_acknowledged": told["writes_acknowledged"],
        "writes_missing": told["writes_missing"],
        "same_connection": told["same_connection"],
        "client_error": told["error"],
        "report": report,
    }


def _judge(result: dict[str, object]) -> int:
    good = result["same_connection"] is True and result["writes_missing"] == 0
    print(
        f"\nThe client's own account: {result['writes_acknowledged']} writes acknowledged, "
        f"{result['writes_missing']} missing, the same TCP connection: {'yes' if result['same_connection'] else 'NO'}."
        f"\nBlackout: {result['blackout_ms_agents']:.0f} ms say the hosts, "
        f"{result['blackout_ms_client']:.0f} ms saw the client (its longest wait for an answer)."
        f"\nAll figures: {RESULT}"
    )
    if not good:
        print(f"The move was NOT clean: {result['client_error'] or 'see above'}", file=sys.stderr)
    return 0 if good else 1


def main(words: Sequence[str] = ()) -> int:
    """Needs root."""
    if os.geteuid() != 0:
        print("the demo makes namespaces and mounts: run it as root", file=sys.stderr)
        return 1
    try:
        return run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
