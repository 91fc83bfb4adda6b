"""Does one step: acts as the operator would, or looks whether something is as it should be.

Rule: what is not as expected is told by what was expected and what was found, with the tool's own last words; an
expectation that may take a moment to come true is looked at again until its time is over, never slept for.
"""

import shlex
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from scenarios.lab.hosts import HostError
from scenarios.lab.programs import ProgramError
from scenarios.runner.stage import Client, Stage, StageError
from scenarios.runner.steps import (
    AnyStep,
    AsRemembered,
    Connect,
    Connection,
    InterfaceState,
    Migrator,
    Reachable,
    Remember,
    Type,
    Write,
)

AGAIN_S = 0.2
SHOWN_LINES = 25
WRITE = 'mkdir -p "$(dirname "$1")"; cat > "$1"; chmod "$2" "$1"'


@dataclass(frozen=True)
class Outcome:
    """How a step went."""

    expected: str = ""
    found: str = ""
    """Both empty: as it should be."""
    seen: tuple[str, ...] = ()
    """What there was to see: output of a tool, a client's account."""

    @property
    def good(self) -> bool:
        """Whether it went as expected."""
        return not self.expected


def do(stage: Stage, step: AnyStep) -> Outcome:
    """One step; what could not be done at all is an outcome too."""
    try:
        return _do(stage, step)
    except subprocess.TimeoutExpired as error:
        return Outcome("an answer", f"{error.cmd[-1]!r} had not ended after {error.timeout:g} s and was given up")
    except (StageError, ProgramError, HostError) as error:
        return Outcome("that it can be done", str(error))


def _do(stage: Stage, step: AnyStep) -> Outcome:
    match step:
        case Type():
            return _until(step.within_s, lambda: _type(stage, step))
        case Write():
            words = ["sh", "-c", WRITE, "sh", step.write, step.mode]
            stage.host(step.host).run(*words, text=stage.filled(step.text))
        case Connect():
            stage.clients[step.client] = Client(stage.lab, *_at(stage, step.connect))
        case Migrator():
            done = stage.migrator(shlex.split(stage.filled(step.migrator)), step.limit_s)
            return _judged(step, done, stage)
        case Remember():
            stage.remembered[step.remember] = stage.survey(step.remember)
        case Connection():
            return _connection(stage, step)
        case Reachable():
            return _until(step.within_s, lambda: _reachable(stage, step))
        case InterfaceState():
            return _until(step.within_s, lambda: _interface(stage, step))
        case AsRemembered():
            return _as_remembered(stage, step)
    return Outcome()


def _until(limit_s: float, look: Callable[[], Outcome]) -> Outcome:
    """The first good outcome, or the last one."""
    deadline = time.monotonic() + limit_s
    while not (outcome := look()).good and time.monotonic() < deadline:
        time.sleep(AGAIN_S)
    return outcome


def _at(stage: Stage, place: str) -> tuple[str, str]:
    """ADDRESS:PORT."""
    address, _, port = stage.filled(place).rpartition(":")
    if not address or not port.isdigit():
        raise StageError(f"{place!r} is no ADDRESS:PORT")
    return address, port


def _type(stage: Stage, step: Type) -> Outcome:
    lines = [line for line in stage.filled(step.type).splitlines() if line.strip()]
    seen: list[str] = []
    for number, line in enumerate(lines, 1):
        done = stage.typed(step.host, line, step.limit_s)
        seen += [f"{step.host}# {line}", *(done.stdout + done.stderr).splitlines()]
        if number == len(lines):
            found = _judged(step, done, stage)
            return Outcome(found.expected, found.found, tuple(seen))
        if done.returncode:
            return Outcome(f"`{line}` to end with 0", _ended(done), tuple(seen))
    return Outcome("a line to type", "there is none")


def _judged(step: Type | Migrator, done: "subprocess.CompletedProcess[str]", stage: Stage) -> Outcome:
    """What a program did, against what it was to do."""
    said = done.stdout + done.stderr
    seen = tuple(said.splitlines())
    if done.returncode != step.status:
        return Outcome(f"exit status {step.status}", _ended(done), seen)
    answer = stage.filled(step.answer).strip() if isinstance(step, Type) and step.answer is not None else None
    if answer is not None and done.stdout.strip() != answer:
        return Outcome(f"the answer {answer!r}", repr(done.stdout.strip()), seen)
    for words in map(stage.filled, step.says):
        if words not in said:
            return Outcome(f"{words!r} in what it says", f"it says: {_last(said)}", seen)
    for words in map(stage.filled, step.says_not):
        if words in said:
            return Outcome(f"no {words!r} in what it says", f"it says: {_last(said)}", seen)
    return Outcome(seen=seen)


def _ended(done: "subprocess.CompletedProcess[str]") -> str:
    return f"it ended with {done.returncode}: {_last(done.stderr + done.stdout)}"


def _last(said: str) -> str:
    return "\n".join(said.strip().splitlines()[-SHOWN_LINES:]) or "(nothing)"


def _connection(stage: Stage, step: Connection) -> Outcome:
    told = stage.clients[step.client].report()
    account = (
        f"{told['acknowledged']} writes acknowledged, {told['missing']} missing; connections: {told['connections']}; "
        f"longest wait {told['longest_gap_ms']:.0f} ms"
    )
    if not told["served"]:
        return Outcome("to be served", f"nobody answers: {'; '.join(told['errors'])} ({account})")
    if told["missing"]:
        return Outcome("no acknowledged write missing", f"{', '.join(told['first_missing'])} ({account})")
    if (told["connections"] == 1) != (step.connection == "same"):
        wanted = "the connection it had" if step.connection == "same" else "a new connection, the old one being gone"
        return Outcome(wanted, "; ".join([account, *told["errors"]]))
    if step.longest_gap_ms is not None and told["longest_gap_ms"] > step.longest_gap_ms:
        return Outcome(f"no wait longer than {step.longest_gap_ms:g} ms", account)
    return Outcome(seen=(account,))


def _reachable(stage: Stage, step: Reachable) -> Outcome:
    address, port = _at(stage, step.reachable)
    there = stage.reaches(address, port)
    words = {True: f"{address} port {port} answers a client outside", False: f"nobody answers at {address} port {port}"}
    return Outcome(seen=(words[there],)) if there is step.is_ else Outcome(words[step.is_], words[there])


def _interface(stage: Stage, step: InterfaceState) -> Outcome:
    done = stage.host(step.host).run("ip", "-o", "link", "show", "dev", step.interface, check=False)
    flags = done.stdout.partition("<")[2].partition(">")[0].split(",")
    found = "absent" if done.returncode else "up" if "UP" in flags else "down"
    seen = f"{step.interface} on {step.host} is {found}"
    return Outcome(seen=(seen,)) if found == step.state else Outcome(f"{step.interface} {step.state}", seen)


def _as_remembered(stage: Stage, step: AsRemembered) -> Outcome:
    before, now = Counter(stage.remembered[step.as_remembered]), Counter(stage.survey(step.as_remembered))
    changes = [f"left: {line}" for line in (now - before).elements()]
    changes += [f"gone: {line}" for line in (before - now).elements()]
    if changes:
        return Outcome(f"{step.as_remembered} as it was", "\n".join(sorted(changes)[:SHOWN_LINES]))
    return Outcome(seen=(f"{now.total()} files, addresses, links, routes, rules, mounts, groups: each as before",))
