"""Let a dump see only the pages it should write: CRIU reads which pages exist from a file that we provide.

CRIU's dump asks ``/proc/PID/pagemap`` which pages have content and writes all of these. During the blackout nearly
all of them are on the target already. The dump therefore runs in a mount namespace of its own in which the pagemap
of each frozen process of the VE is covered by a sparse file: the true entries for everything CRIU has to carry, nothing
for what we carry. CRIU then writes all metadata and hardly a page, in a time that does not follow the size of the
VE's memory. The VE and the host's own mounts are not touched; when the dump's process ends, the cover is gone.

Why it is exact: a page that CRIU does not see is one that ``areas`` calls ours, and the page store's set must equal
what the frozen source counted, or the target refuses to restore (``store``, ``lazy``).

CRIU prefers the ``PAGEMAP_SCAN`` ioctl where the kernel has it, which a plain file cannot answer. Whether the kernel has it CRIU
looks up in a file of what it found out earlier, ``/run/criu.kdat``. So the dump is shown another one, which CRIU itself wrote
a moment before while the ioctl was denied to it: with that it reads the pagemap as files, as on older kernels.
What it does not see that way (guards of MADV_GUARD_INSTALL) is noted in the images afterwards (``images.add_guards``).
"""

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from agents.transfer.memory import areas as process_areas
from agents.transfer.memory import kernel
from agents.transfer.memory.extents import PAGE_BYTES, Extent, intersect, normalised, subtract, union
from agents.transfer.memory.pagemap import ENTRY_BYTES, Pagemap

KDAT = Path("/run/criu.kdat")
"""What CRIU knows of the kernel it runs on; written by the first CRIU of a boot."""
_ADDRESS_END = 1 << 47
_MS_SLAVE = 1 << 19


@dataclass(frozen=True, slots=True)
class Veiled:
    """One process and the file that stands for its pagemap."""

    path: str
    covers: str
    guards: tuple[Extent, ...] = ()
    """Where the process has guards, which the file does not tell."""


def cover(process: process_areas.ProcessFacts, directory: Path) -> Veiled:
    """Write the file for one *frozen* process.

    ``directory`` must be on a file system with sparse files of 256 GiB (tmpfs).
    """
    everything = process_areas.areas(process)
    mine = normalised((area.start, area.end) for area in everything if area.ours)
    stacks = process_areas.stack_pages(process.pid)
    shown = [(area.start, area.end) for area in everything if not area.ours and area.end <= _ADDRESS_END]
    path = directory / f"pagemap-{process.pid}"
    with Pagemap(process.pid) as true, path.open("wb") as file:
        file.truncate(_ADDRESS_END // PAGE_BYTES * ENTRY_BYTES)
        guards = true.guards(normalised((area.start, area.end) for area in everything if area.end <= _ADDRESS_END))
        for span in subtract(union(shown, intersect(stacks, mine)), guards):
            _copy(true, span, file.fileno())
    return Veiled(str(path), f"/proc/{process.pid}/pagemap", tuple(guards))


def _copy(true: Pagemap, span: Extent, file: int) -> None:
    entries = true.raw(span)
    if entries.count(0) < len(entries):
        os.pwrite(file, entries, span[0] // PAGE_BYTES * ENTRY_BYTES)


def main(directory: Path) -> None:
    """A process in a mount namespace of its own that becomes the runtime that dumps: whoever covers the pagemaps in there does so
    for it alone.

    It says one line when it is ready: empty, or why it cannot. One line of JSON on its standard input then says the
    environment, the directory and the `argv` it becomes: same process id, same output. Without a line it ends. `directory`
    is for its files.
    """
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", kernel.MS_REC | _MS_SLAVE)
    told, found = os.dup(1), ""
    null = os.open(os.devnull, os.O_RDWR)
    try:
        _hide_scan(directory)
    except OSError as error:
        found = str(error)
    os.write(told, found.encode() + b"\n")
    os.close(told)
    line = sys.stdin.buffer.readline()
    if not line:
        return
    order = json.loads(line)
    if order["directory"]:
        os.chdir(order["directory"])
    os.dup2(null, 0)
    os.environ.update(order["environment"])
    argv = order["argv"]
    os.execvp(argv[0], argv)


def _hide_scan(directory: Path) -> None:
    """Let CRIU find out in this namespace, as far as PAGEMAP_SCAN goes, what it would on an older kernel."""
    run = directory / "run"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    if not (child := os.fork()):
        _find_out(run)
    os.waitpid(child, 0)
    learnt = run / KDAT.name
    if not learnt.exists():
        raise OSError(f"criu check wrote no {KDAT}")
    KDAT.touch()
    kernel.mount(str(learnt), str(KDAT), kernel.MS_BIND)


def _find_out(run: Path) -> None:
    """In a process of its own: `criu check`, whose /run is `run`, without PAGEMAP_SCAN."""
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount(str(run), str(KDAT.parent), kernel.MS_BIND)
        kernel.refuse_pagemap_scan()
        os.execvp("criu", ["criu", "check"])
    finally:
        os._exit(127)
