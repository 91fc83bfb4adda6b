"""The memory sender: the source's process for one leaving VE's memory, apart from the agent so that hashing disturbs nobody.

The agent speaks to it in lines of JSON over standard input and output. The first line says what to send (`Task`); then:

    {"do": "round"}                       one round; {"did": "round", ...RoundStats}, {"did": "moving", ...} meanwhile
    {"do": "rate", "bytes_per_s": N}      the cap from now on, also in the midst of a round; null: free; not answered
    {"do": "hang up"}                     also in the midst of a round, which then fails (or is done): {"did": "not", ...}; else
                                          not answered
    {"do": "resume", "stream", "strand"}  after a round that failed because the stream broke: {"did": "resumed"}, the next
                                          goes over this connection
    {"do": "last", "veils": DIRECTORY}    of the frozen VE: {"did": "look", ...Look} as soon as the dump may begin, then
                                          {"did": "sent", "seal": ..., ...RoundStats} when the target holds everything;
                                          with "post_copy": true it only knows what it will have to ask for

What fails is answered by {"did": "not", "kind": KIND, "why": ...}, after which only the end of input makes sense, or `resume` if
the kind is `lost`. Rule: when its
input ends, or it is killed, nothing of it stays in the VE: the kernel takes the write protection away with the descriptor.
"""

import json
import os
import queue
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from agents.transfer.memory import areas, veil
from agents.transfer.memory.areas import Gone
from agents.transfer.memory.frames import Corrupt
from agents.transfer.memory.line import Line
from agents.transfer.memory.port import MemoryRefused, RoundStats
from agents.transfer.memory.reader import Cancelled
from agents.transfer.memory.source import SourceSession
from migrator.wire.facts import MemoryMethod

MOVING_EVERY_S = 0.25
END_LIMIT_S = 2.0


class Kind(StrEnum):
    """Why something was not done."""

    REFUSED = "refused"
    """This memory cannot be moved this way; nobody was harmed."""
    LOST = "lost"
    """The stream to the target broke."""


@dataclass(frozen=True, slots=True)
class Task:
    """What to send, and by which program it reaches the target's keeper."""

    init_pid: int
    group: str
    """The VE's cgroup; every process in it and below belongs to the VE."""
    stream: tuple[str, ...]
    use: str
    """The file in which the migration's streams say what they move."""
    method: MemoryMethod
    strand: tuple[str, ...] = ()
    """By which program another connection joins the stream; empty: none can."""
    shadow_cap_bytes: int = 1 << 30
    rate_bytes_per_s: float | None = None
    compress: bool = True


@dataclass(frozen=True, slots=True)
class Look:
    """Of the frozen VE: what is still to be sent, and the files that stand for its pagemaps (path, what it covers)."""

    changed_bytes: int
    veils: tuple[tuple[str, str], ...]
    guards: tuple[tuple[int, tuple[tuple[int, int], ...]], ...] = ()
    """By process id in the VE: ranges that hold guards, which CRIU does not see behind the veil."""


class SenderProcess:
    """The process."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._orders: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._out = threading.Lock()
        self._line = Line(task.stream, task.strand, Path(task.use))
        self._ended = False
        self._session = SourceSession(
            task.init_pid,
            self._processes,
            self._line.write,
            self._line.read_into,
            method=task.method,
            shadow_cap_bytes=task.shadow_cap_bytes,
            rate_bytes_per_s=task.rate_bytes_per_s,
            compress=task.compress,
        )

    def run(self) -> None:
        """Until the input ends."""
        threading.Thread(target=self._listen, name="orders", daemon=True).start()
        self._say("started", {"method": self._session.method})
        while (order := self._orders.get()) is not None:
            try:
                self._obey(order)
            except Cancelled:
                if self._ended:
                    break
                self._say("not", {"kind": Kind.LOST, "why": "it was hung up"})
            except (MemoryRefused, Gone) as error:
                self._say("not", {"kind": Kind.REFUSED, "why": str(error)})
            except (Corrupt, OSError) as error:
                if refusal := self._session.refusal():
                    self._say("not", {"kind": Kind.REFUSED, "why": refusal})
                else:
                    self._say("not", {"kind": Kind.LOST, "why": f"{error}{self._line.last_words()}"})
        self._session.undo()
        self._line.end()

    def _obey(self, order: dict[str, Any]) -> None:
        match order["do"]:
            case "round":
                stop = threading.Event()
                teller = threading.Thread(target=self._tell_moving, args=(stop,), name="moving", daemon=True)
                teller.start()
                threading.Thread(target=self._line.widen, args=(stop,), name="widen", daemon=True).start()
                try:
                    stats = self._session.round()
                finally:
                    stop.set()
                    teller.join()
                self._say("round", {**asdict(stats), "notes": (*stats.notes, *self._line.notes())})
            case "resume":
                self._line.end()
                self._line = Line(order["stream"], order["strand"], Path(self._task.use))
                self._session.resume(self._line.write, self._line.read_into)
                self._say("resumed", {})
            case "last":
                self._last(Path(order["veils"]), post_copy=order["post_copy"])

    def _last(self, directory: Path, *, post_copy: bool) -> None:
        look = self._session.last_look()
        covers = [veil.cover(process, directory) for process in look.processes]
        guards = [
            (process.pid_in_ve, each.guards)
            for process, each in zip(look.processes, covers, strict=True)
            if each.guards
        ]
        veils = tuple((each.path, each.covers) for each in covers)
        self._say("look", asdict(Look(look.changed_bytes, veils, tuple(guards))))
        stats: RoundStats = (self._session.leave_last if post_copy else self._session.send_last)(look)
        self._say("sent", {"seal": self._session.seal, **asdict(stats)})

    def _tell_moving(self, stop: threading.Event) -> None:
        while not stop.wait(MOVING_EVERY_S):
            self._say("moving", {"done_bytes": self._session.done_bytes, "total_bytes": self._session.total_bytes})

    def _processes(self) -> Sequence[int]:
        return areas.members(Path(self._task.group))

    def _listen(self) -> None:
        for line in sys.stdin:
            order = json.loads(line)
            match order["do"]:
                case "rate":
                    self._session.set_rate(order["bytes_per_s"])
                case "hang up":
                    self._session.cancel()
                    self._line.hang_up()
                case _:
                    self._orders.put(order)
        self._ended = True
        self._session.cancel()
        self._orders.put(None)
        # A stream that takes nothing would hold the process up, and the VE under tracking, for ever.
        threading.Timer(END_LIMIT_S, os._exit, (1,)).start()

    def _say(self, did: str, words: dict[str, Any]) -> None:
        with self._out:
            sys.stdout.write(json.dumps({"did": did, **words}) + "\n")
            sys.stdout.flush()


def main() -> None:
    """One task, from standard input."""
    given = json.loads(sys.stdin.readline())
    try:
        sender = SenderProcess(
            Task(**{**given, "stream": tuple(given["stream"]), "method": MemoryMethod(given["method"])})
        )
    except (Gone, OSError) as error:
        print(json.dumps({"did": "not", "kind": Kind.REFUSED, "why": str(error)}), flush=True)
        return
    sender.run()
