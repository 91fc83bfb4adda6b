"""`make faults`: many real migrations, one real fault in each, on labs of this machine; ends with `N runs, M breaches`.

Rule: no decision here; what is run comes from `matrix`, what is found from `judge`. Exit status 1: there was a breach.
"""

import os
import queue
import sys
import threading
import time
from pathlib import Path

import click

from scenarios.faults import kinds, matrix, table, trial
from scenarios.faults.site import Site
from scenarios.faults.trial import Result, Trial
from scenarios.lab import fleet
from scenarios.lab.fixtures import remove_abandoned

EVIDENCE = Path("build/faults")
LETTERS = "fghjkmnp"
"""One lab per worker, told apart by the first letter of its name."""
RUNS = 240


class Series:
    """Many runs, a few at a time: most of a run is waiting."""

    def __init__(self, trials: list[Trial]) -> None:
        self._waiting: queue.SimpleQueue[Trial] = queue.SimpleQueue()
        # Redis with and without a disk are different VEs; those of a kind together spare the making of new ones.
        for each in sorted(trials, key=lambda each: each.persistent):
            self._waiting.put(each)
        self._count, self.results = len(trials), list[Result]()
        self._said = threading.Lock()

    def work(self, lab: str) -> None:
        """One worker, on a lab of its own, until nothing is left to do."""
        site: Site | None = None
        try:
            while not self._waiting.empty():
                try:
                    each = self._waiting.get_nowait()
                except queue.Empty:
                    return
                result, site = self._one(each, site, lab)
                self._tell(result)
        finally:
            fleet.down(lab)

    @staticmethod
    def _one(each: Trial, site: Site | None, lab: str) -> tuple[Result, Site | None]:
        try:
            site = site or Site.up(lab, each.engine)
            result = trial.run(site, each, EVIDENCE)
        except Exception as error:  # a site that cannot be used is told and made anew
            result = Result(each)
            result.verdict.breaches.append(f"the run could not begin: {type(error).__name__}: {error}")
        return result, None if result.verdict.breaches else site

    def _tell(self, result: Result) -> None:
        with self._said:
            self.results.append(result)
            how = "BREACH" if result.verdict.breaches else "ok" if result.reached else "moment did not come"
            click.echo(
                f"{len(self.results):>4}/{self._count} {result.trial.name:<58} {result.ended or '-':<9} "
                f"{result.took_s:5.1f} s  dark {result.verdict.dark_s:4.1f} s  {how}"
            )
            for each in table.shortened(result.verdict.breaches):
                click.echo(f"       - {each}")


@click.command()
@click.option("--seed", type=int, default=None, help="Which series; by chance when left out.")
@click.option("--runs", type=click.IntRange(1), default=None, help=f"How many.  [default: {RUNS}]")
@click.option("--whole", is_flag=True, help="Every fault at every moment, once.")
@click.option("--only", default="", help="FAULT@MOMENT, FAULT@ or @MOMENT, instead of a series.")
@click.option("--engine", type=click.Choice(kinds.names()), default="oci", show_default=True, help="Whose VE is moved.")
@click.option("--workers", type=click.IntRange(1, len(LETTERS)), default=3, show_default=True, help="Labs at a time.")
def main(seed: int | None, runs: int | None, whole: bool, only: str, engine: str, workers: int) -> None:
    """Break real migrations at every step and check the real hosts."""
    if os.geteuid() != 0:
        raise click.ClickException("the lab makes namespaces and mounts: run it as root")
    seed = int(time.time()) % 100_000 if seed is None else seed
    try:
        count = matrix.whole(engine) if whole else runs or RUNS
        trials = matrix.named(seed, only, engine) if only else matrix.series(seed, count, engine)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    trials = trials[:runs] if only and runs else trials
    remove_abandoned()
    click.echo(f"{len(trials)} runs, SEED={seed}")
    results = run_all(trials, min(workers, len(trials)))
    text = table.render(results)
    EVIDENCE.mkdir(parents=True, exist_ok=True)
    (EVIDENCE / "table.txt").write_text(f"SEED={seed}\n{text}\n")
    click.echo(f"\n{text}")
    sys.exit(1 if table.broken(results) else 0)


def run_all(trials: list[Trial], workers: int) -> list[Result]:
    """Carry them out on so many labs at a time."""
    series = Series(trials)
    names = [f"{letter}{os.getpid()}" for letter in LETTERS[:workers]]
    threads = [threading.Thread(target=series.work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return series.results


if __name__ == "__main__":
    main()
