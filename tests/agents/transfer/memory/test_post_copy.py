"""A part of the memory comes from the source when the process runs already: no page is ever wrong, whoever dies meanwhile."""

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.transfer.lines import streams
from agents.transfer.memory.extents import size_bytes, subtract
from agents.transfer.memory.filling import Filling, Kind, Note, Space
from agents.transfer.memory.frames import FrameReader, write_frame
from agents.transfer.memory.frames import Kind as FrameKind
from agents.transfer.memory.missing import Missing, Segment
from agents.transfer.memory.store import HeldSpace
from tests.agents.transfer.memory.test_guardian import (
    BASE,
    MIB,
    PAGE,
    Restore,
    held,
    kill_both_in_turn,
    kill_guardian,
    kill_worker,
    restored,
)

__all__ = ["held", "restored"]
LIMIT_S = 60.0


class Lender:
    """The source: gives what is asked for, over one stream after another, until it hears that all is there."""

    def __init__(self, held: HeldSpace, restore: Restore, breaks_after: int = 0) -> None:
        self._held, self._restore, self._breaks_after = held, restore, breaks_after
        self.done = False
        self.streams = self.asks = 0
        self.largest_bytes = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self.done and self._lend():
            pass

    def _lend(self) -> bool:
        """One stream, to its end; False: nobody wants one."""
        pages_in, pages_out = os.pipe()
        wants_in, wants_out = os.pipe()
        try:
            socket.send_fds(self._restore.lend, [b"s"], [pages_in, wants_out])
        except OSError:
            return False
        finally:
            os.close(pages_in)
            os.close(wants_out)
        self.streams += 1
        try:
            self._serve(pages_out, wants_in)
        except OSError:
            pass
        finally:
            os.close(pages_out)
            os.close(wants_in)
        return True

    def _serve(self, pages_out: int, wants_in: int) -> None:
        frames, write = FrameReader(streams.reader(wants_in)), streams.writer(pages_out)
        number = 0
        while (frame := frames.next()) is not None:
            if frame.kind is FrameKind.DONE:
                self.done = True
                return
            number += 1
            self.asks += 1
            self.largest_bytes = max(self.largest_bytes, size_bytes(frame.extents))
            if number == self._breaks_after:
                return
            data = b"".join(os.pread(self._held.fd, end - start, start) for start, end in frame.extents)
            write_frame(write, FrameKind.PAGES, frame.space, frame.extents, data)

    def end(self) -> None:
        """Returns when it has."""
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()


def owing(held: HeldSpace) -> HeldSpace:
    """Of the same memory, pieces of 37 pages are here and the 91 after each are owed; what is owed is not in the store."""
    here = [
        (start, min(start + 37 * PAGE, BASE + MIB * 256 * PAGE))
        for start in range(BASE, held.extents[0][1], 128 * PAGE)
    ]
    return HeldSpace(held.fd, here, owed=subtract(held.extents, here), pid_in_ve=1)


@pytest.mark.lab
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("breaks_after", [0, 25])
@pytest.mark.parametrize("mishap", [lambda restore: None, kill_worker, kill_guardian, kill_both_in_turn])
def test_no_page_is_ever_wrong(
    held: HeldSpace,
    restored: Path,
    tmp_path: Path,
    mishap: Callable[[Restore], None],
    breaks_after: int,
    seed: int,
) -> None:
    """It checks, empties, unmaps, moves and forks memory that is on the source yet, while streams break and processes die."""
    restore = Restore(owing(held), restored, tmp_path, seed)
    lender = Lender(held, restore, breaks_after)
    try:
        mishap(restore)
        checked, count, wrong, errors = restore.outcome().split()
        assert (checked, wrong, errors) == ("checked", "wrong", "0")
        assert int(count) > MIB * 200
    finally:
        restore.close()
        lender.end()
    assert lender.asks > 0
    assert breaks_after == 0 or lender.streams > 1
    assert lender.largest_bytes <= 1 << 18


@pytest.mark.lab
def test_without_a_lender_it_stands_still(held: HeldSpace, restored: Path, tmp_path: Path) -> None:
    """What is owed is waited for, never taken for zeros."""
    restore = Restore(owing(held), restored, tmp_path, 1)
    try:
        assert restore.process.poll() is None
        words = restore.words() if restore.last[3] == "waiting" else restore.last
        assert words[3] == "filling"
    finally:
        restore.close()


def test_what_arrived_is_placed_where_it_is_now() -> None:
    """Memory that was moved while it was on the source is placed at its new address, from its old one in the store."""
    held = HeldSpace(-1, [], owed=[(0x10000, 0x14000)], pid_in_ve=1)
    filling = Filling({1: held})
    filling.apply(Note(Kind.TAKEN, first=1), -1)
    filling.apply(Note(Kind.REMAP, 0, 0x11000, 0x50000, 0x2000))
    [space] = filling.spaces

    space.arrived(0x10000, 0x12000)

    assert space.missing.segments == [Segment(0x10000, 0x11000), Segment(0x50000, 0x51000, -0x3F000)]
    assert space.remote.segments == [Segment(0x13000, 0x14000), Segment(0x51000, 0x52000, -0x3F000)]
    assert filling.owed_bytes == 0x2000


def test_a_fork_shares_what_is_owed() -> None:
    """A child that was forked before the pages came gets them as well, at the same time."""
    store = HeldSpace(-1, [], owed=[(0x10000, 0x12000)], pid_in_ve=1)
    filling = Filling({1: store}, spaces=[Space(-1, store, Missing(), Missing.of(store.owed))])
    filling.apply(Note(Kind.FORK, 0), -1)

    for space in filling.spaces:
        space.arrived(0x10000, 0x11000)

    assert [space.missing.segments for space in filling.spaces] == [[Segment(0x10000, 0x11000)]] * 2
