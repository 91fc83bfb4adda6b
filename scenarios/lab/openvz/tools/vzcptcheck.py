"""The emulated vzcptcheck: the checkpoint's version and the CPU's features, asked or compared."""

import sys
from pathlib import Path

from .ct import ids

FEATURES = ("fxsr", "sse", "sse2", "sse4_1", "sse4_2", "cx16", "avx", "avx2", "xsave", "popcnt", "ssse3", "fma")
OVERRIDE = Path("/etc/vz/lab-cpt.conf")


def main(argv: list[str] | None = None) -> int:
    """Run vzcptcheck; 0 fits, 1 usage or system error, 2 does not fit."""
    words = list(sys.argv[1:] if argv is None else argv)
    match words:
        case ["version"]:
            print(version())
        case ["version", number] if number.isdigit():
            return _reject(f"CPT version {number} rejected: can't migrate", int(number) > version())
        case ["caps"]:
            print(caps())
        case ["caps", first] if int(first, 0) not in ids():
            return _reject("Insufficient CPU capabilities: can't migrate", bool(int(first, 0) & ~caps()))
        case ["caps", _]:
            print(caps())
        case ["caps", _, mask]:
            # As vzmigrate uses it: may a container that uses our features run where `mask` is all there is?
            return _reject("Insufficient CPU capabilities: can't migrate", bool(caps() & ~int(mask, 0)))
        case _:
            print("Usage: vzcptcheck {version [<version>]|caps [<CTID>] [<caps>]}", file=sys.stderr)
            return 1
    return 0


def _reject(text: str, rejected: bool) -> int:
    if rejected:
        print(text, file=sys.stderr)
    return 2 if rejected else 0


def version() -> int:
    """Version of the dump format; OVERRIDE may say another, for tests."""
    return _override().get("version", 7)


def caps() -> int:
    """A bit per feature of FEATURES that this CPU has."""
    flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")).split()
    here = sum(1 << bit for bit, name in enumerate(FEATURES) if name in flags)
    return _override().get("caps", here)


def _override() -> dict[str, int]:
    try:
        lines = OVERRIDE.read_text().splitlines()
    except FileNotFoundError:
        return {}
    return {key: int(value, 0) for key, _, value in (line.partition("=") for line in lines) if value}
