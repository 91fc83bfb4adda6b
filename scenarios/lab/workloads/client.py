"""A client outside that keeps one TCP connection to a VE's `tree.py` and asks all the time, one question after another.

`python3 client.py ADDRESS`: prints `ready` when it is answered; for each line on its standard input one line of JSON about
the time since the last one: {"answers", "wrong" (sentences), "longest_gap_ms", "from" (its own end)}; ends with its input.
Rule: it never connects again; a connection that breaks is the end, and is told.
"""

import json
import socket
import sys
import threading
import time

PORT = 7000
SILENCE_LIMIT_S = 120.0


class Client:
    """One connection, and what was seen on it."""

    def __init__(self, address: str) -> None:
        self.connection = socket.create_connection((address, PORT), timeout=SILENCE_LIMIT_S)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answers = 0
        self.wrong: list[str] = []
        self.longest_gap_s = 0.0
        self._told = 0
        self._turn = threading.Lock()

    def work(self) -> None:
        """Ask for ever."""
        number, last_s = 0, time.monotonic()
        with self.connection.makefile("rw") as lines:
            while True:
                number += 1
                try:
                    lines.write(f"add {number}\n")
                    lines.flush()
                    answer = lines.readline()
                except OSError as error:
                    self.wrong.append(f"the connection broke after {number - 1} answers: {error}")
                    return
                if answer.split() != [str(number), str(number)]:
                    self.wrong.append(f"question {number} was answered by {answer!r}")
                    return
                now_s = time.monotonic()
                with self._turn:
                    self.answers = number
                    self.longest_gap_s = max(self.longest_gap_s, now_s - last_s)
                last_s = now_s
                time.sleep(0.0005)

    def report(self) -> str:
        """One line about the time since the last report."""
        with self._turn:
            told = {
                "answers": self.answers - self._told,
                "wrong": self.wrong,
                "longest_gap_ms": round(self.longest_gap_s * 1000, 1),
                "from": list(self.connection.getsockname()[:2]),
            }
            self._told, self.longest_gap_s = self.answers, 0.0
        return json.dumps(told)


def main() -> None:
    """Until the input ends."""
    client = Client(sys.argv[1])
    worker = threading.Thread(target=client.work, daemon=True)
    worker.start()
    while not client.answers and worker.is_alive():
        time.sleep(0.001)
    print("ready", flush=True)
    for _ in sys.stdin:
        print(client.report(), flush=True)


if __name__ == "__main__":
    main()
