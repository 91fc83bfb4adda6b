"""What is set in a VE's network namespace beside links and addresses: net.* of sysctl(8), and nftables rules.

A checkpoint carries neither, because the namespace is made by us and not by CRIU. Rule: only what differs from a fresh namespace
of this kernel is carried, and what the other kernel does not know is left as it is there.
"""

import os
import threading
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TypeVar

from agents import shell
from agents.network import namespaces
from agents.network.links import NAMESPACES
from agents.shell import failed

SYSCTLS = Path("/proc/sys/net")
OF_THE_LINK = frozenset({"mtu"})
"""Settings of an interface that its link decides."""
NFT_LIMIT_S = 10.0
Answer = TypeVar("Answer")


def changed(name: str) -> dict[str, str]:
    """Path below SYSCTLS -> value, of everything in this namespace that is not as in a fresh one. Blocking."""
    here, fresh = _inside(NAMESPACES / name, _read), _fresh()
    return {path: value for path, value in here.items() if value != _usual(path, here, fresh)}


def _usual(path: str, here: Mapping[str, str], fresh: Mapping[str, str]) -> str:
    """The value that is nothing to be carried: the fresh one, or for an interface what its kind of setting begins with."""
    if path in fresh:
        return fresh[path]
    kind, _, setting = path.rpartition("/")
    begins_with = f"{kind.rpartition('/')[0]}/default/{setting}"
    return here[path] if setting in OF_THE_LINK else here.get(begins_with, here[path])


def apply(name: str, settings: Mapping[str, str]) -> None:
    """Set in this namespace what is not so already; general ones first, since they change special ones. Blocking."""

    def write() -> None:
        for path in sorted(settings, key=_generality):
            file = SYSCTLS / path
            try:
                if file.read_text().strip() != settings[path]:
                    file.write_text(settings[path])
            except OSError:
                continue

    if settings:
        _inside(NAMESPACES / name, write)


def _generality(path: str) -> tuple[int, str]:
    parts = path.split("/")
    special = 3 if len(parts) > 2 else 0
    return next((order for order, part in ((1, "all"), (2, "default")) if part in parts), special), path


async def rules(name: str) -> str:
    """The nftables rules in this namespace; empty: none, or nothing here that could tell."""
    ran = await shell.run([*_enter(name), "nft", "--stateless", "list", "ruleset"], limit_s=NFT_LIMIT_S)
    return ran.stdout if ran.ok else ""


async def set_rules(name: str, text: str) -> None:
    """Put them into a namespace that has none. Raises FaultError."""
    ran = await shell.run(
        [*_enter(name), "nft", "-f", "-"], stdin=f"flush ruleset\n{text}".encode(), limit_s=NFT_LIMIT_S
    )
    if not ran.ok:
        raise failed(ran, "set the VE's own packet filter")


def _enter(name: str) -> list[str]:
    return ["nsenter", f"--net={NAMESPACES / name}", "--"]


@cache
def _fresh() -> Mapping[str, str]:
    return _inside(None, _read)


def _read() -> dict[str, str]:
    found = {}
    for directory, _, names in os.walk(SYSCTLS):
        for name in names:
            path = Path(directory, name)
            try:
                found[str(path.relative_to(SYSCTLS))] = path.read_text().strip()
            except (OSError, ValueError):
                continue  # only for writing, or not set
    return found


def _inside(namespace: Path | None, work: Callable[[], Answer]) -> Answer:
    """Do it in a namespace, or in a fresh one: in a thread that ends, since only that thread enters. Raises OSError."""
    answers: list[Answer] = []
    errors: list[OSError] = []

    def enter_and_work() -> None:
        try:
            _enter_thread(namespace)
            answers.append(work())
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=enter_and_work)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return answers[0]


def _enter_thread(namespace: Path | None) -> None:
    if namespace is None:
        namespaces.leave()
    else:
        with namespace.open() as handle:
            namespaces.enter(handle.fileno())
