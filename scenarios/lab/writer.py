"""A client of a Redis in a VE: writes all the time over one TCP connection and keeps account of every acknowledged write.

Rule: it is the judge of a move, so it knows nothing of it: it only sees its own connection. Started with ADDRESS; fills
the Redis first when told how much; prints `ready`; on the first line on its standard input it stops, reads everything
back over the same connection and prints one line of JSON.
"""

import json
import os
import select
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

VALUE_BYTES = 1 << 16
BATCH = 500
ANSWER_LIMIT_S = 120.0
START_LIMIT_S, KNOCK_S = 60.0, 0.1


@dataclass(slots=True)
class Connection:
    """One TCP connection that speaks Redis' protocol."""

    socket: socket.socket
    received: bytes = b""

    def say(self, *commands: tuple[object, ...]) -> list[bytes]:
        """Send commands, return as many answers (bulk answers without their length line)."""
        self.socket.sendall(b"".join(_encoded(command) for command in commands))
        return [self._answer() for _ in commands]

    def _answer(self) -> bytes:
        line = self._line()
        if line[:1] == b"-":
            raise RuntimeError(f"redis says: {line.decode()}")
        if line[:1] != b"$":
            return line[1:]
        length = int(line[1:])
        return b"" if length < 0 else self._exactly(length + 2)[:-2]

    def _line(self) -> bytes:
        while b"\r\n" not in self.received:
            self._more()
        line, self.received = self.received.split(b"\r\n", 1)
        return line

    def _exactly(self, count: int) -> bytes:
        while len(self.received) < count:
            self._more()
        data, self.received = self.received[:count], self.received[count:]
        return data

    def _more(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError("the connection was closed by the other side")
        self.received += data


def _encoded(command: tuple[object, ...]) -> bytes:
    words = [word if isinstance(word, bytes) else str(word).encode() for word in command]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


@dataclass(slots=True)
class Account:
    """What was acknowledged, and the longest time between two acknowledgements."""

    acknowledged: int = 0
    longest_gap_s: float = 0.0
    gap_after_write: int = 0
    gaps_s: list[float] = field(default_factory=list)


def write_until_told(connection: Connection, account: Account) -> None:
    """One write at a time, each waited for, until something comes on standard input."""
    last_s = time.monotonic()
    while not select.select([0], [], [], 0)[0]:
        number = account.acknowledged
        connection.say(("SET", f"n:{number}", number))
        now_s = time.monotonic()
        if now_s - last_s > account.longest_gap_s:
            account.longest_gap_s, account.gap_after_write = now_s - last_s, number
        account.acknowledged, last_s = number + 1, now_s


def missing(connection: Connection, account: Account) -> list[int]:
    """Acknowledged writes that are not there, read back over the same connection."""
    found = []
    for batch in _batches(account.acknowledged):
        answers = connection.say(*(("GET", f"n:{number}") for number in batch))
        found += [number for number, answer in zip(batch, answers, strict=True) if answer != str(number).encode()]
    return found


def fill(connection: Connection, count_bytes: int) -> None:
    """Random data, so that nothing can be left out as zero or compressed away."""
    for number in range(count_bytes // VALUE_BYTES):
        connection.say(("SET", f"fill:{number}", os.urandom(VALUE_BYTES)))


def _connected(address: str) -> socket.socket:
    """A Redis that was started just now may not listen yet."""
    deadline_s = time.monotonic() + START_LIMIT_S
    while True:
        try:
            return socket.create_connection((address, 6379), timeout=ANSWER_LIMIT_S)
        except ConnectionRefusedError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(KNOCK_S)


def _batches(count: int) -> Iterator[range]:
    return (range(at, min(at + BATCH, count)) for at in range(0, count, BATCH))


def main() -> None:
    """See the module."""
    address, fill_bytes = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0
    connection = Connection(_connected(address))
    connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    fill(connection, fill_bytes)
    [client_id] = connection.say(("CLIENT", "ID"))
    account = Account()
    print("ready", flush=True)
    error = ""
    lost: list[int] = []
    try:
        write_until_told(connection, account)
        lost = missing(connection, account)
        [id_now] = connection.say(("CLIENT", "ID"))
    except (OSError, RuntimeError) as problem:
        error, id_now = str(problem), b""
    told = {
        "writes_acknowledged": account.acknowledged,
        "writes_missing": len(lost),
        "first_missing": lost[:5],
        "longest_gap_ms": round(1000 * account.longest_gap_s, 1),
        "same_connection": not error and id_now == client_id,
        "error": error,
    }
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
