"""Failures on request: a file names steps of vzctl that are to fail, and how.

Format of FILE, JSON: {"chkpnt.dump": {"how": "error", "text": "Invalid argument", "times": 1}}. Ways:
`error` (the step fails), `slow` (it takes `seconds` more), `abort-after` (the work is done, then vzctl ends by SIGABRT: the
known double free of 4.11.1), `die-before` (vzctl ends by SIGKILL before it), `die-after` (after it).
"""

import json
import os
import signal
import time
from pathlib import Path

FILE = Path("/etc/vz/lab-faults.json")


class InjectedError(Exception):
    """The step is to fail; the text is what the kernel would say."""


def before(step: str) -> None:
    """Called as a step begins."""
    fault = _take(step, ("error", "slow", "die-before"))
    match fault.get("how"):
        case "error":
            raise InjectedError(str(fault.get("text", "Device or resource busy")))
        case "slow":
            time.sleep(float(str(fault.get("seconds", 1))))
        case "die-before":
            os.kill(os.getpid(), signal.SIGKILL)


def after(step: str) -> None:
    """Called when a command that contained this step has done all its work."""
    match _take(step, ("abort-after", "die-after")).get("how"):
        case "abort-after":
            signal.signal(signal.SIGABRT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGABRT)
        case "die-after":
            os.kill(os.getpid(), signal.SIGKILL)


def _take(step: str, ways: tuple[str, ...]) -> dict[str, object]:
    try:
        faults: dict[str, dict[str, object]] = json.loads(FILE.read_text())
    except FileNotFoundError:
        return {}
    fault = faults.get(step, {})
    if fault.get("how") not in ways:
        return {}
    left = int(str(fault.get("times", 1))) - 1
    if left <= 0:
        faults.pop(step)
    else:
        faults[step] = {**fault, "times": left}
    FILE.write_text(json.dumps(faults))
    return fault
