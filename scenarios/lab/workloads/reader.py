"""A client of a web server: one connection asks for /small all the time, one takes /big slowly, in one answer.

Usage: reader.py ADDRESS. Says `ready` when both have begun; a line `report` on standard input is answered by a line of JSON;
a line `finish` takes the rest of /big at once, answers with its checksum and ends. Standard library only.
"""

import hashlib
import http.client
import json
import sys
import threading
import time

PACE_BYTES_PER_S = 80_000
PIECES_PER_S = 20
PAUSE_S = 0.02


class Small:
    """Asks again and again over one connection."""

    def __init__(self, address: str) -> None:
        self.connection = http.client.HTTPConnection(address, timeout=60)
        self.connection.connect()
        self.connection.auto_open = 0  # one that breaks stays broken, and is told
        self.wrong: list[str] = []
        self.answers, self.longest_s = 0, 0.0

    def run(self) -> None:
        """Until it breaks."""
        while not self.wrong:
            began_s = time.monotonic()
            try:
                self.connection.request("GET", "/small")
                if self.connection.getresponse().read() != b"small\n":
                    self.wrong.append("another answer")
                self.answers += 1
            except (OSError, http.client.HTTPException) as error:
                self.wrong.append(repr(error))
            self.longest_s = max(self.longest_s, time.monotonic() - began_s)
            time.sleep(PAUSE_S)


class Big:
    """Takes one long answer, slowly."""

    def __init__(self, address: str) -> None:
        self.connection = http.client.HTTPConnection(address, timeout=60)
        self.connection.request("GET", "/big")
        self.answer = self.connection.getresponse()
        self.seen, self.bytes = hashlib.sha256(), 0
        self.wrong: list[str] = []
        self.hurry = threading.Event()

    def run(self) -> None:
        """To the end of the answer."""
        try:
            while part := self.answer.read(PACE_BYTES_PER_S // PIECES_PER_S):
                self.seen.update(part)
                self.bytes += len(part)
                self.hurry.wait(1 / PIECES_PER_S)
        except (OSError, http.client.HTTPException) as error:
            self.wrong.append(repr(error))


def main(address: str) -> None:
    """Answer on standard output."""
    small, big = Small(address), Big(address)
    threads = [threading.Thread(target=each.run, daemon=True) for each in (small, big)]
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    for line in sys.stdin:
        last = line.strip() == "finish"
        if last:
            big.hurry.set()
            threads[1].join()
        told = {"answers": small.answers, "wrong": small.wrong + big.wrong, "longest_ms": small.longest_s * 1000}
        told |= {"big_bytes": big.bytes, "big_sha256": big.seen.hexdigest()}
        small.answers, small.longest_s = 0, 0.0
        print(json.dumps(told), flush=True)
        if last:
            return


if __name__ == "__main__":
    main(sys.argv[1])
