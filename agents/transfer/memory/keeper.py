"""The memory keeper: the target's process for one coming VE's memory, apart from the agent and outliving it.

It listens on a root-only socket. Each connection begins with one line of JSON, and every line is answered by one:

    {"do": "stream", "name"}  with two descriptors: take the pages in from the first, answer on the second; closed when it ends.
                     Takes the place of one that is taken in, and goes on with what came if its name is the same. When
                     the memory is sealed and a part of it is owed (post-copy): ask for that on the second, take it in from
                     the first
    {"do": "join", "name"}    with two descriptors: the stream of this name comes from the first, too (`strands`), as soon as the
                     second says so
    {"do": "state"}                                  what is here now (`State`)
    {"do": "listen", "work"}                         a restore in `work` may begin and will be heard; it waits for its pages
    {"do": "serve", "work", "images", "group"}       the lazy pages of that restore, of these images, are served
    {"do": "restored"}                               answered when the restore has ended, well or not
    {"do": "filled"}                                 answered when the VE waits for no page any more, or never will
    {"do": "end"}                                    answered, then all is given back and the process ends

Rule: what came is kept as long as its source may go on with it, and given back when another memory begins. What is sealed is kept
until it is served or the agent says `end`; nobody else's word ends it.
"""

import contextlib
import json
import os
import selectors
import socket
import sys
import threading
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from agents.transfer.lines import streams
from agents.transfer.lines.strands import READY, Gathered
from agents.transfer.memory import lazy
from agents.transfer.memory.frames import Corrupt, Kind, write_frame
from agents.transfer.memory.guardian import Guardian
from agents.transfer.memory.port import MemoryRefused
from agents.transfer.memory.store import PageStore

LINE_BYTES_MAX = 1 << 16


class Phase(StrEnum):
    """Where the keeper is."""

    EMPTY = "empty"
    RECEIVING = "receiving"
    INTERRUPTED = "interrupted"
    """The stream broke; what came is kept for the next of its name."""
    SEALED = "sealed"
    SERVING = "serving"
    FILLED = "filled"
    BROKEN = "broken"
    """The memory cannot be completed; ``why`` says the reason and what state the VE is in."""


@dataclass(frozen=True, slots=True)
class State:
    """What the keeper answers. ``seal`` names the memory held complete; empty: it is not."""

    phase: Phase
    why: str = ""
    seal: str = ""
    wire_bytes: int = 0
    held_bytes: int = 0
    placed_bytes: int = 0
    faults: int = 0
    pid: int = 0
    worker: int = 0
    group: str = ""
    """The cgroup of the VE that is served."""
    restored: bool = False
    """All its processes are there, and their memory is being filled or is."""
    owes: bool = False
    """A part of the memory is, or was, to come from the source when the VE runs."""
    lends: bool = False
    """And the source is there to give it."""


class KeeperProcess:
    """The process; ``run`` returns when it was told to end."""

    def __init__(self, path: Path, cap_bytes: int) -> None:
        """Listens on ``path`` when it returns; ``cap_bytes``: more memory than this is refused."""
        self._path, self._cap_bytes = path, cap_bytes
        path.unlink(missing_ok=True)
        mask = os.umask(0o177)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        os.umask(mask)
        self._listener.listen(16)
        self._phase, self._why = Phase.EMPTY, ""
        self._store: PageStore | None = None
        self._pages: lazy.PagesSocket | None = None
        self._guardian: Guardian | None = None
        self._receiving: threading.Thread | None = None
        self._stream: socket.socket | None = None
        self._connections: set[socket.socket] = set()
        self._patient: set[socket.socket] = set()
        """Whoever waits for the memory to be filled."""
        self._loan: tuple[int, int] | None = None
        """A stream to the source that nobody can use yet."""
        self._next: tuple[socket.socket, list[int], str] | None = None
        """A stream that came while another was taken in."""
        self._gathered: Gathered | None = None
        self._name = ""
        """Of the stream whose pages are here."""
        self._joined: list[tuple[socket.socket, int]] = []
        """Whoever brings a further strand, and its second descriptor."""
        self._ended = self._restored = False
        self._refused = False
        """What came is of no use, whatever would follow."""
        self._selector = selectors.DefaultSelector()
        self._pid = 0
        self._set_up()

    def run(self) -> None:
        """Until it is told to end."""
        while not self._ended:
            for key, _ in self._selector.select():
                key.data(key.fileobj)
                if os.getpid() != self._pid:
                    self._take_over()
                    break
        self._path.unlink(missing_ok=True)

    def state(self) -> State:
        """What is here now."""
        store, guardian = self._store, self._guardian
        return State(
            self._phase,
            self._why,
            store.seal if store else "",
            store.wire_bytes if store else 0,
            store.memory_bytes if store else 0,
            guardian.figures.placed_bytes if guardian else 0,
            guardian.figures.faults if guardian else 0,
            os.getpid(),
            guardian.worker if guardian else 0,
            str(guardian.group or "") if guardian else "",
            bool(guardian and guardian.filling.restored),
            self._owes,
            self._owes and self._stream is not None,
        )

    @property
    def _owes(self) -> bool:
        return self._store is not None and self._store.sealed and self._store.owes

    # --- processes -------------------------------------------------------------------------------

    def _set_up(self) -> None:
        self._pid = os.getpid()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._wake_in, self._wake_out = socket.socketpair()
        self._selector.register(self._wake_in, selectors.EVENT_READ, self._received)

    def _forked(self) -> None:
        """In a worker: let go of everything that is the guardian's; the listener stays, should it take over."""
        self._selector.close()
        for connection in (*self._connections, self._wake_in, self._wake_out):
            connection.close()
        self._connections.clear()
        self._patient.clear()
        self._stream = None
        self._drop_loan()

    def _take_over(self) -> None:
        """This process was the worker; the guardian is gone."""
        self._selector = selectors.DefaultSelector()
        self._set_up()
        self._watch_worker()

    def _watch_worker(self) -> None:
        guardian = self._guardian
        assert guardian is not None
        if guardian.notes is not None and guardian.notes not in self._selector.get_map():
            self._selector.register(guardian.notes, selectors.EVENT_READ, self._hear_worker)
            self._selector.register(guardian.death, selectors.EVENT_READ, self._hear_worker)
        if guardian.broken:
            self._settle(Phase.BROKEN, guardian.broken)
        elif guardian.filling.filled and not guardian.worker:
            self._settle(Phase.FILLED, "")

    def _hear_worker(self, _: object) -> None:
        guardian = self._guardian
        assert guardian is not None
        notes, death = guardian.notes, guardian.death
        assert notes is not None
        fd = notes.fileno()
        guardian.hear()
        if os.getpid() != self._pid:
            return
        if guardian.notes is not notes:
            self._forget(notes, fd)
            self._selector.unregister(death)
            if self._stream is not None:
                self._hang_up(self._stream)  # the worker's; the source calls again
            self._watch_worker()
        elif guardian.filling.restored and not self._restored:
            self._restored = True
            self._tell_patient()  # whoever waits for more asks again

    def _settle(self, phase: Phase, why: str) -> None:
        self._phase, self._why = phase, why
        if phase is Phase.FILLED and self._store is not None:
            self._store.give_back()
        self._tell_patient()

    def _tell_patient(self) -> None:
        for connection in list(self._patient):
            self._say(connection, self.state())
        self._patient.clear()

    # --- conversations ---------------------------------------------------------------------------

    def _accept(self, _: object) -> None:
        connection, _peer = self._listener.accept()
        self._connections.add(connection)
        self._selector.register(connection, selectors.EVENT_READ, self._hear)

    def _hear(self, connection: socket.socket) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(connection, LINE_BYTES_MAX, 2)
            order = json.loads(data) if data else None
        except (OSError, ValueError):
            order, fds = None, []
        if order is None:
            self._hang_up(connection)
            return
        self._obey(connection, order, fds)

    def _obey(self, connection: socket.socket, order: dict[str, Any], fds: list[int]) -> None:
        match order.get("do"):
            case "stream" if len(fds) == 2 and self._phase in {Phase.EMPTY, Phase.INTERRUPTED}:
                self._receive(connection, str(order.get("name", "")), *fds)
            case "stream" if len(fds) == 2 and self._phase is Phase.RECEIVING:
                self._supersede(connection, str(order.get("name", "")), fds)
            case "join" if len(fds) == 2 and self._phase is Phase.RECEIVING and order.get("name") == self._name:
                self._join(connection, *fds)
            case "stream" if len(fds) == 2 and self._phase in {Phase.SEALED, Phase.SERVING} and self._owes:
                self._borrow(connection, (fds[0], fds[1]))
            case "stream" if len(fds) == 2 and self._phase is Phase.FILLED:
                with contextlib.suppress(OSError):
                    write_frame(streams.writer(fds[1]), Kind.DONE)
                self._refuse_stream(connection, fds)
            case "listen" if self._phase is Phase.SEALED:
                self._listen_in(Path(order["work"]))
                self._say(connection, self.state())
            case "serve" if self._phase is Phase.SEALED:
                self._serve(Path(order["work"]), Path(order["images"]), order["group"])
                if os.getpid() == self._pid:
                    self._say(connection, self.state())
            case "filled" if self._phase is Phase.SERVING:
                self._patient.add(connection)
            case "restored" if self._phase is Phase.SERVING and not self.state().restored:
                self._patient.add(connection)
            case "end":
                self._ended = True
                self._give_all_back()
                self._say(connection, self.state())
            case "stream" | "join":
                self._refuse_stream(connection, fds)
            case _:
                self._say(connection, self.state())

    def _say(self, connection: socket.socket, state: State) -> None:
        try:
            connection.sendall(json.dumps(asdict(state)).encode() + b"\n")
        except OSError:
            self._hang_up(connection)

    def _hang_up(self, connection: socket.socket) -> None:
        self._forget(connection, connection.fileno())
        self._connections.discard(connection)
        self._stream = None if self._stream is connection else self._stream
        self._patient.discard(connection)
        connection.close()

    def _forget(self, watched: socket.socket, fd: int) -> None:
        key = self._selector.get_map().get(fd) if fd >= 0 else None
        if key is not None and key.fileobj is watched:
            self._selector.unregister(fd)

    # --- acts ------------------------------------------------------------------------------------

    def _receive(self, connection: socket.socket, name: str, pages_in: int, answers_out: int) -> None:
        streams.widen(pages_in)
        self._gathered = gathered = Gathered(pages_in)
        if self._store is not None and name == self._name:
            self._store.go_on(gathered.read_into, streams.writer(answers_out))
        else:
            self._give_up_store()
            self._store = PageStore(gathered.read_into, streams.writer(answers_out), cap_bytes=self._cap_bytes)
        self._name = name
        self._phase, self._why, self._stream = Phase.RECEIVING, "", connection
        self._receiving = threading.Thread(
            target=self._take_in, args=(self._store, gathered, answers_out), name="receive", daemon=True
        )
        self._receiving.start()

    def _supersede(self, connection: socket.socket, name: str, fds: list[int]) -> None:
        """The source calls anew, so the stream that is taken in has ended; a line may die without a word."""
        assert self._gathered is not None
        if self._next is not None:
            self._refuse_stream(self._next[0], self._next[1])
        self._next = (connection, fds, name)
        self._gathered.abandon()

    def _give_up_store(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def _join(self, connection: socket.socket, pages_in: int, ready_out: int) -> None:
        assert self._gathered is not None
        streams.widen(pages_in)
        self._gathered.join(pages_in)
        self._joined.append((connection, ready_out))
        with contextlib.suppress(OSError):  # it has gone again; then the stream breaks
            os.write(ready_out, READY)

    def _refuse_stream(self, connection: socket.socket, fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)
        self._hang_up(connection)

    def _borrow(self, connection: socket.socket, fds: tuple[int, int]) -> None:
        """The source lends what is owed; whoever lent before has gone, or goes."""
        if self._stream is not None:
            self._hang_up(self._stream)
        self._stream = connection
        self._drop_loan()
        if self._guardian is None:
            self._loan = fds
        else:
            self._guardian.lend(fds)

    def _drop_loan(self) -> None:
        for fd in self._loan or ():
            os.close(fd)
        self._loan = None

    def _take_in(self, store: PageStore, gathered: Gathered, answers_out: int) -> None:
        """In a thread: until the stream ends or is sealed."""
        try:
            if not store.receive():
                self._why = "the stream ended before it was complete"
        except (Corrupt, OSError) as error:
            self._why = str(error)
        except (MemoryRefused, ValueError, KeyError) as error:
            self._why, self._refused = str(error), True
        finally:
            os.close(answers_out)
            self._wake_out.send(b"r")

    def _received(self, _: object) -> None:
        self._wake_in.recv(1)
        assert self._receiving is not None
        assert self._store is not None
        assert self._gathered is not None
        self._receiving.join()
        self._receiving = None
        self._gathered.close()
        self._gathered = None
        for connection, ready_out in self._joined:
            os.close(ready_out)
            self._hang_up(connection)
        self._joined.clear()
        if self._store.sealed:
            self._phase = Phase.SEALED
        elif self._name and not self._refused:
            self._phase = Phase.INTERRUPTED
        else:
            self._give_up_store()
            self._phase, self._refused = Phase.EMPTY, False
        if self._stream is not None:
            self._hang_up(self._stream)
            self._stream = None
        if self._next is not None:
            connection, fds, name = self._next
            self._next = None
            self._obey(connection, {"do": "stream", "name": name}, fds)

    def _listen_in(self, work: Path) -> None:
        self._hear_no_restore()
        try:
            self._pages, self._why = lazy.PagesSocket(work), ""
        except OSError as error:
            self._why = str(error)

    def _hear_no_restore(self) -> None:
        """One that has connected finds that nobody is there, and fails."""
        if self._pages is not None:
            self._pages.close()
            self._pages = None

    def _serve(self, work: Path, image_directory: Path, group: str) -> None:
        assert self._store is not None
        if self._pages is None or self._pages.path.parent != work:
            self._listen_in(work)
        if self._pages is None:
            return
        try:
            filling = lazy.prepare(image_directory, self._store.spaces())
        except (MemoryRefused, OSError) as error:
            self._why = str(error)
            self._hear_no_restore()
            return
        self._phase, self._why = Phase.SERVING, ""
        self._guardian = Guardian(self._pages, filling, Path(group) if group else None, self._forked)
        self._pages = None
        self._guardian.start()
        if os.getpid() == self._pid:
            if self._loan is not None:
                self._guardian.lend(self._loan)
                self._loan = None
            self._watch_worker()

    def _give_all_back(self) -> None:
        self._hear_no_restore()
        self._drop_loan()
        if self._guardian is not None:
            self._guardian.end()
        if self._receiving is None:
            self._give_up_store()


def main(path: Path, cap_bytes: int, log: Path) -> None:
    """Start the keeper apart from whoever starts it; returns in the caller's process when it listens."""
    listening, told = os.pipe()
    if os.fork():
        os.close(told)
        if not os.read(listening, 1):
            sys.exit(1)
        return
    os.setsid()
    os.close(listening)
    keeper = _started(path, cap_bytes, log)
    os.write(told, b"k")
    os.close(told)
    keeper.run()
    os._exit(0)


def _started(path: Path, cap_bytes: int, log: Path) -> KeeperProcess:
    keeper = KeeperProcess(path, cap_bytes)
    null = os.open(os.devnull, os.O_RDWR)
    errors = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    for fd, number in ((null, 0), (null, 1), (errors, 2)):
        os.dup2(fd, number)
    os.close(null)
    os.close(errors)
    return keeper
