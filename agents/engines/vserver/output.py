"""PURE. What util-vserver's programs print, as values. Always the output under LC_ALL=C.

Rule: what does not look as documented is None or left out, never half understood; and no state is read from here:
whether a guest runs is said by the exit status of `running` and `status` alone.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

TIMEOUT_TEXT = "A timeout occured"
"""Printed by `stop` (which ends with 0 all the same) when it had to kill the guest."""
NOT_TAGGED = "Invalid argument"
ATTRIBUTE_LETTERS = "awhmbuicx"
VCI_NO_DYNAMIC = 1 << 0
VCI_COW = 1 << 8 | 1 << 9
VCI_NETWORK_V2 = 1 << 11


@dataclass(frozen=True, slots=True)
class Row:
    """One guest in `vserver-stat`."""

    xid: int
    processes: int
    rss_bytes: int
    name: str
    """Cut at 20 characters: match rows by xid."""


def stat_rows(text: str) -> tuple[Row, ...]:
    """Rows of `vserver-stat`, which prints fixed columns. A guest without a process has none."""
    return tuple(row for line in text.splitlines()[1:] if (row := _row(line)) is not None)


def _row(line: str) -> Row | None:
    try:
        return Row(int(line[0:5]), int(line[5:10]), _size(line[17:24]), line[55:].strip())
    except ValueError:
        return None


def _size(text: str) -> int:
    match = re.fullmatch(r"\s*([\d.]+)([KMGT]?)\s*", text)
    if match is None:
        raise ValueError(text)
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2] or " "))


@dataclass(frozen=True, slots=True)
class SysInfo:
    """`vserver-info - SYSINFO`, read by label."""

    labels: Mapping[str, str]

    @property
    def version(self) -> str:
        """Of util-vserver."""
        return self.labels.get("util-vserver", "").partition(";")[0]

    @property
    def api(self) -> int | None:
        """VS-API; None when this is not a VServer kernel."""
        return _hex(self.labels.get("VS-API", ""))

    @property
    def vci(self) -> int | None:
        """Bits of what the kernel was built with."""
        return _hex(self.labels.get("VCI", ""))

    @property
    def kernel(self) -> str:
        """Kernel release."""
        return self.labels.get("Kernel", "")

    @property
    def configs(self) -> str:
        """Directory of the guests' configurations."""
        return self.labels.get("cfg-Directory", "/etc/vservers").rstrip("/")

    @property
    def roots(self) -> str:
        """Directory of the guests' roots."""
        return self.labels.get("vserver-Rootdir", "/vservers").rstrip("/")

    @property
    def run(self) -> str:
        """Directory of the files that hold the running contexts' ids."""
        return self.labels.get("pkgstate-Directory", "/var/run/vservers").rstrip("/")


def sysinfo(text: str) -> SysInfo:
    """The report's labels; nested or unlabelled lines are left out."""
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return SysInfo({label.strip(): value.strip() for label, value in pairs})


def _hex(text: str) -> int | None:
    return int(text, 16) if re.fullmatch(r"0x[0-9a-fA-F]+", text) else None


@dataclass(frozen=True, slots=True)
class Marked:
    """A file with attributes that rsync does not carry."""

    path: str
    barrier: bool
    iunlink: bool
    immutable: bool
    cow: bool


def attributes(text: str, root: str) -> Iterator[Marked]:
    """Files with barrier, iunlink or immutable set, from `showattr -R` of `root`.

    A name may contain newlines, so an entry begins only where nine letters and the root's path stand; what follows up
    to the next such place belongs to the name.
    """
    start = re.compile(rf"^(?:ERR )?([-a-zA-Z]{{9}}) (?={re.escape(root)}(?:/|\n|$))", re.MULTILINE)
    found = list(start.finditer(text))
    for match, after in zip(found, [*found[1:], None], strict=True):
        letters = match[1]
        path = text[match.end() : after.start() if after else len(text)].removesuffix("\n")
        marked = Marked(path, letters[4] == "B", letters[5] == "U", letters[6] == "I", letters[7] == "C")
        if marked.barrier or marked.iunlink or marked.immutable:
            yield marked


def disk_use(text: str) -> tuple[int, int] | None:
    """(KiB, inodes) from `vdu --script`."""
    match = re.fullmatch(r"\s*(\d+)\s+(\d+)\s*", text)
    return (int(match[1]), int(match[2])) if match else None


def cache_name(xid: int, directory: str) -> str:
    """Name of the file that keeps a disk limit's counters between stop and start."""
    return f"{xid}_{directory.replace('/', '_')}"


def cache_text(space_kib: int, inodes: int) -> str:
    """Content of that file."""
    return f"space_used={space_kib}\ninodes_used={inodes}\n"


def unescape_mount(word: str) -> str:
    """A field of /proc/PID/mounts or mountinfo."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), word)


@dataclass(frozen=True, slots=True)
class Mounted:
    """One mount as a guest's process sees it."""

    source: str
    target: str
    kind: str
    options: str


def mounted(text: str) -> tuple[Mounted, ...]:
    """/proc/PID/mounts."""
    rows = (line.split() for line in text.splitlines())
    return tuple(
        Mounted(unescape_mount(row[0]), unescape_mount(row[1]), row[2], row[3]) for row in rows if len(row) >= 4
    )
