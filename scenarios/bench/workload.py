"""What is moved: a VE whose one program keeps account of itself, and how that program is asked for its account.

Rule: every way moves the same bundle with the same program and files; only who moves it differs. The program is
scenarios/lab/workloads/pages.c, compiled when the bench starts.
"""

import json
import shutil
import subprocess
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from scenarios.lab.hosts import Host

SOURCE = Path(__file__).parent.parent / "lab/workloads/pages.c"
PROGRAM = "/usr/local/bin/pages"
"""Where the program lies on the hosts and in the VE."""
MIB = 1 << 20
ANSWER_LIMIT_S = 60.0
ASK_EVERY_S = 0.01


class BenchError(RuntimeError):
    """The bench or one run of it cannot go on; says why."""


@dataclass(frozen=True, slots=True)
class Workload:
    """How big the VE is and what it does."""

    memory_mib: int = 512
    """Random private memory of its first process."""
    dirty_mb_s: float = 20.0
    """10^6 bytes of it rewritten per second, page after page."""
    processes: int = 1
    """The others have 256 KiB each, which they rewrite and check."""
    files: int = 4000
    files_mb: int = 221
    """10^6 bytes in all files together, random as well."""
    hot_files: int = 0
    """So many files of 2 KiB, each rewritten once a second."""
    busy: bool = False
    """Whether a second thread works flat out and counts its work."""

    def argv(self) -> list[str]:
        """The command line of its first process."""
        rate = str(round(self.dirty_mb_s * 1e6))
        return [PROGRAM, str(self.memory_mib), rate, str(self.processes), str(self.hot_files), str(int(self.busy))]

    @property
    def words(self) -> str:
        """In words, for a person."""
        processes = "one process" if self.processes == 1 else f"{self.processes} processes"
        return (
            f"{processes}, {self.memory_mib} MiB of random private memory, {self.dirty_mb_s:g} MB/s of it rewritten, "
            f"{self.files:,} files of {self.files_mb} MB in all" + (f", {self.hot_files} hot" if self.hot_files else "")
        )


@dataclass(frozen=True, slots=True)
class Account:
    """What the VE says of itself."""

    now_us: int
    ticks: int
    pages: int
    written: int
    work_units: int
    work_cpu_us: int
    log_bytes: int
    hot_writes: int
    verified: bool
    wrong_pages: int
    first_wrong_page: int
    wrong_files: int
    log_right: bool
    gaps_us: list[tuple[int, int]]
    """Holes in its clock of 5 ms and more: from, until, on the machine's real-time clock. At most the 64 longest."""

    @classmethod
    def of(cls, text: str) -> "Account":
        """Of its line of JSON."""
        data: dict[str, Any] = json.loads(text)
        data["gaps_us"] = [(int(began), int(ended)) for began, ended in data["gaps_us"]]
        return cls(**{field.name: data[field.name] for field in fields(cls)})

    def wrong(self) -> str:
        """What it found wrong with itself, in words; empty: nothing."""
        found = []
        if self.wrong_pages:
            found.append(f"{self.wrong_pages} wrong pages, the first is {self.first_wrong_page}")
        if self.wrong_files:
            found.append(f"{self.wrong_files} wrong files")
        if not self.log_right:
            found.append("its log is not what it appended")
        return ", ".join(found)


def compile_program(directory: Path) -> Path:
    """The program for these hosts, static. Raises BenchError; installs gcc by apt where there is none."""
    if shutil.which("gcc") is None or not _has_static_libc():
        _install_gcc()
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / "pages"
    argv = ["gcc", "-O2", "-Wall", "-static", "-pthread", "-o", str(program), str(SOURCE)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"the workload cannot be compiled: {' '.join(argv)}\n{done.stderr.strip()[-2000:]}")
    return program


def _has_static_libc() -> bool:
    done = subprocess.run(["gcc", "-print-file-name=libc.a"], capture_output=True, text=True, check=False)
    return done.stdout.strip().startswith("/")  # gcc repeats the bare name of a file that it does not find


def _install_gcc() -> None:
    argv = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "gcc", "libc6-dev"]
    print("installing gcc and libc6-dev for the workload", flush=True)
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise BenchError("the workload is a C program: install gcc and a static C library") from None
    if done.returncode:
        raise BenchError(f"the workload needs gcc, and {' '.join(argv)} failed: {done.stderr.strip()[-1000:]}")


def ask(host: Host, pid: int, word: str) -> Account:
    """Ask the VE whose process `pid` is (as the host numbers it). Raises BenchError when it does not answer."""
    data = host.path(f"/proc/{pid}/root/data")
    deadline_s = time.monotonic() + ANSWER_LIMIT_S
    try:
        (data / "answer").unlink(missing_ok=True)
        (data / "ask").write_text(word)
        while time.monotonic() < deadline_s:
            if (data / "answer").exists():
                return Account.of((data / "answer").read_text())
            time.sleep(ASK_EVERY_S)
    except OSError as error:
        raise BenchError(f"the VE on {host.name} (process {pid}) cannot be asked: {error}") from error
    raise BenchError(f"the VE on {host.name} (process {pid}) did not answer {word!r} within {ANSWER_LIMIT_S:.0f} s")
