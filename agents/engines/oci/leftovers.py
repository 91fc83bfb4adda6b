"""What runtimes and CRIU leave of a VE that has no processes, and where they worked.

Rule: mounts go before directories: whoever removes a directory in which a VE's root is mounted removes the VE's files.
"""

import shutil
from pathlib import Path

from agents import places
from agents.engines.oci import mounts
from agents.engines.oci.bundle import Bundle
from agents.engines.oci.runtime import RUNTIMES, Runtime

CRIU_ROOT = "/criu-root"
"""Where crun mounts the root for CRIU, in the bundle: a restore that waits on the target has it there while files arrive."""


async def forget(ve: str) -> None:
    """What the runtimes still remember of a VE without processes; either, since nobody knows what was here before.

    Mounts first: a killed restore leaves the VE's root mounted in its runtime's state, and whoever removes that
    (`runc delete -f` as well) would remove the VE's files.
    """
    runtimes = [Runtime(name) for name in RUNTIMES]
    for left in (criu_root(ve), work_of(ve), *(each.state(ve) for each in runtimes)):
        mounts.detach(left)
    mounts.forget_criu_roots()
    for each in runtimes:
        await each.forget(ve)
    shutil.rmtree(criu_root(ve), ignore_errors=True)


def criu_root(ve: str) -> Path:
    """Where crun mounts the root of a VE for CRIU."""
    return Bundle(ve).path / CRIU_ROOT[1:]


def work_of(ve: str) -> Path:
    """Where the tools work for a VE, and leave their logs."""
    return places.RUN / "work" / ve
