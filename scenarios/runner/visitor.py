"""The client outside: one TCP connection to a Redis, written to all the time, dialled again when it breaks.

Rule: it is the judge, so it knows nothing of moves. Started with ADDRESS and PORT; prints `ready` when its first write is
acknowledged; `report` on its standard input gives one line of JSON about the time since the last report: {"acknowledged",
"missing", "connections" (1: the same one all the time), "longest_gap_ms", "served", "errors"}. Ends with its input.
"""

import contextlib
import json
import select
import socket
import sys
import time
from dataclasses import dataclass, field

from scenarios.lab.writer import Account, Connection, missing

DIAL_LIMIT_S = 1.0
DIAL_AGAIN_S = 0.05
ANSWER_LIMIT_S = 60.0
SERVED_LIMIT_S = 20.0
PAUSE_S = 0.002
"""Between two writes, so that the hosts have the processor."""


@dataclass
class Visitor:
    """One client."""

    address: str
    port: int
    account: Account = field(default_factory=Account)
    connection: Connection | None = None
    connections: int = 1
    errors: list[str] = field(default_factory=list)
    last_s: float = field(default_factory=time.monotonic)
    fresh: bool = True
    """Nothing has been acknowledged on this connection yet."""

    def turn(self) -> bool:
        """One write, or one attempt to connect and write; whether it was acknowledged."""
        number = self.account.acknowledged
        try:
            (self.connection or self._dial()).say(("SET", f"n:{number}", number))
        except (OSError, RuntimeError) as error:
            self._hang_up(str(error))
            return False
        now_s = time.monotonic()
        self.account.longest_gap_s = max(self.account.longest_gap_s, now_s - self.last_s)
        self.account.acknowledged, self.last_s, self.fresh = number + 1, now_s, False
        return True

    def _dial(self) -> Connection:
        made = socket.create_connection((self.address, self.port), timeout=DIAL_LIMIT_S)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.settimeout(ANSWER_LIMIT_S)
        self.connection, self.fresh = Connection(made), True
        return self.connection

    def _hang_up(self, why: str) -> None:
        if self.connection is not None:
            self.connection.socket.close()
            self.connection = None
        if not self.fresh:
            self.connections += 1
            self.errors.append(why)
        self.fresh = True
        time.sleep(DIAL_AGAIN_S)

    def report(self) -> str:
        """One line about the time since the last one."""
        deadline = time.monotonic() + SERVED_LIMIT_S
        while not (served := self.turn()) and time.monotonic() < deadline:
            pass
        lost = ["nothing could be read back"]
        with contextlib.suppress(OSError, RuntimeError):
            lost = [f"n:{each}" for each in missing(self.connection, self.account)] if self.connection else lost
        told = {
            "acknowledged": self.account.acknowledged,
            "missing": len(lost),
            "first_missing": lost[:3],
            "connections": self.connections,
            "longest_gap_ms": round(1000 * self.account.longest_gap_s, 1),
            "served": served,
            "errors": self.errors[-3:],
        }
        self.connections, self.account.longest_gap_s, self.errors = 1, 0.0, []
        self.last_s = time.monotonic()
        return json.dumps(told)


def main() -> None:
    """See the module."""
    visitor = Visitor(sys.argv[1], int(sys.argv[2]))
    while not visitor.turn():
        pass
    print("ready", flush=True)
    while True:
        if select.select([0], [], [], PAUSE_S)[0]:
            if not sys.stdin.readline():
                return
            print(visitor.report(), flush=True)
        else:
            visitor.turn()


if __name__ == "__main__":
    main()
