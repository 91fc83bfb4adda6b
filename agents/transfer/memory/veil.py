"""Let a dump see only the pages it should write: CRIU reads which pages exist from a file that we provide.

CRIU's dump asks ``/proc/PID/pagemap`` which pages have content and writes all of these. During the blackout nearly
all of them are on the target already. The dump therefore runs in a mount namespace of its own in which the pagemap
of each process of the VE is covered by a sparse file: the true entries for everything CRIU has to carry, nothing
for what we carry. CRIU then writes all metadata and hardly a page, in a time that does not follow the size of the
VE's memory. The VE and the host's own mounts are not touched; when the dump's process ends, the cover is gone.

Why it is exact: a page that CRIU does not see is one that ``areas`` calls ours, and the page store's set must equal
what the frozen source counted, or the target refuses to restore (``store``, ``lazy``).

CRIU prefers the ``PAGEMAP_SCAN`` ioctl where the kernel has it, which a plain file cannot answer; its own test switch
``CRIU_FAULT=135`` (CRIU 4.0 and later; "don't use PAGEMAP_SCAN") makes it read the file. An older CRIU reads the file
anyway, and refuses numbers it does not know: ``environment`` says which is wanted.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agents.transfer.memory import areas as process_areas
from agents.transfer.memory import kernel
from agents.transfer.memory.extents import PAGE_BYTES, Extent, Extents, intersect, normalised, subtract
from agents.transfer.memory.pagemap import ENTRY_BYTES, Pagemap, scan_works

_ADDRESS_END = 1 << 47
_MS_SLAVE = 1 << 19


@dataclass(frozen=True, slots=True)
class Veiled:
    """One process and the file that stands for its pagemap."""

    path: str
    covers: str


def environment(criu_version: tuple[int, int]) -> Mapping[str, str]:
    """What the dump's environment needs besides, so that CRIU reads the file."""
    return {"CRIU_FAULT": "135"} if criu_version >= (4, 0) and scan_works() else {}


def cover(process: process_areas.ProcessFacts, directory: Path) -> tuple[Veiled, Extents]:
    """Write the file for one *frozen* process; also returns the address ranges that it hides.

    ``directory`` must be on a file system with sparse files of 256 GiB (tmpfs).
    """
    everything = process_areas.areas(process)
    mine = normalised((area.start, area.end) for area in everything if area.ours)
    stacks = process_areas.stack_pages(process.pid)
    hidden = subtract(mine, stacks)
    shown = [(area.start, area.end) for area in everything if not area.ours and area.end <= _ADDRESS_END]
    path = directory / f"pagemap-{process.pid}"
    with Pagemap(process.pid) as true, path.open("wb") as file:
        file.truncate(_ADDRESS_END // PAGE_BYTES * ENTRY_BYTES)
        for span in (*shown, *intersect(stacks, mine)):
            _copy(true, span, file.fileno())
    return Veiled(str(path), f"/proc/{process.pid}/pagemap"), hidden


def _copy(true: Pagemap, span: Extent, file: int) -> None:
    entries = true.raw(span)
    if entries.count(0) < len(entries):
        os.pwrite(file, entries, span[0] // PAGE_BYTES * ENTRY_BYTES)


def main() -> None:
    """A process that waits, in a mount namespace of its own, to become the dump: started before the freeze.

    One line of JSON on its standard input says which pagemaps to cover (`veils`), the environment, the directory and
    the `argv` it then becomes: same process id, same output. Without a line it ends.
    """
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", kernel.MS_REC | _MS_SLAVE)
    line = sys.stdin.buffer.readline()
    if not line:
        return
    order = json.loads(line)
    for source, target in order["veils"]:
        kernel.mount(source, target, kernel.MS_BIND)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.environ.update(order["environment"])
    argv = order["argv"]
    os.execvp(argv[0], argv)
