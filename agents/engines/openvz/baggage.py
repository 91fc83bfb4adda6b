"""The tree that moves beside a VE's private area: config, action scripts, firewall rules, second-level quotas, the dump's hash.

Rule: written by the source when no process of the VE runs, so it is the last word; installed on the target under the
target's paths and the VE's id there.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

from agents import shell
from agents.engines.openvz import marks, parameters
from agents.engines.openvz.config import Config
from agents.engines.openvz.container import Container
from agents.engines.openvz.host import SCRIPTS
from agents.network import ve_rules
from agents.network.ve_rules import HostRule
from migrator.wire.faults import FaultCode, fault_error

CONFIG, RULES, QUOTA, HASH = "ve.conf", "rules.json", "quota.ugid", "dump.sha256"
QUOTA_DUMP = ("-U", "-G", "-T", "-F")


def write(one: Container, found: tuple[HostRule, ...]) -> None:
    """Config as its operator wants it, scripts with their modes, rules. The directory itself stays: it is watched."""
    directory = marks.baggage(one.ve)
    _empty(directory)
    (directory / CONFIG).write_bytes(one.own_config.render())
    for kind in one.scripts:
        shutil.copy2(one.script(kind), directory / f"ve.{kind}")
    (directory / RULES).write_text(json.dumps([rule.plain() for rule in found]))


def _empty(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def config(ve: str) -> Config | None:
    """The config that came; None when none did."""
    try:
        return Config.parse((marks.baggage(ve) / CONFIG).read_bytes())
    except FileNotFoundError:
        return None


def install_scripts(one: Container) -> None:
    """The action scripts that came, and only those."""
    directory = marks.baggage(one.ve)
    if not (directory / CONFIG).exists():
        return
    for kind in SCRIPTS:
        came = directory / f"ve.{kind}"
        if came.is_file():
            shutil.copy2(came, one.script(kind))
        else:
            one.script(kind).unlink(missing_ok=True)


def rules_of(ve: str) -> tuple[HostRule, ...]:
    """The firewall rules that came."""
    try:
        plain = json.loads((marks.baggage(ve) / RULES).read_text())
    except FileNotFoundError:
        return ()
    return tuple(ve_rules.from_plain(each) for each in plain)


def second_level(values: dict[str, str], *, quota: bool) -> bool:
    """Whether users and groups inside have quotas of their own."""
    try:
        limit = parameters.number(values.get("QUOTAUGIDLIMIT") or "0")
    except ValueError:
        limit = 0
    return (values.get("DISK_QUOTA") or ("yes" if quota else "no")) == "yes" and limit > 0


async def dump_quota(ve: str) -> None:
    """Second-level quotas into the baggage. Raises FaultError."""
    ran = await shell.run(["vzdqdump", ve, *QUOTA_DUMP], limit_s=120)
    if not ran.ok:
        raise shell.failed(ran, "quota")
    (marks.baggage(ve) / QUOTA).write_text(ran.stdout)


async def load_quota(ve: str) -> None:
    """Second-level quotas out of the baggage, if there are any. Raises FaultError."""
    path = marks.baggage(ve) / QUOTA
    if not path.exists():
        return
    ran = await shell.run(["vzdqload", ve, *QUOTA_DUMP], limit_s=120, stdin=path.read_bytes())
    if not ran.ok:
        raise shell.failed(ran, "quota")
    ran = await shell.run(["vzquota", "reload2", ve], limit_s=120)
    if not ran.ok:
        raise shell.failed(ran, "quota")


# --- the dump of a suspended VE -----------------------------------------------------------------------


def pack_dump(one: Container) -> None:
    """The dump into a tree of its own by hard links, and its hash into the baggage. Blocks: reads the dump."""
    tree = one.dump_tree
    _empty(tree)
    source = one.dump if one.dump.exists() else one.kept_dump
    if source.is_dir():
        shutil.copytree(source, tree / "Dump", copy_function=os.link)
    else:
        os.link(source, tree / "Dump")
    (marks.baggage(one.ve) / HASH).write_text(digest(tree / "Dump"))


def unpack_dump(one: Container) -> None:
    """The dump that came, checked, to where vzctl looks for it. Blocks. Raises FaultError(CORRUPT)."""
    came, wanted = one.dump_tree / "Dump", marks.baggage(one.ve) / HASH
    if not came.exists() and one.dump.exists():
        return
    if not wanted.exists() or not came.exists() or digest(came) != wanted.read_text():
        raise fault_error(
            FaultCode.CORRUPT, f"the dump of suspended VE {one.ve} did not arrive as it was sent", step="arrange"
        )
    os.replace(came, one.dump)


def digest(path: Path) -> str:
    """SHA-256 of a file, or of a directory's files with their names."""
    whole = hashlib.sha256()
    for each in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if each.is_file():
            whole.update(str(each.relative_to(path)).encode())
            with each.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()
