"""The ownership records on disk: one small JSON file per VE.

Rule: `write` returns only when file and directory are on disk; nothing is answered to anyone before.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

from agents import places
from migrator.wire.codec import from_plain, to_plain
from migrator.wire.facts import Claim, Record


class Records:
    """All records of this host."""

    def __init__(self, directory: Path = places.RECORDS, boot_id: str = "") -> None:
        self._directory, self._boot_id = directory, boot_id
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for unfinished in directory.glob("*.new"):
            unfinished.unlink()  # an agent that ended while it wrote had not said so to anyone

    def read(self, ve: str) -> Record:
        """The record of a VE; `home` with order 0 when there is none."""
        try:
            text = (self._directory / f"{ve}.json").read_text()
        except FileNotFoundError:
            return Record(ve, Claim.HOME, 0)
        record: Record = from_plain(json.loads(text), Record)
        return record

    def all(self) -> tuple[Record, ...]:
        """Every record there is."""
        return tuple(self.read(path.stem) for path in sorted(self._directory.glob("*.json")))

    def write(self, record: Record) -> None:
        """Replace the record, durably."""
        record = replace(record, boot_id=self._boot_id)
        path = self._directory / f"{record.ve}.json"
        fresh = path.with_suffix(".new")
        with fresh.open("w") as file:
            json.dump(to_plain(record), file)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
