"""Joins its standard input and output to the agent's socket: what an SSH session on this host runs.

Rule: starts in milliseconds and understands nothing; whether the agent is there is all it can say.
"""

import json
import os
import selectors
import socket
import sys
from pathlib import Path

from agents import places

CHUNK_BYTES = 1 << 16
NO_AGENT = 69


def main(at: Path = places.SOCKET) -> None:
    """Until either side ends."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
        try:
            agent.connect(str(at))
        except OSError as error:
            print(f"nothing answers at {at}: {error.strerror}", file=sys.stderr)
            sys.exit(NO_AGENT)
        with selectors.DefaultSelector() as ready:
            ready.register(0, selectors.EVENT_READ)
            ready.register(agent, selectors.EVENT_READ)
            while _pump(agent, [key.fileobj for key, _ in ready.select()]):
                pass


def lend(at: Path, name: str = "", *, joins: bool = False) -> None:
    """Give our standard input and output themselves to who listens at `at`, until it hangs up: no byte passes here.

    They are the stream of this name; or a further strand of it, if it `joins`.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as taker:
        try:
            taker.connect(str(at))
        except OSError as error:
            print(f"nothing answers at {at}: {error.strerror}", file=sys.stderr)
            sys.exit(NO_AGENT)
        order = {"do": "join" if joins else "stream", "name": name}
        socket.send_fds(taker, [json.dumps(order).encode() + b"\n"], [0, 1])
        taker.recv(1)


def _pump(agent: socket.socket, ready: list[object]) -> bool:
    if 0 in ready:
        data = os.read(0, CHUNK_BYTES)
        if not data:
            return False
        agent.sendall(data)
    if agent in ready:
        data = agent.recv(CHUNK_BYTES)
        if not data:
            return False
        while data:
            data = data[os.write(1, data) :]
    return True
