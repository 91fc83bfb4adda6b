"""What a move costs its hosts: bytes on their lines, processor time and memory, read outside of them.

Rule: the counters are the kernel's, of the host's own cgroup and interface; whoever moves the VE cannot touch them.
"""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from scenarios.lab import groups
from scenarios.lab.hosts import Host

SAMPLE_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class Use:
    """What one host used, its VE included."""

    cpu_s: float
    memory_before_mib: float
    memory_peak_mib: float
    """Anonymous memory and tmpfs of all processes; page cache does not count. The highest of a sample every 50 ms."""
    sent_bytes: int
    received_bytes: int


class Meter:
    """Measures one host while it is entered."""

    def __init__(self, host: Host) -> None:
        self._group = host.group
        self._memory = _memory_stat(host)
        self._device = Path(f"/proc/{host.pid}/net/dev")
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._cpu_us, self._bytes = self._cpu(), self._line()
        self._before = self._peak = self._used()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._peak = max(self._peak, self._used())
        sent, received = self._line()
        self.use = Use(
            (self._cpu() - self._cpu_us) / 1e6,
            self._before / (1 << 20),
            self._peak / (1 << 20),
            sent - self._bytes[0],
            received - self._bytes[1],
        )

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_EVERY_S):
            self._peak = max(self._peak, self._used())

    def _used(self) -> int:
        """Bytes that cannot be given back: v1 calls them total_rss and total_shmem, v2 anon and shmem."""
        stat = _pairs(self._memory)
        return stat.get("total_rss", stat.get("anon", 0)) + stat.get("total_shmem", stat.get("shmem", 0))

    def _cpu(self) -> int:
        return _pairs(self._group / "cpu.stat")["usage_usec"]

    def _line(self) -> tuple[int, int]:
        """Bytes sent and received on eth0 since the host booted."""
        for line in self._device.read_text().splitlines():
            name, _, counters = line.partition(":")
            if name.strip() == "eth0":
                words = counters.split()
                return int(words[8]), int(words[0])
        raise LookupError(f"no eth0 in {self._device}")


def _memory_stat(host: Host) -> Path:
    limited = groups.limited(host.lab, host.name)
    return (limited if limited.is_dir() else host.group) / "memory.stat"


def _pairs(path: Path) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in path.read_text().splitlines())}
