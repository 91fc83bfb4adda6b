"""What is known of the target after the stream broke, against a target that is a dictionary of pages."""

import random

import pytest

from agents.transfer.memory.extents import PAGE_BYTES, Extents, normalised
from agents.transfer.memory.frames import Kind
from agents.transfer.memory.ledger import Ledger
from agents.transfer.memory.port import MemoryRefused

PAGES, SPACES = 43, 3
SEEDS = range(200)


def pages(extents: Extents) -> set[int]:
    """Their numbers."""
    return {page for start, end in extents for page in range(start // PAGE_BYTES, end // PAGE_BYTES)}


class Model:
    """The two ends, page by page: the version of each page as it was sent last, and as it is held."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.ledger = Ledger()
        self.sent: dict[tuple[int, int], int] = {}
        self.held: dict[tuple[int, int], int] = {}
        self._frames: list[tuple[Kind, int, Extents, int]] = []
        self._version = self.taken = 0

    def write(self) -> None:
        """One frame of any kind; perhaps the target says that it has all."""
        kind = self._random.choice([Kind.PAGES, Kind.PAGES, Kind.COMPRESSED, Kind.DROP, Kind.FORGET, Kind.SYNC])
        space, self._version = self._random.randrange(SPACES), self._version + 1
        extents = [] if kind in {Kind.FORGET, Kind.SYNC} else self._some()
        self.ledger.note(kind, space, extents)
        frame = (kind, space, extents, self._version)
        self._frames.append(frame)
        apply(self.sent, *frame)
        if self._random.random() < 0.1:
            self.arrive(len(self._frames))
            self.ledger.confirm(
                {space: extents_of(page for owner, page in self.held if owner == space) for space in range(SPACES)}
            )

    def arrive(self, count: int) -> None:
        """The target takes in so many of what is on its way."""
        for frame in self._frames[:count]:
            apply(self.held, *frame)
        del self._frames[:count]
        self.taken += count

    def breaks(self) -> None:
        """Some of what is on its way arrives, and nothing else of it."""
        self.arrive(self._random.randint(0, len(self._frames)))
        self._frames.clear()

    def _some(self) -> Extents:
        starts = self._random.sample(range(1, PAGES - 3), 4)
        return normalised((at * PAGE_BYTES, (at + self._random.randint(1, 3)) * PAGE_BYTES) for at in starts)


def apply(held: dict[tuple[int, int], int], kind: Kind, space: int, extents: Extents, version: int) -> None:
    """What a frame does to the pages that are held."""
    if kind is Kind.FORGET:
        for key in [key for key in held if key[0] == space]:
            del held[key]
    for page in pages(extents):
        if kind is Kind.DROP:
            held.pop((space, page), None)
        else:
            held[space, page] = version


def extents_of(numbers: object) -> Extents:
    """Pages, as ranges."""
    return normalised((page * PAGE_BYTES, (page + 1) * PAGE_BYTES) for page in numbers)  # type: ignore[attr-defined]


def test_what_is_not_in_doubt_is_there_as_it_was_sent() -> None:
    """After any frames and any break: which pages the target holds is known, and every page that is not in doubt is there as
    it was sent last; through several breaks."""
    for seed in SEEDS:
        model = Model(seed)
        for _ in range(5):
            for _ in range(30):
                model.write()
            model.breaks()
            check(model, f"seed {seed}")


def check(model: Model, where: str) -> None:
    """The ledger knows how the break has left the target."""
    standing = model.ledger.settle(model.taken)
    for space in range(SPACES):
        assert pages(standing.held.get(space, [])) == {page for owner, page in model.held if owner == space}, where
        doubtful = pages(standing.doubtful.get(space, []))
        for page in set() if space in standing.unforgotten else set(range(PAGES)) - doubtful:
            assert model.sent.get((space, page)) == model.held.get((space, page)), where
    model.sent = dict(model.held)


def test_a_target_that_lost_what_it_had() -> None:
    """A count that is less than what was confirmed, or more than was written, is no place to go on from."""
    ledger = Ledger()
    ledger.note(Kind.PAGES, 1, [(0, PAGE_BYTES)])
    ledger.confirm({1: [(0, PAGE_BYTES)]})
    for taken in (0, 2):
        with pytest.raises(MemoryRefused, match="does not hold any more"):
            ledger.settle(taken)
