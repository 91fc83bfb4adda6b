"""Keeps what a worker holds open beyond its death: a process that shares the worker's descriptors, and does nothing else.

A fork of the VE comes as a new descriptor, made by the kernel for whoever reads the event. Were the worker killed before it
could hand that on, the descriptor would be closed with it, and the child would read zeros. The anchor's table of descriptors
is the worker's own (CLONE_FILES), so it stays open there, and the guardian takes it out.

The anchor ends by itself as soon as the guardian's end of the worker's socket is closed: by a guardian that has taken
what it needs, or with the guardian, whose place the worker then takes.
"""

import os
import select
import socket

from agents.transfer.memory import kernel


def start(guardian: socket.socket) -> tuple[int, int]:
    """In a worker: the anchor's process id, and a descriptor that stands for it. Raises OSError."""
    pid, pidfd = kernel.clone_with_our_files()
    if pid:
        return pid, pidfd
    try:
        poll = select.poll()
        poll.register(guardian.fileno(), 0)  # 0: nothing but that the other end is closed
        poll.poll()
    finally:
        os._exit(0)


def take_out(pidfd: int, number: int) -> int:
    """In the guardian: the descriptor that the dead worker called ``number``; -1: the anchor has died too."""
    try:
        return kernel.pidfd_getfd(pidfd, number)
    except OSError:
        return -1
