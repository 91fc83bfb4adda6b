"""Quirks and faults that can be switched: one file each below /etc/vserver-emulation, its content the value.

Rule: without any file the programs behave like the real ones, quirks included. `off` switches a quirk off; a fault is
off until its file names whom it hits.
"""

from pathlib import Path

DIRECTORY = Path("/etc/vserver-emulation")

QUIRKS = {
    "stop-removes-addresses": "stop of a guest that does not run takes its addresses off the host all the same",
    "start-ignores-devices": "start ends with 0 although a device or address could not be set up",
    "start-ignores-mounts": "start ends with 0 although an fstab entry could not be mounted",
    "failed-init-stays": "a failed init script leaves the context with whatever it started",
    "silent-nid-clash": "a second guest with the same network context id joins it without a word",
    "stop-always-0": "stop ends with 0 even if the guest still runs",
    "tagging": "the file system keeps tags",
    "cow": "the kernel breaks links of immutable files on write",
    "ipv6": "the kernel's second version of guest networking",
    "stat-cuts-names": "vserver-stat cuts names at 20 characters",
    "name-limit": "the kernel keeps 64 characters of a context's name",
    "vserver-kernel": "the running kernel is a VServer kernel",
}
FAULTS = {
    "uninterruptible": "names of guests whose processes no signal reaches",
    "still-running": "names of guests that stop leaves running although it says otherwise",
    "start-fails": "names of guests whose context cannot be created",
    "dynamic-contexts": "`on`: an old kernel, which hands out context ids",
}


def on(quirk: str) -> bool:
    """Whether a quirk holds."""
    if quirk not in QUIRKS:
        raise KeyError(quirk)
    return _value(quirk) != "off"


def hits(fault: str, name: str = "on") -> bool:
    """Whether a fault is switched on for this guest."""
    if fault not in FAULTS:
        raise KeyError(fault)
    return name in _value(fault).split()


def number(name: str, default: float) -> float:
    """A number that tests set smaller, such as `lock-wait-s`."""
    value = _value(name)
    return float(value) if value else default


def _value(name: str) -> str:
    try:
        return (DIRECTORY / name).read_text().strip()
    except FileNotFoundError:
        return ""
