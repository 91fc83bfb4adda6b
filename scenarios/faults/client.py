"""The client outside: writes to the Redis in the VE all the time, and hears the VE's heartbeat.

Rule: it is a judge, so it knows nothing of moves. Started with ADDRESS, PORT of the heartbeat and BYTES to fill the Redis
with; prints `ready`, then obeys lines on its standard input: `state` prints where it is, `again` gives its connection up
and dials anew (an operator who knows that the host of the VE lost power), `stop` reads everything back and ends. Every
answer is one line of JSON.
"""

import contextlib
import io
import json
import os
import select
import socket
import sys
import time
from dataclasses import dataclass, field

from scenarios.faults.heartbeat import Heartbeats
from scenarios.lab.writer import Account, Connection, fill, missing

PAUSE_S = 0.002
"""Between two writes: enough of them to lose, and a processor left for the hosts."""
DIAL_LIMIT_S = 1.0
DIAL_AGAIN_S = 0.05
ANSWER_LIMIT_S = 60.0
ORDERS = io.FileIO(0, closefd=False)
"""Standard input without a buffer: of two orders at once, the second is still seen by `select`."""


@dataclass(slots=True)
class Client:
    """One client; `socket` is None while the VE cannot be reached."""

    address: str
    heard: socket.socket
    account: Account = field(default_factory=Account)
    connection: Connection | None = None
    connections: int = 0
    errors: list[str] = field(default_factory=list)
    beats: Heartbeats = field(default_factory=Heartbeats)
    last_write_unix_s: float = 0.0
    waiting: bool = False
    """A write has been sent and is not answered."""

    def dial(self) -> None:
        """Connect; nothing happens when it cannot."""
        with contextlib.suppress(OSError):
            self.connection = Connection(socket.create_connection((self.address, 6379), timeout=DIAL_LIMIT_S))
            self.connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connection.socket.settimeout(ANSWER_LIMIT_S)
            self.connections += 1
        self.waiting = False

    def hang_up(self, why: str) -> None:
        """The connection is lost, or given up."""
        if self.connection is not None:
            self.errors.append(why)
            self.connection.socket.close()
        self.connection = None

    def turn(self) -> str:
        """One round of whatever is ready; an order, or nothing."""
        if self.connection is None:
            self.dial()
        watched: list[int | socket.socket] = [0, self.heard, *([self.connection.socket] if self.connection else [])]
        if self.connection and not self.waiting:
            self._write(self.connection)
        ready, _, _ = select.select(watched, [], [], DIAL_AGAIN_S)
        if self.heard in ready:
            self.beats.note(self.heard.recv(512).decode(errors="replace"))
        if self.connection and self.connection.socket in ready:
            self._read(self.connection)
        return ORDERS.readline().decode().strip() if 0 in ready else ""

    def _write(self, connection: Connection) -> None:
        number = self.account.acknowledged
        try:
            connection.socket.sendall(b"SET n:%d %d\r\n" % (number, number))
            self.waiting = True
        except OSError as error:
            self.hang_up(str(error))

    def _read(self, connection: Connection) -> None:
        try:
            data = connection.socket.recv(1 << 16)
        except OSError as error:
            self.hang_up(str(error))
            return
        connection.received += data
        if not data:
            self.hang_up("closed by the other side")
        elif connection.received == b"+OK\r\n":
            self._acknowledged(connection)
        elif connection.received.endswith(b"\r\n"):
            self.hang_up(f"redis says {connection.received[:100]!r}")

    def _acknowledged(self, connection: Connection) -> None:
        now_s = time.time()
        if self.last_write_unix_s and now_s - self.last_write_unix_s > self.account.longest_gap_s:
            self.account.longest_gap_s = now_s - self.last_write_unix_s
        self.account.acknowledged += 1
        self.last_write_unix_s, connection.received, self.waiting = now_s, b"", False
        time.sleep(PAUSE_S)

    def state(self) -> dict[str, object]:
        """Where it is."""
        return {
            "writes_acknowledged": self.account.acknowledged,
            "last_write_unix_s": self.last_write_unix_s,
            "connections": self.connections,
            "errors": self.errors[-5:],
            "longest_gap_ms": round(1000 * self.account.longest_gap_s, 1),
            **self.beats.told(),
        }

    def read_back(self) -> dict[str, object]:
        """Everything that was acknowledged, read again, over the old connection if it lives."""
        if self.connection is None or self.waiting:
            self.hang_up("a write was never answered")
            self.dial()
        if self.connection is None:
            return {"readable": False, "writes_missing": self.account.acknowledged}
        try:
            lost = missing(self.connection, self.account)
        except (OSError, RuntimeError) as error:
            return {"readable": False, "writes_missing": self.account.acknowledged, "why": str(error)}
        return {"readable": True, "writes_missing": len(lost), "first_missing": lost[:5]}


def main() -> None:
    """See the module."""
    address, port, fill_bytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    heard.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    heard.bind(("", port))
    client = Client(address, heard)
    deadline = time.monotonic() + ANSWER_LIMIT_S
    while client.connection is None and time.monotonic() < deadline:
        client.dial()
        time.sleep(DIAL_AGAIN_S)
    assert client.connection is not None
    client.connection.say(("FLUSHALL",))
    fill(client.connection, fill_bytes)
    print("ready", flush=True)
    while (word := client.turn()) != "stop":
        if word == "again":
            client.hang_up("told to dial anew")
        if word == "state":
            print(json.dumps(client.state()), flush=True)
        if not word and os.getppid() == 1:
            return  # whoever asked for it was killed
    print(json.dumps(client.state() | client.read_back() | {"beat_times": client.beats.all()}), flush=True)


if __name__ == "__main__":
    main()
