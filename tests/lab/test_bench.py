"""The bench on real hosts: its judge finds what it has to find, and a run of it measures."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scenarios.bench.port import first_pid, scrub
from scenarios.bench.stage import Stage
from scenarios.bench.ways import named
from scenarios.bench.workload import Workload, ask, compile_program
from scenarios.lab.fixtures import need_root, own_name
from scenarios.lab.hosts import Host
from scenarios.lab.remains import remains

pytestmark = pytest.mark.lab
PAGE = 4096
SLOW = Workload(memory_mib=16, dirty_mb_s=1.0, processes=3, files=20, files_mb=1, hot_files=5)
WORD = (1 << 64) - 1


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Two hosts with the program on them."""
    need_root()
    with Stage.up(own_name("b"), compile_program(tmp_path_factory.mktemp("bench"))) as made:
        yield made


@pytest.fixture
def pages(stage: Stage) -> Iterator[int]:
    """A VE on the source; its first process."""
    [way] = named(["runc-rsync"])
    ve = stage.new_id()
    way.place(stage, ve, SLOW)
    yield first_pid(stage.source, ve)
    scrub(stage, ve)


class Memory:
    """The pages of the VE's first process, as its host sees them."""

    def __init__(self, host: Host, pid: int) -> None:
        self._host, self._pid = host, pid
        maps = host.path(f"/proc/{pid}/maps").read_text()
        spans = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) rw-p 00000000 00:00 0 *$", maps, re.MULTILINE)
        self._at = next(at for began, ended in spans if (at := self._search(int(began, 16), int(ended, 16))))

    def _search(self, began: int, ended: int) -> int:
        """Address of page 0: its first word follows from its index and how often it was written."""
        firsts = {(0x9E3779B97F4A7C15 ^ generation * 0xC2B2AE3D27D4EB4F) & WORD for generation in range(2, 50)}
        with self._open("rb") as memory:
            for at in range(began, min(ended, began + 64 * PAGE), PAGE):
                memory.seek(at)
                if int.from_bytes(memory.read(8), "little") in firsts:
                    return at
        return 0

    def _open(self, mode: str):  # type: ignore[no-untyped-def]
        return self._host.path(f"/proc/{self._pid}/mem").open(mode, buffering=0)

    def read(self, index: int) -> bytes:
        """One page."""
        with self._open("rb") as memory:
            memory.seek(self._at + index * PAGE)
            return bytes(memory.read(PAGE))

    def write(self, index: int, data: bytes) -> None:
        """Plant it."""
        with self._open("r+b") as memory:
            memory.seek(self._at + index * PAGE)
            memory.write(data)


def until(condition: Callable[[], bool]) -> None:
    """Wait for what the VE does by itself."""
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_the_judge_finds_a_page_that_is_old(stage: Stage, pages: int) -> None:
    """A page put back to what it was one rewrite ago is found and named; before that everything is right."""
    memory = Memory(stage.source, pages)
    account = ask(stage.source, pages, "verify")
    assert account.wrong() == ""
    # One page ahead of the cursor, so that it is rewritten soon once and then not again for 16 s.
    index = (account.written + 100) % account.pages
    old = memory.read(index)
    until(lambda: memory.read(index) != old)

    memory.write(index, old)

    account = ask(stage.source, pages, "verify")
    assert (account.wrong_pages, account.first_wrong_page) == (1, index)


def test_the_judge_finds_wrong_files_and_a_cut_log(stage: Stage, pages: int) -> None:
    """A hot file or a log that lost its end is noticed, and so is another file of the VE by the bench."""
    root = f"/proc/{pages}/root"
    before = stage.digest(stage.source, f"{root}/files")
    log = stage.source.path(f"{root}/data/log")
    log.write_bytes(log.read_bytes()[:-5])
    assert "log" in ask(stage.source, pages, "verify").wrong()

    some = next(stage.source.path(f"{root}/files/d0000").iterdir())
    some.write_bytes(b"?" + some.read_bytes()[1:])
    assert stage.digest(stage.source, f"{root}/files") != before


def test_a_hole_in_its_clock_is_seen_in_full(stage: Stage, pages: int) -> None:
    """A VE that was frozen for 300 ms says so, and asking it does not count as a hole."""
    ask(stage.source, pages, "reset")
    ask(stage.source, pages, "verify")
    freezer = next(stage.source.path("/sys/fs/cgroup/migrator").glob("pages*")) / "cgroup.freeze"
    began_s = time.time()
    stage.source.run("sh", "-c", f"echo 1 > {_inside(freezer)}; sleep 0.3; echo 0 > {_inside(freezer)}")
    ended_s = time.time()

    gaps = ask(stage.source, pages, "state").gaps_us
    began_us, ended_us = max(gaps, key=lambda gap: gap[1] - gap[0])
    assert ended_us - began_us >= 300_000
    assert began_s * 1e6 - 2000 <= began_us <= ended_us <= ended_s * 1e6 + 20_000


def _inside(path: Path) -> str:
    return "/" + str(path).split("/root/", 1)[1]


def test_a_small_bench_measures_ours_and_a_peer(tmp_path: Path) -> None:
    """One run of each: a blackout from the VE's own clock, bytes, use of the hosts, a verdict; no lab is left."""
    need_root()
    name = own_name("c")
    words = ["--runs", "1", "--ways", "migrator,runc-pageserver", "--parts", "compare", "--lab", name]
    small = ["--memory", "16", "--files", "50", "--files-mb", "1", "--out", str(tmp_path)]
    argv = [sys.executable, "-m", "scenarios.bench", *words, *small]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)

    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads((tmp_path / "bench.json").read_text())
    assert [(run["way"], run["start"], run["failure"]) for run in data["runs"]] == [
        ("migrator", "cold", ""),
        ("runc-pageserver", "cold", ""),
        ("runc-pageserver", "warm", ""),
    ]
    for run in data["runs"]:
        assert 0 < run["blackout_ms"] < 1000 * run["total_s"]
        assert run["wire_bytes"] > 16 << 20
        assert run["source"]["cpu_s"] > 0
        assert run["target"]["memory_peak_mib"] > 16
    ours = data["runs"][0]["moved"]
    assert abs(ours["blackout_ms"] - data["runs"][0]["blackout_ms"]) < 100
    assert done.stdout.splitlines()[-1] == data["verdict"]
    assert "ratio" in data["verdict"]
    assert remains(name) == []
