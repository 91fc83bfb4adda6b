"""What the source wrote to the memory stream and does not know to have arrived: so that a stream that broke goes on from there.

Rule: what is in doubt is sent again. A page is at the target as it was sent last if the last frame that names it was taken in;
a page that any frame names which was not taken in is in doubt, whatever that frame said of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agents.transfer.memory.extents import Extents, normalised, subtract, union
from agents.transfer.memory.frames import Kind
from agents.transfer.memory.port import MemoryRefused


@dataclass(frozen=True, slots=True)
class Standing:
    """How a stream that broke has left the target."""

    held: dict[int, Extents]
    """By space: the pages that it holds, if perhaps as they were sent earlier."""
    doubtful: dict[int, Extents]
    """By space: pages that it may not hold as they were sent last."""
    unforgotten: tuple[int, ...]
    """Spaces that it may not have been told to forget."""


@dataclass(frozen=True, slots=True)
class _Written:
    kind: Kind
    space: int
    extents: Extents


@dataclass(slots=True)
class Ledger:
    """Of one stream. Every frame is noted before it is written, so that one that was written in part is in doubt, too."""

    written: int = 0
    """Frames, since the stream began."""
    _held: dict[int, Extents] = field(default_factory=dict)
    """By space, after the frames that are known to have been taken in."""
    _since: list[_Written] = field(default_factory=list)
    """The others, in order."""

    def note(self, kind: Kind, space: int, extents: Extents) -> None:
        """This frame is about to be written."""
        self.written += 1
        self._since.append(_Written(kind, space, extents))

    def confirm(self, held: Mapping[int, Extents]) -> None:
        """The target has taken in everything, and holds this."""
        self._held = dict(held)
        self._since.clear()

    def settle(self, taken: int) -> Standing:
        """The target has taken in so many frames and no more; the next that is written follows those.

        Raises ``MemoryRefused`` when that cannot be so: it has not what it had.
        """
        confirmed = self.written - len(self._since)
        if not confirmed <= taken <= self.written:
            raise MemoryRefused("the target does not hold any more what it had of the memory")
        arrived, missing = self._since[: taken - confirmed], self._since[taken - confirmed :]
        held = _after(self._held, arrived)
        self.written = taken
        self.confirm(held)
        return Standing(
            held,
            {space: _named(missing, space) for space in {each.space for each in missing}},
            tuple(each.space for each in missing if each.kind is Kind.FORGET),
        )


def _after(held: Mapping[int, Extents], frames: list[_Written]) -> dict[int, Extents]:
    """What the target holds when it has taken in these."""
    result, news = dict(held), dict[int, Extents]()
    for each in frames:
        match each.kind:
            case Kind.PAGES | Kind.COMPRESSED:
                news.setdefault(each.space, []).extend(each.extents)
            case Kind.DROP:
                result[each.space] = subtract(_joined(result, news, each.space), each.extents)
            case Kind.FORGET:
                news.pop(each.space, None)
                result.pop(each.space, None)
            case _:
                continue
    for space in list(news):
        result[space] = _joined(result, news, space)
    return result


def _joined(held: Mapping[int, Extents], news: dict[int, Extents], space: int) -> Extents:
    return union(held.get(space, []), normalised(news.pop(space, [])))


def _named(frames: list[_Written], space: int) -> Extents:
    return normalised(extent for each in frames if each.space == space for extent in each.extents)
