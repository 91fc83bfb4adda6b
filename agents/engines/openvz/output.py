"""PURE. What vzctl and its companions print, as values.

Rule: a status line is found by its anchored pattern among whatever warnings surround it; a status of the program that
is a signal's, or none, is unknown and never a failure.
"""

import json
import re
from dataclasses import dataclass
from enum import StrEnum

from migrator.wire.facts import VeState

CT_ID_MAX = 2147483644
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class Dialect(StrEnum):
    """Which vzctl this host has, and by what it makes checkpoints."""

    KERNEL = "kernel"
    """4.x on an OpenVZ kernel: suspend, dump, resume, kill, undump as steps of their own."""
    CRIU = "criu"
    """4.x on an ordinary kernel: one checkpoint that ends the VE, one restore that lets it run."""
    SEVEN = "seven"
    """OpenVZ 7 and later: `vzctl suspend` and `resume`, ids are UUIDs, a frozen VE is `paused`."""


class Code:
    """Exit codes that are told apart."""

    OK = 0
    CHECKPOINT = 16
    RESTORE = 17
    NOT_RUNNING = 31
    RUNNING = 32
    STOP = 33
    NOT_MOUNTED = 40
    QUOTA_OFF = (60, 61, 66)
    SCRIPT = 79
    START_DISABLED = 105


@dataclass(frozen=True, slots=True)
class Status:
    """The answer of `vzctl status`."""

    exists: bool
    mounted: bool
    running: bool
    suspended: bool
    paused: bool = False
    """Said by OpenVZ 7 only; elsewhere a frozen VE is called running."""

    @property
    def state(self) -> VeState:
        """As far as the words tell: whether one called running stands still, 4.x does not say."""
        if self.paused:
            return VeState.FROZEN
        if self.running:
            return VeState.RUNNING
        if self.suspended:
            return VeState.SUSPENDED
        return VeState.STOPPED if self.exists else VeState.ABSENT


STATUS = re.compile(
    r"^(?P<head>CTID|VEID) (?P<ve>\S+) (?P<exists>exist|deleted) (?P<mounted>mounted|unmounted) "
    r"(?P<run>running|down|paused|suspended)(?P<more> suspended)?\s*$",
    re.MULTILINE,
)


def status(text: str, ve: str) -> Status | None:
    """The status of this VE; None when the text does not say it."""
    for found in STATUS.finditer(text):
        if found["ve"] == ve:
            return Status(
                exists=found["exists"] == "exist",
                mounted=found["mounted"] == "mounted",
                running=found["run"] in ("running", "paused"),
                suspended=found["run"] == "suspended" or found["more"] is not None,
                paused=found["run"] == "paused",
            )
    return None


def version(text: str) -> str:
    """`vzctl version 4.11.1` and `vzctl v.9.0.1`; empty when it is neither."""
    found = re.search(r"^vzctl (?:version |v\.? ?)(\S+)", text, re.MULTILINE)
    return found.group(1) if found else ""


def dialect(version_text: str, *, openvz_kernel: bool) -> Dialect:
    """Told from the version and from whether the kernel is OpenVZ's."""
    first = version(version_text).partition(".")[0]
    if first.isdigit() and int(first) >= 7:
        return Dialect.SEVEN
    return Dialect.KERNEL if openvz_kernel else Dialect.CRIU


def listed(text: str) -> list[dict[str, object]] | None:
    """`vzlist -j`; None when the output is no list: with code 0 too, that does not mean that there are no VEs."""
    begin, end = text.find("["), text.rfind("]")
    if begin < 0 or end < begin:
        return None
    try:
        found = json.loads(text[begin : end + 1])
    except ValueError:
        return None
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else None


LISTED_STATES = {
    "running": VeState.RUNNING,
    "paused": VeState.FROZEN,
    "stopped": VeState.STOPPED,
    "mounted": VeState.STOPPED,
    "suspended": VeState.SUSPENDED,
}


def valid_id(ve: str) -> bool:
    """Whether this can be a VE's id: a number of 4.x, or a UUID of OpenVZ 7."""
    if ve.isascii() and ve.isdigit():
        return ve == str(int(ve)) and 0 < int(ve) <= CT_ID_MAX
    return UUID.fullmatch(ve) is not None


def unknown(code: int | None) -> bool:
    """Whether a program's status tells nothing: it was ended by a signal (also as a shell would say it), or not seen.

    vzctl 4.11.1 frees DUMPDIR twice at the end of each chkpnt and restore; a newer libc ends it then by SIGABRT or
    SIGSEGV, its work done.
    """
    return code is None or code < 0 or code in (134, 135, 136, 137, 139, 143)


DONE: dict[str, tuple[str, ...]] = {
    "chkpnt": ("Checkpointing completed successfully", "Checkpointing finished successfully"),
    "restore": ("Restoring completed successfully",),
}


def finished(verb: str, text: str) -> bool:
    """Whether it said that its work was done, whatever its status."""
    return any(line in text for line in DONE[verb])
