"""The `vserver` command itself."""

import os
import sys
from pathlib import Path

from . import build, stop
from .config import CONFIGS, DEFAULTS, Config
from .file_tools import hashify
from .setup import say
from .start import start
from .status import print_status, running_xid

OPTIONS = ("-s", "--sync", "-v", "--verbose", "--silent", "--debug", "--defaulttty", "--strace")
USAGE = "{start|stop|suexec|restart|condrestart|exec|enter|chkconfig|running|status|delete}"


def vserver(words: list[str]) -> int:
    """`vserver [options] NAME COMMAND [ARGS]`: exit status."""
    options: list[str] = []
    while words and words[0].startswith("-"):
        word = words.pop(0)
        if word == "--":
            break
        if word == "--help":
            print(f"Usage: {sys.argv[0]} [-s|--sync] [-v|--verbose] [--silent] [--debug] [--] <vserver> {USAGE}")
            return 0
        if word not in OPTIONS:
            say(f"{sys.argv[0]}: unrecognized option '{word}'")
            return 1
        options.append(word)
    if len(words) < 2:
        say(f"Usage: {sys.argv[0]} <vserver> {USAGE}")
        return 1
    name, command, *more = words
    if command == "build":
        return build.build(name, more)
    return _on_guest(name, command, more, silent="--silent" in options)


def _directory(name: str) -> Path:
    name = name.removesuffix("/")
    return Path(name).absolute() if name.startswith(("./", "/")) else CONFIGS / name


def _on_guest(name: str, command: str, more: list[str], *, silent: bool) -> int:
    directory = _directory(name)
    if (directory / "legacy").exists() or (not directory.is_dir() and CONFIGS.joinpath(f"{name}.conf").exists()):
        say("WARNING: can not find configuration, assuming legacy method")
        return 1
    if not directory.is_dir():
        say(f"Can not find a vserver-setup at '{directory}/'.\n\nPossible solutions:")
        say("* fix the spelling of the vserver name\n* use the 'build' subcommand\n* read the documentation")
        return 5
    config = Config(directory)
    match command:
        case "start":
            return start(config)
        case "stop":
            return stop.stop(config) if not [word for word in more if word != "--rescue-init"] else 1
        case "restart":
            return stop.stop(config) or start(config)
        case "condrestart":
            return 0 if running_xid(config) is None else stop.stop(config) or start(config)
        case "status":
            return print_status(config, silent=silent)
        case "running":
            return 0 if running_xid(config) is not None else 1
        case "exec" | "suexec" | "enter":
            return _inside(config, command, more)
        case "delete":
            return _delete(config, silent=silent)
        case "hashify":
            return hashify(config)
        case _:
            say(f"Usage: {sys.argv[0]} <vserver> {USAGE}")
            return 2


def _inside(config: Config, command: str, more: list[str]) -> int:
    xid = running_xid(config)
    if xid is None:
        say("'vserver ... suexec' is supported for running vservers only; aborting...")
        return 1
    if command == "enter":
        shell = config.value("shell") or Config(DEFAULTS).value("shell") or "/bin/sh"
        return stop.run_inside(config, xid, [shell, "-l"])
    uid = None
    if command == "suexec":
        uid, more = int(more[0]), more[1:]
    return stop.run_inside(config, xid, more, uid)


def _delete(config: Config, *, silent: bool) -> int:
    if not silent:
        sys.stdout.write(f"Are you sure you want to delete the vserver {config.name} (y/N) ")
        sys.stdout.flush()
        if sys.stdin.readline().strip() not in ("y", "Y"):
            return 2
    return stop.remove(config)


def start_marked(words: list[str]) -> int:
    """`start-vservers [-m MARK] [--all] --start|--stop`: the guests of a mark, those they depend on first."""
    mark = words[words.index("-m") + 1] if "-m" in words else "default"
    wanted = [guest for guest in build.enumerate_guests() if "--all" in words or guest.value("apps/init/mark") == mark]
    ordered: list[Config] = []
    for guest in wanted:
        _place(guest, {other.name: other for other in wanted}, ordered)
    if "--stop" in words:
        running = [guest for guest in reversed(ordered) if running_xid(guest) is not None]
        return max([_forked(lambda guest=guest: stop.stop(guest)) for guest in running], default=0)
    return max([_forked(lambda guest=guest: start(guest)) for guest in ordered], default=0)


def _place(guest: Config, known: dict[str, Config], ordered: list[Config]) -> None:
    if guest in ordered:
        return
    for name in guest.words("apps/init/depends"):
        if name in known and known[name] is not guest:
            _place(known[name], known, ordered)
    if guest not in ordered:
        ordered.append(guest)


def _forked(work) -> int:  # type: ignore[no-untyped-def]
    """In a process of its own: starting changes the mount namespace of who does it."""
    child = os.fork()
    if not child:
        os._exit(work())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
