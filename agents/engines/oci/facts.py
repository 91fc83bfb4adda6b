"""What is so of one VE: read from its bundle and from /proc. Blocking calls, for a thread.

Rule: the configuration that goes with the facts also says what the host is on which the VE runs now, for the target's engine
to compare with; nobody else reads it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from signal import Signals
from typing import Any

from agents.engines.oci import blockers
from agents.engines.oci.bundle import Bundle
from agents.engines.oci.cgroup import Group
from agents.engines.oci.tools import HostTools
from agents.network import settings
from migrator.wire.facts import VeFacts, VeState


def gather(bundle: Bundle, group: Group, state: VeState, host: HostTools, rules: str) -> VeFacts:
    """All facts of a bundle that is here; `rules` is its own packet filter."""
    pids = group.processes() if group.path.is_dir() else []
    return VeFacts(
        bundle.ve,
        "oci",
        state,
        runtime=bundle.runtime.name,
        root=str(bundle.path),
        memory_bytes=sum(map(proportional_bytes, pids)),
        disk_bytes=bundle.disk_bytes(),
        processes=len(pids),
        interfaces=bundle.interfaces(),
        foreign_mounts=bundle.foreign_mounts(),
        autostart=bundle.autostart,
        blockers=tuple(blockers.find(pids, bundle.mount_points())) if state is VeState.RUNNING else (),
        notes=tuple(blockers.visitors(pids)),
        config=describe(bundle.config, host, settings.changed(bundle.ve) if pids else {}, rules),
    )


def describe(config: dict[str, Any], host: HostTools, sysctls: Mapping[str, str], rules: str) -> bytes:
    """The configuration, the host it works on, and what is set in the VE's network."""
    return json.dumps({"bundle": config, "host": asdict(host), "sysctls": sysctls, "rules": rules}).encode()


def may_filter(config: dict[str, Any]) -> bool:
    """Whether the VE can have made packet filters of its own."""
    return "CAP_NET_ADMIN" in config.get("process", {}).get("capabilities", {}).get("bounding", [])


def proportional_bytes(pid: int) -> int:
    """A process's memory, what it shares counted in parts; 0 when it has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0


def first_process(pids: Sequence[int]) -> int | None:
    """The one that is process 1 of its PID namespace."""
    return next((pid for pid in pids if _status_field(pid, "NSpid").split()[-1:] == ["1"]), None)


def handles(pid: int, number: Signals) -> bool:
    """Whether a process has a handler for this signal."""
    return bool(int(_status_field(pid, "SigCgt") or "0", 16) >> (number - 1) & 1)


def _status_field(pid: int, name: str) -> str:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""
    found = re.search(rf"^{name}:\s+(.*)$", text, re.MULTILINE)
    return found.group(1) if found else ""
