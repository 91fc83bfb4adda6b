"""One budget of bandwidth for files and memory of one migration: what the one does not take, the other may.

Rule: both together never take more than the budget. rsync's limit is fixed when a pass begins, so it gets half of the budget
while memory moves beside it; the memory gets what rsync is seen to leave, moment by moment, and all of it when rsync is done.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class Shares:
    """``total_bytes_per_s`` 0: no limit, for either."""

    total_bytes_per_s: int
    beside_memory: bool
    _files_take: float = -1.0

    @property
    def files_bytes_per_s(self) -> int:
        """For a pass that begins now."""
        return self.total_bytes_per_s // (2 if self.beside_memory else 1)

    @property
    def memory_bytes_per_s(self) -> int:
        """From now on."""
        if not self.total_bytes_per_s:
            return 0
        least = self.total_bytes_per_s - self.files_bytes_per_s
        return least if self._files_take < 0 else max(least, self.total_bytes_per_s - int(self._files_take))

    def files_take(self, bytes_per_s: float) -> None:
        """What rsync was seen to take last."""
        self._files_take = bytes_per_s
