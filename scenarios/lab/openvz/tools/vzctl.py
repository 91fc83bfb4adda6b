"""The command line of the emulated vzctl: options, order of checks, lock, exit codes."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from . import conf, ct, faults, kernel, lifecycle, ordinary, settings, staged
from .ct import Ct, ExitError, Voice

VERSION = "4.11.1"
ALIASES = {"suspend": "chkpnt", "resume": "restore", "delete": "destroy"}
PLOOP = {"convert", "compact", *(f"snapshot{end}" for end in ("", "-switch", "-delete", "-list", "-mount", "-umount"))}
UNLOCKED = {"exec", "exec2", "exec3", "enter", "console", "status"}
NEEDS_NO_CONFIG = {"create", "status", "set"}
FLAGS = {
    "start": {"--wait", "--force", "--skip-fsck", "--skip-remount"},
    "stop": {"--fast", "--skip-umount"},
    "chkpnt": {"--suspend", "--dump", "--resume", "--kill", "--skip_arpdetect"},
    "restore": {"--undump", "--resume", "--kill", "--skip_arpdetect", "--skip-fsck", "--skip-remount"},
    "set": {"--save", "--force"},
}
TAKES = {
    "chkpnt": {"--dumpfile", "--flags", "--context"},
    "restore": {"--dumpfile", "--flags", "--context"},
}
COMMANDS = [
    "create", "start", "stop", "restart", "destroy", "mount", "umount", "set", "status", "exec", "exec2",
    "exec3", "chkpnt", "restore", "quotainit", "quotaon", "quotaoff",
]  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    voice = Voice()
    try:
        return _main(words, voice)
    except ExitError as error:
        if error.message:
            voice.complain(error.message)
        return error.code


def _main(words: list[str], voice: Voice) -> int:
    skip_lock = False
    while words and words[0].startswith("--"):
        match words.pop(0):
            case "--quiet":
                voice.quiet = True
            case "--verbose":
                pass
            case "--skiplock":
                skip_lock = True
            case "--version":
                print(f"vzctl version {VERSION}")
                return 0
            case other:
                raise ExitError(20, f"Bad command: {other}")
    if not words:
        print(f"vzctl version {VERSION}\nUsage: vzctl [options] <command> <ctid> [parameters]", file=sys.stderr)
        return 20
    verb = ALIASES.get(words[0], words[0])
    if verb in PLOOP or verb not in COMMANDS:
        raise ExitError(20, f"Bad command: {words[0]}")
    return _command(verb, words[1:], voice, skip_lock=skip_lock)


def _command(verb: str, words: list[str], voice: Voice, *, skip_lock: bool) -> int:
    if not words:
        raise ExitError(21, "CT ID missing")
    ctid = ct.by_name(words[0])
    try:
        host = conf.host_config()
    except FileNotFoundError:
        raise ExitError(10, "Global configuration file /etc/vz/vz.conf not found") from None
    one = Ct.load(ctid, host)
    voice.ctid, voice.log = ctid, Path(host["LOGFILE"])
    if verb not in NEEDS_NO_CONFIG and not one.config.exists():
        raise ExitError(14, "Container config file does not exist")
    if not kernel.openvz() and verb != "status":
        voice.say("Directory /proc/vz not found, assuming non-OpenVZ kernel")
    with contextlib.nullcontext() if skip_lock or verb in UNLOCKED else _locked(one, voice):
        return _run(verb, one, words[1:], voice)


def _run(verb: str, one: Ct, words: list[str], voice: Voice) -> int:
    if verb.startswith("exec"):
        return lifecycle.execute(one, verb, words)
    if verb in ("set", "create"):
        settings.set_or_create(verb, one, words, voice)
        return 0
    options, values = _options(verb, words)
    match verb:
        case "status":
            if not voice.quiet and not one.root.exists() and one.config.exists():
                print(f"stat({one.root}): No such file or directory", file=sys.stderr)
            print(one.status())
        case "start":
            lifecycle.start(one, voice, force="--force" in options)
        case "stop":
            lifecycle.stop(one, voice, fast="--fast" in options, skip_umount="--skip-umount" in options)
        case "restart":
            lifecycle.stop(one, voice)
            lifecycle.start(one, voice)
        case "mount":
            lifecycle.mount(one, voice)
        case "umount":
            lifecycle.umount(one, voice)
        case "destroy":
            lifecycle.destroy(one, voice)
        case "chkpnt" | "restore":
            _checkpoint(verb, one, options, values, voice)
        case _:
            return settings.quota(verb, one, voice)
    faults.after(verb)
    return 0


def _checkpoint(verb: str, one: Ct, options: set[str], values: dict[str, str], voice: Voice) -> None:
    stages = sorted(options & {"--suspend", "--dump", "--undump", "--resume", "--kill"})
    if len(stages) > 1:
        raise ExitError(20, "Invalid syntax: only one sub command may be used")
    stage = stages[0][2:] if stages else ""
    file = Path(values["--dumpfile"]) if "--dumpfile" in values else None
    if not kernel.openvz():
        (ordinary.chkpnt if verb == "chkpnt" else ordinary.restore)(one, voice, stage)
    elif verb == "chkpnt":
        staged.chkpnt(one, voice, stage, file, values.get("--flags", ""))
    else:
        staged.restore(one, voice, stage, file, skip_detect="--skip_arpdetect" in options)


def _options(verb: str, words: list[str]) -> tuple[set[str], dict[str, str]]:
    flags: set[str] = set()
    values: dict[str, str] = {}
    extra, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        name, _, value = word.partition("=")
        if name in TAKES.get(verb, set()):
            if not value and not rest:
                raise ExitError(20, f"vzctl: option '{name}' requires an argument")
            values[name] = value or rest.pop(0)
        elif word in FLAGS.get(verb, set()):
            flags.add(word)
        elif word.startswith("-"):
            raise ExitError(20, f"vzctl: unrecognized option '{word}'")
        else:
            extra.append(word)
    if extra:
        raise ExitError(20, f"Invalid extra arguments: {' '.join(extra)} ")
    return flags, values


@contextlib.contextmanager
def _locked(one: Ct, voice: Voice) -> Iterator[None]:
    one.lock.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=one.lock.parent, prefix=f"{one.ctid}.lck") as fresh:
        fresh.write(f"{os.getpid()}\n\n")
        fresh.flush()
        _link(fresh.name, one, voice)
    try:
        yield
    finally:
        one.lock.unlink(missing_ok=True)


def _link(fresh: str, one: Ct, voice: Voice) -> None:
    while True:
        try:
            os.link(fresh, one.lock)
            return
        except FileExistsError:
            pass
        with contextlib.suppress(FileNotFoundError):
            pid = (one.lock.read_text().split() or ["0"])[0]
            try:
                line = Path(f"/proc/{int(pid)}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except (OSError, ValueError):
                voice.say(f"Removing stale lock file {one.lock}")
                one.lock.unlink(missing_ok=True)
                continue
            voice.complain(f"Locked by: pid {pid}, cmdline {line}")
            raise ExitError(9, "Container already locked")


if __name__ == "__main__":
    sys.exit(main())
