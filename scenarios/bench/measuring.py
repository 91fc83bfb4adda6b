"""One run: a fresh VE is started, moved by one way, asked for its account, checked, and removed.

Rule: the blackout is the longest hole in the VE's own clock between the command and some time after it; what the mover says
is noted beside it. A run that fails is a result with its reason, and the lab is made anew after it.
"""

import subprocess
import time
from dataclasses import dataclass, field, replace

from scenarios.bench.meters import Meter, Use
from scenarios.bench.port import Moved, Start, Way
from scenarios.bench.stage import Stage
from scenarios.bench.workload import Account, BenchError, Workload, ask
from scenarios.lab.hosts import Host, HostError
from scenarios.lab.programs import ProgramError

BEFORE_S = 3.0
"""The VE runs undisturbed for so long first: its rate and the longest hole in this time are what the move adds to."""
AFTER_S = 2.0
"""And so long afterwards, in which memory that is brought lazily makes it wait again."""
STALL_MS = 20.0
"""Shorter holes are this machine's scheduling."""
EXPECTED = (BenchError, HostError, ProgramError, OSError, subprocess.TimeoutExpired, ValueError)


@dataclass(frozen=True, slots=True)
class Work:
    """How fast the VE did its own work: pages and units per second, units per second of processor time."""

    pages_per_s: float = 0.0
    units_per_s: float = 0.0
    units_per_cpu_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Run:
    """What one run gave."""

    way: str
    start: Start
    number: int
    workload: Workload
    failure: str = ""
    """Why it has no figures; empty: it went well."""
    blackout_ms: float = 0.0
    stalls_ms: tuple[float, ...] = ()
    """Other holes of STALL_MS and more, between the command and AFTER_S past its end."""
    noise_ms: float = 0.0
    """The longest hole in the time before the move."""
    total_s: float = 0.0
    """From the command to its end: the VE runs on the target, the source has nothing of it."""
    wire_bytes: int = 0
    """Sent and received on the source's line."""
    wire_ratio: float = 0.0
    """The same over memory, files that had to go, and what was written to memory meanwhile."""
    source: Use | None = None
    target: Use | None = None
    before: Work = field(default_factory=Work)
    during: Work = field(default_factory=Work)
    """Between the command and the blackout."""
    moved: Moved = field(default_factory=Moved)


def measure(stage: Stage, way: Way, start: Start, workload: Workload, number: int = 1) -> Run:
    """One run; never raises for what a way may do wrong."""
    blank = Run(way.name, start, number, workload)
    try:
        ve = stage.new_id()
        run = _measured(stage, way, ve, blank)
        way.remove(stage, ve)
        return run
    except EXPECTED as error:
        stage.renew()
        return replace(blank, failure=str(error) or repr(error))


def _measured(stage: Stage, way: Way, ve: str, blank: Run) -> Run:
    way.place(stage, ve, blank.workload)
    pid = way.pid(stage.source, ve)
    ask(stage.source, pid, "state")
    if blank.start is Start.WARM:
        way.warm(stage, ve)
    ask(stage.source, pid, "reset")
    undisturbed = _after(stage.source, pid, BEFORE_S)
    with Meter(stage.source) as source, Meter(stage.target) as target:
        began_s = time.time()
        moved = way.move(stage, ve)
        ended_s = time.time()
    pid = way.pid(stage.target, ve)
    account = _after(stage.target, pid, AFTER_S)
    log = stage.target.path(f"/proc/{pid}/root/data/log").read_text()
    _check(stage, pid)
    return _run(blank, moved, (began_s, ended_s), (source.use, target.use), (undisturbed, account), log)


def _after(host: Host, pid: int, wait_s: float) -> Account:
    """Its account when `wait_s` of its own clock have gone by."""
    began_us = ask(host, pid, "state").now_us
    while (account := ask(host, pid, "state")).now_us < began_us + wait_s * 1e6:
        time.sleep(max(0.0, (began_us - account.now_us) / 1e6 + wait_s))
    return account


def _check(stage: Stage, pid: int) -> None:
    """Raises BenchError when anything of the VE is not what it was."""
    account = ask(stage.target, pid, "verify")
    if wrong := account.wrong():
        raise BenchError(f"the VE arrived damaged: {wrong}")
    if not stage.files_are_right(f"/proc/{pid}/root/files"):
        raise BenchError("the VE arrived damaged: its files are not those that it was made with")


def _run(
    blank: Run,
    moved: Moved,
    clock_s: tuple[float, float],
    uses: tuple[Use, Use],
    accounts: tuple[Account, Account],
    log: str,
) -> Run:
    (began_s, ended_s), (source, target), (undisturbed, account) = clock_s, uses, accounts
    gaps = [gap for gap in account.gaps_us if gap[1] > began_s * 1e6]
    if not gaps:
        raise BenchError("the VE saw no hole in its clock at all: it cannot have been moved")
    longest = max(gaps, key=_length_ms)
    others = sorted((_length_ms(gap) for gap in gaps if gap != longest and _length_ms(gap) >= STALL_MS), reverse=True)
    workload = blank.workload
    rewritten = written_between(log, began_s * 1e6, longest[0])
    files = workload.files_mb * 1_000_000 if blank.start is Start.COLD else 0
    wire = source.sent_bytes + source.received_bytes
    return replace(
        blank,
        blackout_ms=_length_ms(longest),
        stalls_ms=tuple(others),
        noise_ms=max(map(_length_ms, undisturbed.gaps_us), default=0.0),
        total_s=ended_s - began_s,
        wire_bytes=wire,
        wire_ratio=wire / ((workload.memory_mib << 20) + files + rewritten),
        source=source,
        target=target,
        before=work_between(log, undisturbed.now_us - BEFORE_S * 1e6, began_s * 1e6),
        during=work_between(log, began_s * 1e6, longest[0]),
        moved=moved,
    )


def _length_ms(gap: tuple[int, int]) -> float:
    return (gap[1] - gap[0]) / 1000


def written_between(log: str, from_us: float, until_us: float) -> int:
    """Bytes of memory that the VE rewrote between two points of the real-time clock, from its log."""
    rows = _rows(log, from_us, until_us)
    return (rows[-1][2] - rows[0][2]) * 4096 if rows else 0


def work_between(log: str, from_us: float, until_us: float) -> Work:
    """The VE's rates between two points of the real-time clock, from its log."""
    rows = _rows(log, from_us, until_us)
    if len(rows) < 2:
        return Work()
    (first_us, _, pages, units, cpu_us), (last_us, _, last_pages, last_units, last_cpu_us) = rows[0], rows[-1]
    seconds, cpu_s = (last_us - first_us) / 1e6, (last_cpu_us - cpu_us) / 1e6
    return Work(
        (last_pages - pages) / seconds,
        (last_units - units) / seconds,
        (last_units - units) / cpu_s if cpu_s > 0 else 0.0,
    )


def _rows(log: str, from_us: float, until_us: float) -> list[list[int]]:
    """Lines of its log: real-time clock, ticks, pages written, units, their processor time; times in microseconds."""
    rows = [[int(word) for word in line.split()] for line in log.splitlines()]
    return [row for row in rows if from_us <= row[0] <= until_us]
