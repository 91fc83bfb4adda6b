"""The target's end of post-copy: what a VE's memory lacks and the source has is asked for, what somebody waits for first.

Rule: it may begin again at any moment, over another stream or in another worker: what was asked for and has not come is asked
for again, and a page that comes twice is the same page, because the source stands still.
"""

import contextlib
import os
import selectors

from agents.transfer.lines import streams
from agents.transfer.memory.extents import PAGE_BYTES, Extents, normalised, size_bytes
from agents.transfer.memory.filling import Filling, Space
from agents.transfer.memory.frames import Corrupt, Frame, FrameBuffer, Kind, write_frame
from agents.transfer.memory.missing import Segment

ASK_BYTES = 1 << 18
ASKS_MAX = 4
"""So many asks are under way: enough to keep the line busy, and few, since an urgent one waits for those before it."""
AROUND_BYTES = 16 * PAGE_BYTES
_READ_BYTES = 1 << 20


class Debt:
    """What is owed to the spaces of a filling."""

    def __init__(self, filling: Filling, selector: selectors.BaseSelector, key: object) -> None:
        """``selector`` says under ``key`` that there is something to hear."""
        self._filling, self._selector, self._key = filling, selector, key
        self._buffer = FrameBuffer()
        self._asks = 0
        self._in = self._out = -1
        """-1: nobody lends."""

    def connect(self, pages_in: int, wants_out: int) -> None:
        """The source lends over these descriptors, which are ours from now on."""
        self.disconnect()
        os.set_blocking(pages_in, False)
        self._in, self._out, self._buffer = pages_in, wants_out, FrameBuffer()
        self._selector.register(pages_in, selectors.EVENT_READ, self._key)

    def disconnect(self) -> None:
        """It does not any more; what has not come will be asked for again."""
        for space in self._filling.spaces:
            space.remote.put_back(*space.asked.segments)
            space.asked.segments.clear()
        if self._in >= 0:
            self._selector.unregister(self._in)
            os.close(self._in)
            os.close(self._out)
        self._in = self._out = -1
        self._asks = 0

    def done(self) -> None:
        """Nothing is owed any more: the source may forget the VE."""
        if self._out >= 0:
            with contextlib.suppress(OSError):  # it calls again, and is told then
                write_frame(streams.writer(self._out), Kind.DONE)
        self.disconnect()

    def want(self, space: Space, page: int) -> bool:
        """Somebody waits for this page; False: it is not owed, or has been asked for."""
        before = page % AROUND_BYTES
        segment = space.remote.around(page, before, AROUND_BYTES - before)
        if segment is None:
            return space.asked.around(page, 0, PAGE_BYTES) is not None
        if self._in >= 0:
            self._ask(space, [segment])
        return True

    def go_on(self) -> None:
        """Keep asking for what nobody waits for yet, from the front."""
        for space in self._filling.spaces:
            while self._in >= 0 and self._asks < ASKS_MAX and space.remote.segments:
                segments, room = [], ASK_BYTES
                for segment in space.remote.segments[: ASK_BYTES // PAGE_BYTES]:
                    take = min(room, segment.end - segment.start)
                    segments.append(Segment(segment.start, segment.start + take, segment.shift))
                    room -= take
                    if not room:
                        break
                self._ask(space, segments)

    def hear(self) -> None:
        """Something is to be read; takes in the pages that have come whole. Raises ``Corrupt``."""
        try:
            data = os.read(self._in, _READ_BYTES)
            if not data:
                self.disconnect()
            for frame in self._buffer.feed(data):
                self._take(frame)
        except BlockingIOError:
            return
        except OSError:
            self.disconnect()

    def _ask(self, space: Space, segments: list[Segment]) -> None:
        wanted: Extents = []
        for segment in segments:
            space.remote.cut(segment.start, segment.end)
            wanted.append((segment.start + segment.shift, segment.end + segment.shift))
        space.asked.put_back(*segments)
        self._asks += 1
        try:
            write_frame(streams.writer(self._out), Kind.WANT, space.store.pid_in_ve, normalised(wanted))
        except OSError:
            self.disconnect()

    def _take(self, frame: Frame) -> None:
        held = self._filling.held.get(frame.space)
        if frame.kind is not Kind.PAGES or held is None or size_bytes(frame.extents) != len(frame.payload):
            raise Corrupt("the source sent something else than the pages it was asked for")
        self._asks -= 1
        at = 0
        for start, end in frame.extents:
            os.pwrite(held.fd, frame.payload[at : at + end - start], start)
            at += end - start
            for space in self._filling.spaces:
                if space.store is held:
                    space.arrived(start, end)
