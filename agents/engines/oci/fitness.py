"""Whether this host fits a VE that is to come: tools, names, and what its configuration asks of a host.

Rule: an objection that may be waived costs at worst a failed, undone migration. Addresses, disk, memory and CPU are compared by
the controller.
"""

import json
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agents.engines.oci import tools
from agents.engines.oci.bundle import runtime_of
from agents.engines.oci.cgroup import MOUNT
from agents.engines.oci.tools import HostTools, numbers
from agents.engines.port import Coming
from agents.network import links
from migrator.wire.facts import Mode, Objection

UPGRADE = "bring the target's tools to the source's versions, or move in the other direction first"
CONTROLLER_OF = {"memory": "memory", "cpu": "cpu", "pids": "pids", "blockIO": "io", "hugepageLimits": "hugetlb"}
"""Part of linux.resources (OCI runtime specification) -> cgroup controller that carries it out."""


async def objections(coming: Coming) -> list[Objection]:
    """Everything found, in no order of weight."""
    here = await tools.here()
    try:
        described = json.loads(coming.facts.config)
        config, there = described["bundle"], described["host"]
    except (ValueError, KeyError, TypeError):
        evidence = f"the source's agent describes {coming.facts.ve} in a way that this host's does not know"
        return [Objection("description", evidence, "migrator host add both hosts, so that their agents are alike")]
    found = [*_names(coming), *_demands(config, here)]
    if coming.mode is Mode.LIVE:
        found += _versions(config, there, here)
    return found


def _names(coming: Coming) -> Iterator[Objection]:
    if coming.ve != coming.facts.ve:
        evidence = f"the bundle of {coming.facts.ve} names its cgroup and its network namespace after itself"
        yield Objection("new-id", evidence, "move it under its own id")
    for each in coming.facts.interfaces:
        bridge = coming.name("bridge", each.bridge)
        if bridge and not links.is_bridge(bridge):
            evidence = f"{each.name} of {coming.ve} has to be on bridge {bridge}, which is not here"
            yield Objection("bridge", evidence, "make it, or map it in the inventory")
        if links.exists(each.host_name):
            evidence = f"the host's end of {each.name} of {coming.ve} is called {each.host_name}, and so is a link here"
            yield Objection("link-taken", evidence, f"ip link del {each.host_name}, if nothing needs it")


def _versions(config: dict[str, Any], there: dict[str, Any], here: HostTools) -> Iterator[Objection]:
    """A restore needs a CRIU, a runtime and a kernel that know all that the dump's wrote."""
    runtime = runtime_of(config).name
    source, target = str(there.get("criu", "")), here.criu
    if target and numbers(target) < numbers(source):
        evidence = f"CRIU {target} here is to restore what CRIU {source} dumps"
        yield Objection("criu-older", evidence, UPGRADE, waivable=True)
    source, target = str(there.get(runtime, "")), here.version(runtime)
    if target and numbers(target) < numbers(source):
        yield Objection("runtime-older", f"{runtime} is {target} here and {source} there", UPGRADE, waivable=True)
    source, target = str(there.get("kernel", "")), here.kernel
    if numbers(target)[:2] < numbers(source)[:2]:
        evidence = f"Linux is {target} here and {source} there: what the VE uses of the newer one cannot be restored"
        yield Objection("kernel-older", evidence, "move to a host with the same or a newer kernel", waivable=True)


def _demands(config: dict[str, Any], here: HostTools) -> Iterator[Objection]:
    """What the configuration asks of any host on which the VE is started or restored."""
    process, linux = config.get("process", {}), config.get("linux", {})
    for key, lsm in (("apparmorProfile", "apparmor"), ("selinuxLabel", "selinux")):
        if process.get(key) and lsm not in here.lsm:
            evidence = f"the VE is confined by {lsm} ({process[key]}), which this kernel has not enabled"
            yield Objection("lsm", evidence, f"enable {lsm} here, or take {key} out of the VE's config.json")
    if not here.may_set_limits:
        yield from _without_capability(process)
    wanted = {
        CONTROLLER_OF[part] for part, value in linux.get("resources", {}).items() if value and part in CONTROLLER_OF
    }
    if missing := sorted(wanted - set(here.cgroup_controllers)):
        evidence = f"the VE has limits for {', '.join(missing)}, and {MOUNT} here has no such controller"
        yield Objection("cgroup-controllers", evidence, "hand the controllers to the v2 hierarchy here", waivable=True)
    for device in linux.get("devices", []):
        if not _known(device):
            evidence = f"the VE has the device {device.get('path')}, for which this host has no driver"
            yield Objection("device", evidence, "load its module here", waivable=True)


def _without_capability(process: dict[str, Any]) -> Iterator[Objection]:
    remedy = "give root here CAP_SYS_RESOURCE, or take it out of the VE's config.json"
    for limit in process.get("rlimits", []):
        number = getattr(resource, str(limit.get("type", "")), None)
        if number is None:
            continue
        own = resource.getrlimit(number)[1]
        if own != resource.RLIM_INFINITY and not 0 <= int(limit.get("hard", 0)) <= own:
            evidence = f"{limit['type']} is to be {limit['hard']}, and root here may give at most {own}"
            yield Objection("rlimits", evidence, remedy)
    if int(process.get("oomScoreAdj", 0)) < int(Path("/proc/self/oom_score_adj").read_text()):
        yield Objection("oom-score", f"oomScoreAdj is to be {process['oomScoreAdj']}, lower than root's here", remedy)


def _known(device: dict[str, Any]) -> bool:
    """Whether the kernel has a driver for this major number; what is no device (a FIFO) needs none."""
    section = {"c": "Character", "u": "Character", "b": "Block"}.get(str(device.get("type", "")))
    if section is None:
        return True
    part = Path("/proc/devices").read_text().split(f"{section} devices:\n")[1].split("\n\n")[0]
    return str(device.get("major")) in {line.split()[0] for line in part.splitlines() if line}
