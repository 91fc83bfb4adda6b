"""The programs that make, change and enter contexts: `vcontext`, `vattribute`, `naddress`, `vnamespace` and their kin."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from . import kernel, switches
from .config import VSHELPER, Config, guests
from .setup import say

WITH_VALUE = ("--xid", "--nid", "--ip", "--bcast", "--lback", "--tag", "--uid", "--timeout", "--bcap", "--ccap", "--flag",
              "--umask", "--ncap", "--cap", "--hostname", "--enter", "--mask", "--range", "-c", "-s", "-t")  # fmt: skip


class Words:
    """Options, their values, and the command after `--` or after the last option."""

    def __init__(self, words: list[str]) -> None:
        self.values: dict[str, list[str]] = {}
        self.command: list[str] = []
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if word == "--":
                self.command = rest
                break
            if not word.startswith("-"):
                self.command = [word, *rest]
                break
            known = word in WITH_VALUE and rest
            self.values.setdefault(word, []).append(rest.pop(0) if known else "")

    def has(self, *options: str) -> bool:
        """Whether any of them is given."""
        return any(option in self.values for option in options)

    def value(self, *options: str) -> str:
        """Value of the first given; empty when none is."""
        return next((self.values[option][-1] for option in options if option in self.values), "")

    def split(self, option: str) -> list[str]:
        """A comma list, in lower case."""
        return [word.lower() for text in self.values.get(option, []) for word in text.split(",") if word]


def _run(xid: int | None, argv: list[str]) -> int:
    """Exit status of a program, run in the context's mount namespace if one is given."""

    def prepare() -> None:
        if xid is not None:
            kernel.enter_mounts(xid)

    child = kernel.spawn(prepare, argv, dict(os.environ), quiet=False)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code


def vnamespace(words: list[str]) -> int:
    """`--enter X CMD` with the guest's mounts and the host's root; `--new CMD`."""
    given = Words(words)
    if given.has("--enter"):
        text = given.value("--enter")
        xid = int(text) if text.isdigit() else next((int(g.xid or 0) for g in guests() if g.name == text), 0)
        if not kernel.pids(xid):
            say("vspace: vc_enter_namespace(): No such process")
            return 255
        return _run(xid, given.command)
    if given.has("--new"):
        return subprocess.run(["unshare", "-m", "--propagation", "private", *given.command], check=False).returncode
    return 0 if given.has("--set", "--cleanup") else 255


def vspace(words: list[str]) -> int:
    """As vnamespace, with a choice of namespaces that does not matter here."""
    return vnamespace([word for word in words if word not in ("--mount", "--fs", "--ipc", "--uts", "--net")])


def vcontext(words: list[str]) -> int:
    """`--create|--migrate [--xid X] CMD`"""
    given = Words(words)
    xid = int(given.value("--xid") or 0)
    if given.has("--create"):
        with kernel.state() as known:
            if str(xid) in known["contexts"]:
                if not given.has("--silentexist"):
                    say("vcontext: vc_ctx_create(): File exists")
                return 254
            known["contexts"][str(xid)] = {
                "name": "", "nid": xid, "setup": os.getpid(), "init": 0, "began": time.time(), "bcaps": [*kernel.SECURE],
                "ccaps": [], "flags": [], "umask": [], "tag": xid, "uts": {},
            }  # fmt: skip
        if not given.has("--silent"):
            print(f"New security context is {xid}")
    elif kernel.context(xid) is None and xid not in (0, 1):
        say("vcontext: vc_ctx_migrate(): No such process")
        return 255
    group = kernel.join if xid > 1 else lambda _: None
    child = kernel.spawn(lambda: group(xid), given.command, dict(os.environ), quiet=False)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with kernel.state() as known:
        known["contexts"].get(str(xid), {}).pop("setup", None)
    return code if code >= 0 else 128 - code


def chcontext(words: list[str]) -> int:
    """The older front end of vcontext."""
    xid = Words(words).value("--xid")
    exists = xid and (int(xid) <= 1 or kernel.context(int(xid)) is not None)
    return vcontext(["--migrate" if exists else "--create", *words])


def vattribute(words: list[str]) -> int:
    """`[--xid X] {--get | --set ...}`"""
    given = Words(words)
    with kernel.state() as known:
        found = known["contexts"].get(given.value("--xid", "-c"))
        if found is None:
            say("vattribute: vc_get_bcaps(): No such process")
            return 1
        if given.has("--get"):
            rows = (("bcapabilities", "bcaps"), ("ccapabilities", "ccaps"), ("flags", "flags"), ("umask", "umask"))
            for label, key in rows:
                print(f"{label}: {','.join(found[key])}")
            return 0
        for option, key in (("--bcap", "bcaps"), ("--ccap", "ccaps"), ("--flag", "flags"), ("--umask", "umask")):
            found[key] = _changed(found[key], given.split(option))
    return _run(None, given.command) if given.command else 0


def _changed(words: list[str], changes: list[str]) -> list[str]:
    removed = {word[1:] for word in changes if word[0] in "~!"}
    added = [word for word in changes if word[0] not in "~!" and word not in words]
    return [word for word in [*words, *added] if word not in removed]


def nattribute(words: list[str]) -> int:
    """As vattribute, of a network context."""
    given = Words(words)
    with kernel.state() as known:
        found = known["networks"].get(given.value("--nid"))
        if found is None:
            say("nattribute: vc_get_ncaps(): No such process")
            return 1
        if given.has("--get"):
            print(f"ncapabilities: {','.join(found['ncaps'])}\nnflags: {','.join(found['nflags'])}")
            return 0
        found["ncaps"] = _changed(found["ncaps"], given.split("--ncap"))
        found["nflags"] = _changed(found["nflags"], given.split("--flag"))
    return 0


def naddress(words: list[str]) -> int:
    """`--add|--remove|--set [--nid N] [--ip IP]...`"""
    given = Words(words)
    text = given.value("--nid")
    nid = (
        text
        if text.isdigit()
        else next((g.value("ncontext") or g.value("context") for g in guests() if g.name == text), "")
    )
    addresses = given.values.get("--ip", [])
    with kernel.state() as known:
        found = known["networks"].get(nid)
        if found is None:
            say("naddress: vc_net_add(): No such process")
            return 255
        word = "Removing" if given.has("--remove") else "Adding"
        for address in addresses:
            if not given.has("--silent"):
                print(f"{word} {address}")
        bare = {address.partition("/")[0] for address in addresses}
        kept = [] if given.has("--set") else [a for a in found["addresses"] if a.partition("/")[0] not in bare]
        found["addresses"] = kept if given.has("--remove") else [*kept, *addresses]
    return 0


def ncontext(words: list[str]) -> int:
    """`--create|--migrate [--nid N] CMD`"""
    given = Words(words)
    nid = given.value("--nid")
    with kernel.state() as known:
        if given.has("--create"):
            if nid in known["networks"]:
                if not given.has("--silentexist"):
                    say("ncontext: vc_net_create(): File exists")
                return 254
            known["networks"][nid] = {"addresses": [], "nflags": [], "ncaps": [], "setup": os.getpid()}
            if not given.has("--silent"):
                print(f"New network context is {nid}")
        elif nid not in known["networks"]:
            say("ncontext: vc_net_migrate(): No such process")
            return 255
    return _run(None, given.command) if given.command else 0


def chbind(words: list[str]) -> int:
    """Create a network context, or join it if it exists, and run."""
    given = Words(words)
    nid = given.value("--nid")
    with kernel.state() as known:
        found = known["networks"].setdefault(nid, {"addresses": [], "nflags": [], "ncaps": [], "setup": os.getpid()})
        found["addresses"] += given.values.get("--ip", [])
    return _run(None, given.command)


def vtag(words: list[str]) -> int:
    """Run a program; the tag of what it makes is not followed here."""
    return _run(None, Words(words).command)


def vuname(words: list[str]) -> int:
    """`-g --xid X FIELD...`"""
    given = Words([word for word in words if word not in ("-g", "--get")])
    xid = given.value("--xid")
    found = kernel.context(int(xid)) if xid.isdigit() else None
    if found is None:
        say("vuname: vc_get_vhi_name(): No such process")
        return 255
    system = os.uname()
    values = {"context": found["name"], "nodename": found["uts"].get("nodename") or system.nodename, "sysname": system.sysname,
              "release": system.release, "version": system.version, "machine": system.machine}  # fmt: skip
    print(" ".join(str(values.get(field, "???")) for field in (given.command or list(values))))
    return 0


def vkill(words: list[str]) -> int:
    """`[-c X] [-s SIG] [PID...]`"""
    given = Words(words)
    text = given.value("-s").upper().removeprefix("SIG") or "15"
    number = int(text) if text.isdigit() else int(getattr(signal, f"SIG{text}"))
    xid = int(given.value("-c", "--xid") or 0)
    if not kernel.pids(xid):
        say("vkill: vc_ctx_kill(): No such process")
        return 1
    kernel.kill(xid, number)
    return 0


def vwait(words: list[str]) -> int:
    """`[--timeout S] X`: 0 when it ended, 1 when the time did."""
    given = Words(words)
    xid = int(given.command[0])
    limit = float(given.value("--timeout")) if given.has("--timeout") else None
    return 0 if kernel.wait_empty(xid, limit) else 1


def vprocunhide(_: list[str]) -> int:
    """Let contexts see what they may of /proc."""
    with kernel.state() as known:
        known["unhidden"] = True
    return 0


def util_vserver(words: list[str]) -> int:
    """The boot script that tells the kernel where vshelper is."""
    if words[:1] == ["start"]:
        with kernel.state() as known:
            known["vshelper"] = VSHELPER
    return 0


def vshelper(words: list[str]) -> int:
    """What the kernel calls when a guest reboots itself: `vshelper restart XID`."""
    from .config import VSHELPER_STATE
    from .start import start
    from .stop import stop

    if len(words) < 2 or words[0] not in ("restart", "halt"):
        return 0
    state = VSHELPER_STATE / words[1]
    if not state.exists():
        return 1
    config = Config(Path(state.read_text().strip()))
    if config.has("apps/vshelper/disabled"):
        return 0
    stop(config)
    return (
        start(config) if words[0] == "restart" and config.value("apps/vshelper/action", "restart") == "restart" else 0
    )


def not_a_vserver_kernel(program: str) -> int:
    """What every program says on another kernel."""
    print(f"{program}: Function not implemented", file=sys.stderr)
    return 255


def usable(program: str) -> bool:
    """Whether the program works on the kernel that is emulated."""
    return switches.on("vserver-kernel") or program == "vserver-info"
