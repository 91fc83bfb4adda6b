"""`vserver NAME start`: the order of work and the ways it fails, as the real script has them."""

import os
import signal
import subprocess
import time

from . import kernel, switches
from .config import VSHELPER, VSHELPER_STATE, Config, ConfigError
from .files import Files
from .setup import add_addresses, locked, mount, remove_addresses, say, scripts, set_disk_limits, unmount
from .status import running_xid

LISTS = {"bcapabilities": ("bcap", tuple(kernel.CAPABILITY_NUMBERS)), "ccapabilities": ("ccap", tuple(kernel.CCAPS)),
         "cflags": ("flag", tuple(kernel.FLAGS)), "flags": ("flag", tuple(kernel.FLAGS)),
         "nflags": ("nflag", tuple(kernel.NFLAGS)), "ncapabilities": ("ncap", tuple(kernel.NCAPS))}  # fmt: skip


class Failed(Exception):
    """Starting ends with this status; what it said is said."""

    def __init__(self, status: int, *, stays: bool = False) -> None:
        super().__init__(status)
        self.status = status
        self.stays = stays
        """Whether the context goes on with what it has."""


def start(config: Config) -> int:
    """Exit status."""
    with locked(config):
        if running_xid(config) is not None:
            say(f"vserver '{config.name}' already running")
            return 0
        try:
            _check(config)
        except ConfigError as error:
            say(str(error))
            return 1
        return _start(config)


def _check(config: Config) -> None:
    with kernel.state() as known:
        helper = known["vshelper"]
    if helper != VSHELPER:
        raise ConfigError(
            "The following problem(s) were encountered while verifying vshelper functionality:\n"
            f"  * The configured vshelper '{helper}' does not match the '{VSHELPER}' script of the util-vserver package."
        )
    if config.xid is None and not switches.hits("dynamic-contexts"):
        raise ConfigError(
            "The kernel does not have dynamic contexts enabled. Please configure a static one by executing\n"
            f"  echo [number between 2 and 49151] > {config}/context"
        )
    with kernel.state() as known:
        if not known["unhidden"]:
            raise ConfigError("/proc/uptime can not be accessed. Usually, this is caused by procfs-security.")


def _start(config: Config) -> int:
    xid = config.xid or _dynamic()
    try:
        if not scripts(config, "initialize"):
            raise Failed(1)
        if config.own_namespace:
            kernel.unshare(kernel.CLONE_NEWNS)
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        if not scripts(config, "prepre-start"):
            raise Failed(1)
        set_disk_limits(config, xid)
        if not add_addresses(config) and not switches.on("start-ignores-devices"):
            raise Failed(1)
        if not mount(config) and not switches.on("start-ignores-mounts"):
            raise Failed(1)
        _empty_runtime(config)
        if not scripts(config, "pre-start"):
            raise Failed(1)
        _create(config, xid)
        _boot(config, xid)
    except ConfigError as error:
        say(str(error))
        return _undo(config, Failed(1))
    except Failed as failed:
        return _undo(config, failed)
    scripts(config, "post-start")
    VSHELPER_STATE.mkdir(parents=True, exist_ok=True)
    (VSHELPER_STATE / str(xid)).write_text(f"{config}\n")
    return 0


def _undo(config: Config, failed: Failed) -> int:
    if not failed.stays:
        unmount(config)
    remove_addresses(config)
    return failed.status


def _dynamic() -> int:
    with kernel.state() as known:
        taken = {int(xid) for xid in known["contexts"]}
    return next(xid for xid in range(49152, 65536) if xid not in taken)


def _empty_runtime(config: Config) -> None:
    """Sysv style: plain files below /var/run and /var/lock of the guest are removed."""
    if config.style != "sysv":
        return
    for part in ("var/run", "var/lock"):
        directory = config.root / part
        if directory.is_dir() and not directory.is_symlink():
            for path in directory.rglob("*"):
                if path.is_file() and not path.is_symlink():
                    path.unlink()


def _create(config: Config, xid: int) -> None:
    nid = int(config.value("ncontext") or xid)
    words = {file: _words(config, file) for file in LISTS}
    _make_network(config, nid)
    try:
        with kernel.state() as known:
            if str(xid) in known["contexts"] or switches.hits("start-fails", config.name):
                for _ in range(2):
                    say("vcontext: vc_ctx_create(): File exists")
                say(
                    "\nAn error occured while executing the vserver startup sequence; when\n"
                    "there are no other messages, it is very likely that the init-script\n"
                    f"(/etc/init.d/rc 3) failed.\n\nFailed to start vserver '{config.name}'"
                )
                raise Failed(254)
            known["contexts"][str(xid)] = {
                "name": kernel.truncated(str(config)), "nid": nid, "setup": os.getpid(), "init": 0, "began": time.time(),
                "bcaps": _masked(kernel.SECURE, words["bcapabilities"]),
                "ccaps": _masked(["set_utsname", "raw_icmp"], words["ccapabilities"]),
                "flags": _masked(["hide_netif"], [*words["cflags"], *words["flags"]]), "umask": [],
                "tag": int(config.value("tag") or xid),
                "uts": {field: config.value(f"uts/{field}") for field in ("nodename", "domainname")},
            }  # fmt: skip
        _save(config, xid)
    except Failed:
        with kernel.state() as known:
            known["networks"].get(str(nid), {}).pop("setup", None)
        raise


def _make_network(config: Config, nid: int) -> None:
    addresses = [f"{interface.ip}/{interface.prefix}" for interface in config.interfaces()]
    with kernel.state() as known:
        network = known["networks"].get(str(nid))
        if network is not None and not switches.on("silent-nid-clash"):
            say("ncontext: vc_net_create(): File exists")
            raise Failed(254)
        network = known["networks"].setdefault(str(nid), {"addresses": [], "nflags": [], "ncaps": []})
        network["setup"] = os.getpid()
        network["addresses"] += [address for address in addresses if address not in network["addresses"]]
        network["ncaps"] = config.words("ncapabilities")
        network["nflags"] = config.words("nflags")


def _words(config: Config, file: str) -> list[str]:
    kind, known = LISTS[file]
    words = [word.strip().lower() for word in config.words(file)]
    for word in words:
        if word.lstrip("~!") not in known and not word.startswith("^"):
            say(f"Unknown {kind} '{word.lstrip('~!').upper()}'\n\nFailed to start vserver '{config.name}'")
            raise Failed(1)
    return words


def _masked(base: list[str], words: list[str]) -> list[str]:
    removed = {word.lstrip("~!") for word in words if word[0] in "~!"}
    return [*dict.fromkeys([word for word in [*base, *words] if word[0] not in "~!" and word not in removed])]


def _save(config: Config, xid: int) -> None:
    path = os.readlink(config.run_file) if config.run_file.is_symlink() else str(config.run_file)
    try:
        with open(path, "w") as file:
            file.write(f"{xid}\n")
    except OSError as error:
        say(f"save_ctxinfo: open({path}): {error.strerror}")
        _settle(xid)
        raise Failed(255) from error


def _settle(xid: int) -> None:
    """From now on the context lives as long as its processes."""
    with kernel.state() as known:
        context = known["contexts"].get(str(xid))
        if context is not None:
            context.pop("setup", None)
            known["networks"].get(str(context["nid"]), {}).pop("setup", None)


def _boot(config: Config, xid: int) -> None:
    found = kernel.context(xid)
    assert found is not None
    Files().began(str(config.root), found["tag"])
    plain = config.style in ("plain", "minit", "gentoo", "openrc")
    level = config.value("apps/init/runlevel.start") or config.value("apps/init/runlevel", "3")
    argv = config.words("apps/init/cmd.start") or (["/sbin/init"] if plain else ["/etc/init.d/rc", level])
    root = os.path.realpath(config.root)

    def prepare() -> None:
        kernel.join(xid)
        kernel.unshare(kernel.CLONE_NEWUTS | kernel.CLONE_NEWIPC)
        if found["uts"]["nodename"]:
            subprocess.run(["hostname", found["uts"]["nodename"]], check=False)
        os.chroot(root)
        os.chdir("/")
        kernel.drop_capabilities(found["bcaps"])

    child = kernel.spawn(prepare, argv, quiet=True)
    with kernel.state() as known:
        known["contexts"][str(xid)]["init"] = child
    if plain:
        time.sleep(0.05)
        ended, status = os.waitpid(child, os.WNOHANG)
    else:
        ended, status = os.waitpid(child, 0)
    _settle(xid)
    if ended and os.waitstatus_to_exitcode(status):
        _init_failed(config, xid)
    if not kernel.pids(xid):
        Files().ended(str(config.root))
        say(
            f"vshelper.init: can not determine xid of vserver '{config.name}'; returned value was ''\n"
            "An error occured after executing the vserver startup sequence. The startup was successful,\n"
            "but the vserver may be unusable; manual execution of\n"
            f"  vserver '{config}' stop\nis recommended."
        )
        raise Failed(1)


def _init_failed(config: Config, xid: int) -> None:
    say(
        "\nAn error occured while executing the vserver startup sequence; when\nthere are no other messages, it is very "
        f"likely that the init-script\n(/etc/init.d/rc 3) failed.\n\nFailed to start vserver '{config.name}'"
    )
    if not switches.on("failed-init-stays"):
        kernel.kill(xid, signal.SIGKILL)
        kernel.wait_empty(xid, None)
    raise Failed(1, stays=switches.on("failed-init-stays"))
