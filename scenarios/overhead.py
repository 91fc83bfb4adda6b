"""What the blackout of the demo's move is made of, over and over: `make overhead RUNS=`, `AGAINST=` another checkout.

The Redis of the demo goes back and forth between two hosts with its client connected. Printed are medians over the moves: the
blackout, what of it CRIU says it took, the wire, and the rest, which is ours; then its parts. With `AGAINST` the two checkouts take
turns on the same machine, and each line has the ratio of a figure.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from scenarios.demo import VE, Demo
from scenarios.lab.fleet import Lab
from scenarios.lab.topology import Topology

FIGURES = ("blackout_ms", "overhead_ms", "criu_ms", "wire_ms")
TURNS = 3


def moves(count: int, *, talks: bool = True) -> list[dict[str, float]]:
    """The figures of so many moves, one after the other, in a lab of their own."""
    lab, found = Lab.up(Topology("overhead")), []
    try:
        demo = Demo(lab)
        for host in lab.hosts:
            demo.migrator("host", "add", host.name, capture=True)
        address = demo.deploy(lab.host("alpha"))
        with demo.client(address):
            for number in range(count):
                target = ("beta", "alpha")[number % 2]
                demo.migrator("migrate", VE, target, "--json", capture=True)
                [report] = json.loads(demo.migrator("history", "--json", "--limit", "1", capture=True))
                figures = {name: float(report["blackout"][name]) for name in FIGURES}
                found.append(figures | report["blackout"]["parts_ms"])
                if talks:
                    print("  ".join(f"{name} {found[-1][name]:5.0f}" for name in FIGURES), flush=True)
    finally:
        lab.down()
    return found


def medians(found: list[dict[str, float]]) -> dict[str, float]:
    """Of each figure, and of each part that every blackout had."""
    names = [name for name in found[0] if all(name in each for each in found)]
    return {name: statistics.median(each[name] for each in found) for name in names}


def compare(other: Path, count: int) -> None:
    """This checkout and another take turns."""
    found: dict[Path, list[dict[str, float]]] = {Path.cwd(): [], other: []}
    for _ in range(TURNS):
        for checkout, figures in found.items():
            words = [str(checkout / ".venv/bin/python"), "-m", "scenarios.overhead", "--runs", str(count), "--json"]
            done = subprocess.run(words, cwd=checkout, stdout=subprocess.PIPE, text=True, check=True)
            figures.extend(json.loads(done.stdout.splitlines()[-1]))
    here, there = (medians(figures) for figures in found.values())
    for name in (*FIGURES, *(name for name in here if name in there and name not in FIGURES)):
        ratio = f"{here[name] / there[name]:.2f}" if there[name] else "-"
        print(f"{name:16} here {here[name]:6.1f}  there {there[name]:6.1f}  ratio {ratio}")


def main() -> int:
    """Needs root."""
    parser = argparse.ArgumentParser(prog="make overhead", description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="moves (with --against: in each turn)")
    parser.add_argument("--against", type=Path, help="another checkout of this project, set up")
    parser.add_argument("--json", action="store_true", help="the last line is a list of what was measured")
    told = parser.parse_args()
    if told.against:
        compare(told.against.resolve(), told.runs)
        return 0
    found = moves(told.runs, talks=not told.json)
    print(
        json.dumps(found) if told.json else "medians: " + "  ".join(f"{k} {v:.0f}" for k, v in medians(found).items())
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
