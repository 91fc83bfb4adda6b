"""What a bench says of its runs."""

import math
from dataclasses import replace

from scenarios.bench.measuring import Run, work_between, written_between
from scenarios.bench.meters import Use
from scenarios.bench.port import Moved, Start
from scenarios.bench.summary import lines, slowdown_percent, verdict
from scenarios.bench.workload import Account, Workload

USE = Use(1.0, 100.0, 200.0, 1000, 10)


def run(way: str, blackout_ms: float, *, start: Start = Start.COLD, failure: str = "") -> Run:
    """A run of a way with this blackout."""
    blank = Run(way, start, 1, Workload(), failure)
    return blank if failure else replace(blank, blackout_ms=blackout_ms, total_s=blackout_ms, source=USE, target=USE)


def test_a_way_is_judged_by_its_median_and_its_failures_are_shown() -> None:
    """One slow run does not make the figure, a failed run does not either, and both can be seen."""
    [line] = lines([run("a", 100), run("a", 9000), run("a", 110), run("a", 0, failure="link lost")], [])

    assert (line.blackout_ms, line.blackout_max_ms) == (110, 9000)
    assert (line.runs, line.failures) == (4, ("link lost",))


def test_the_verdict_compares_the_first_of_ours_with_the_best_peer_of_any_start() -> None:
    """A second way of ours that happened to be quicker is not put forward, and no peer is left out."""
    runs = [
        run("ours", 500),
        run("forced", 100),
        run("slow", 6000),
        run("quick", 7000),
        run("quick", 4000, start=Start.WARM),
    ]

    said = verdict(lines(runs, ["slow", "quick"]))

    assert said == "our blackout 500 ms (ours); the best peer's 4,000 ms (quick, warm); ratio 0.125 (1/8.0)"


def test_no_ratio_is_made_of_what_was_not_measured() -> None:
    """A way all of whose runs failed has no figure, and the verdict says so instead of inventing one."""
    failed = run("peer", 0, failure="no")

    assert math.isnan(lines([failed], ["peer"])[0].blackout_ms)
    assert verdict(lines([run("ours", 500), failed], ["peer"])).endswith("no peer was measured; no ratio")
    assert "not measured" in verdict(lines([run("ours", 0, failure="no"), run("peer", 6000)], ["peer"]))


def test_rates_come_from_the_log_between_two_points_in_time() -> None:
    """Lines outside of the window do not count: not the time before, and not the hole itself."""
    log = "".join(f"{at * 100_000} {at * 100} {at * 488} {at * 10} {at * 50_000}\n" for at in range(1, 21))

    work = work_between(log, 500_000, 1_500_000)

    assert (work.pages_per_s, work.units_per_s, work.units_per_cpu_s) == (4880, 100, 200)
    assert written_between(log, 500_000, 1_500_000) == 10 * 488 * 4096
    assert work_between(log, 500_000, 550_000).units_per_s == 0


def test_slowdown_ignores_runs_without_both_rates() -> None:
    """A pre-copy too short for two log lines says nothing."""
    rates = {1: (100.0, 90.0), 2: (100.0, 0.0), 3: (100.0, 80.0)}

    assert (
        round(slowdown_percent([replace(run("a", 1), number=at) for at in rates], lambda each: rates[each.number]))
        == 15
    )


def test_an_account_says_what_is_wrong() -> None:
    """Every kind of damage is named; a whole VE gives an empty sentence."""
    text = (
        '{"now_us":5,"ticks":1,"pages":2,"written":3,"work_units":0,"work_cpu_us":0,"log_bytes":9,"hot_writes":0,'
        '"verified":true,"wrong_pages":0,"first_wrong_page":-1,"wrong_files":0,"log_right":true,"gaps_us":[[1,2]]}'
    )
    account = Account.of(text)

    assert account.wrong() == ""
    assert account.gaps_us == [(1, 2)]
    broken = replace(account, wrong_pages=2, first_wrong_page=7, wrong_files=1, log_right=False)
    assert broken.wrong() == "2 wrong pages, the first is 7, 1 wrong files, its log is not what it appended"
    assert Moved().blackout_ms is None
