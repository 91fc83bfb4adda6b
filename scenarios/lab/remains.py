"""Finds whatever a lab may have left on this machine."""

import contextlib
import os
from pathlib import Path

from scenarios.lab import groups, record, switch


def remains(name: str) -> list[str]:
    """Everything of the lab that is still there, in words; empty when nothing is."""
    return [*_processes(name), *_mounts(name), *_network(name), *_groups(name), *_files(name), *_loops(name)]


def _processes(name: str) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if not groups.started(int(entry.name)):
                continue  # ended; whoever adopted it will notice
            member = f"/{groups.TOP}/{name}/" in (entry / "cgroup").read_text()
            words = (entry / "cmdline").read_text().replace("\0", " ")
            if member and not words:
                continue  # past its end: a namespace's init that waits until its last zombie is reaped holds nothing
            if member or f"{record.directory(name)}/" in words:
                found.append(f"process {entry.name} {words}")
    return found


def _mounts(name: str) -> list[str]:
    lines = Path("/proc/mounts").read_text().splitlines()
    return [f"mount {line}" for line in lines if f"{record.directory(name)}/" in line or f"/netns/{name}-" in line]


def _network(name: str) -> list[str]:
    spaces = [f"network namespace {path.name}" for path in switch.NETNS.glob(f"{name}-*")]
    link = switch.machine_link(name)
    return spaces + ([f"link {link}"] if link in os.listdir("/sys/class/net") else [])


def _groups(name: str) -> list[str]:
    return [f"cgroup {group}" for group in (groups.of(name), groups.limited(name, "")) if group.exists()]


def _files(name: str) -> list[str]:
    return [f"directory {record.directory(name)}"] if record.directory(name).exists() else []


def _loops(name: str) -> list[str]:
    files = [path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    return [f"loop device on {file}" for file in files if f"{record.directory(name)}/" in file]
