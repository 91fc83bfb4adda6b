"""`vzctl set`, `vzctl create` and the quota commands."""

import os
import shutil
import subprocess
from pathlib import Path

from . import conf, faults, network
from .ct import Ct, ExitError, Voice, by_name

SIMPLE = {
    "onboot", "bootorder", "disabled", "hostname", "nameserver", "searchdomain", "description", "cpuunits", "cpulimit",
    "cpus", "cpumask", "nodemask", "ioprio", "iolimit", "iopslimit", "diskspace", "diskinodes", "quotatime",
    "quotaugidlimit", "physpages", "swappages", "ram", "swap", "features", "capability", "devices", "devnodes",
    "netfilter", "iptables", "kmemsize", "privvmpages", "numproc", "private", "root", "netif", "mount_opts",
    "stop-timeout", "ostemplate", "layout",
}  # fmt: skip
KEYS = {"private": "VE_PRIVATE", "root": "VE_ROOT", "layout": "VE_LAYOUT", "stop-timeout": "STOP_TIMEOUT"}
NETIF_ADD = ("ifname", "mac", "host_ifname", "host_mac", "bridge")
QUOTA_OFF = {"quotainit": 61, "quotaon": 60, "quotaoff": 66}


def set_or_create(verb: str, one: Ct, words: list[str], voice: Voice) -> None:
    """`vzctl set` and `vzctl create`."""
    changes, flags = _changes(one, words)
    if verb == "create":
        _create(one, changes, voice)
        return
    if one.running and {"VE_PRIVATE", "VE_ROOT"} & set(changes):
        key = "VE_PRIVATE" if "VE_PRIVATE" in changes else "VE_ROOT"
        voice.complain(f"Unable to change {key} on a running container")
        text = "Error: failed to apply some parameters, not saving configuration file!"
        raise ExitError(32, text)
    if "NAME" in changes:
        _name(one, changes["NAME"], save="--save" in flags, voice=voice)
    if one.running:
        _apply(one, changes, voice)
    if "--save" in flags:
        conf.store(one.config, {key: value or None for key, value in changes.items()})
        voice.say(f"CT configuration saved to {one.config}")
    elif changes:
        text = "WARNING: Settings were not saved to config and will be lost after CT restart (use --save flag)"
        voice.say(text)


def _changes(one: Ct, words: list[str]) -> tuple[dict[str, str], set[str]]:
    changes: dict[str, str] = {}
    flags: set[str] = set()
    held = one.values.get("IP_ADDRESS", "").split()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in ("--save", "--force"):
            flags.add(word)
            continue
        if not word.startswith("--"):
            raise ExitError(20, f"Invalid extra arguments: {word} ")
        if not rest:
            raise ExitError(20, f"vzctl: option '{word}' requires an argument")
        name, value = word[2:], rest.pop(0)
        match name:
            case "ipadd":
                held = [*held, *value.split()]
                changes["IP_ADDRESS"] = " ".join(held)
            case "ipdel":
                held = [] if value == "all" else [ip for ip in held if ip not in value.split()]
                changes["IP_ADDRESS"] = " ".join(held)
            case "netif_add":
                parts = dict(zip(NETIF_ADD, value.split(","), strict=False))
                one_more = ",".join(f"{key}={part}" for key, part in parts.items() if part)
                changes["NETIF"] = ";".join(filter(None, [one.values.get("NETIF", ""), one_more]))
            case "name":
                changes["NAME"] = value
            case "applyconfig_map":
                changes["NAME"] = one.values.get("NAME", "")
            case "setmode" | "config" | "local_uid" | "local_gid":
                pass
            case _ if name in SIMPLE:
                changes[KEYS.get(name, name.upper())] = value
            case _:
                raise ExitError(20, f"vzctl: unrecognized option '{word}'")
    return changes, flags


def _name(one: Ct, name: str, *, save: bool, voice: Voice) -> None:
    names = conf.ETC / "names"
    if not save:
        raise ExitError(131, "Error: option --name requires --save")
    old = one.values.get("NAME", "")
    if name and (names / name).is_symlink() and (other := by_name(name)) != one.ctid:
        raise ExitError(131, f"Conflict: name {name} already used by container {other}")
    if old and old != name:
        (names / old).unlink(missing_ok=True)
    if name and not (names / name).is_symlink():
        names.mkdir(parents=True, exist_ok=True)
        os.symlink(one.config, names / name)
    if name:
        voice.say(f"Name {name} assigned")


def _apply(one: Ct, changes: dict[str, str], voice: Voice) -> None:
    if "CPUUNITS" in changes:
        voice.say(f"Setting CPU units: {changes['CPUUNITS']}")
    if "IP_ADDRESS" in changes:
        held = network.addresses({"IP_ADDRESS": changes["IP_ADDRESS"]})
        if fresh := [ip for ip in held if ip not in network.addresses(one.values)]:
            voice.say(f"Adding IP address(es): {' '.join(fresh)}")
            network.net_add(one.ctid, held, detect=False, host=one.host)


def _create(one: Ct, changes: dict[str, str], voice: Voice) -> None:
    if one.private.exists():
        raise ExitError(44, f"Private area already exists in {one.private}")
    if changes.get("VE_LAYOUT", "simfs").startswith("ploop"):
        raise ExitError(99, "ploop is not supported by this build")
    template = changes.get("OSTEMPLATE") or one.host.get("DEF_OSTEMPLATE", "")
    cache = Path(one.host["TEMPLATE"]) / "cache"
    archive = next(
        (path for end in ("", ".gz", ".bz2", ".xz") if (path := cache / f"{template}.tar{end}").exists()), None
    )
    if archive is None:
        raise ExitError(91, f"Unable to find OS template: {cache}/{template}.tar.gz")
    values = {"OSTEMPLATE": template, "VE_LAYOUT": "simfs", **changes}
    defaults = {"ONBOOT": "no", "VE_ROOT": one.host["VE_ROOT"], "VE_PRIVATE": one.host["VE_PRIVATE"]}
    fresh = Ct(one.ctid, one.host, {**defaults, **values})
    voice.say(f"Creating container private area ({template})")
    _unpack(archive, fresh.private)
    fresh.root.mkdir(parents=True, exist_ok=True)
    voice.say("Performing postcreate actions")
    if "NAME" in changes:
        _name(one, changes["NAME"], save=True, voice=voice)
    conf.store(one.config, {**defaults, **values})
    voice.say(f"CT configuration saved to {one.config}")
    voice.say("Container private area was created")


def _unpack(archive: Path, private: Path) -> None:
    private.mkdir(parents=True)
    try:
        faults.before("create")
    except faults.InjectedError as error:
        shutil.rmtree(private)
        raise ExitError(46, f"Creation of container private area failed: {error}") from error
    done = subprocess.run(["tar", "--numeric-owner", "-xpf", archive, "-C", private], check=False)
    if done.returncode:
        shutil.rmtree(private)
        raise ExitError(48, "Creation of container private area failed")


def quota(verb: str, one: Ct, voice: Voice) -> int:
    """Quota is switched on in no lab host: what vzctl says then, and its code."""
    if (one.values.get("DISK_QUOTA") or one.host.get("DISK_QUOTA", "no")) != "yes":
        voice.say("Disk quota is not enabled, skipping operation")
        return QUOTA_OFF[verb]
    raise ExitError(QUOTA_OFF[verb], "vzquota : (error) quota is not supported by this kernel")
