"""A conversation with the kernel about another network namespace.

Rule: the calling thread is in that namespace only while the conversation is begun, and is back before anything else happens:
a socket belongs to the namespace it was made in. (pyroute2's own NetNS starts a process for it, which takes 10 ms.)
"""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def inside_of(namespace: Path) -> Iterator[Any]:
    """pyroute2's IPRoute of the network namespace that this file names. Raises OSError: there is none."""
    route = _begun_in(namespace)
    try:
        yield route
    finally:
        route.close()


def _begun_in(namespace: Path) -> Any:
    with open("/proc/thread-self/ns/net") as ours, namespace.open() as theirs:
        enter(theirs.fileno())
        try:
            return IPRoute()
        finally:
            enter(ours.fileno())


def leave() -> None:
    """The calling thread, into a fresh namespace. Raises OSError."""
    if _libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"unshare: {os.strerror(ctypes.get_errno())}")


def enter(namespace: int) -> None:
    """The calling thread, by a descriptor of the namespace. Raises OSError."""
    if _libc.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"setns: {os.strerror(ctypes.get_errno())}")
