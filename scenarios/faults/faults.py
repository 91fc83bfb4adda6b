"""The faults: what each does to a migration under way, how the world is put right again, and what must hold.

Rule: whatever the fault, at no time two copies run, in the end one runs and has every acknowledged write, and nothing is
left over. What a fault allows beside that is written in its row.
"""

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from scenarios.faults import eyes, moments
from scenarios.faults.scene import Scene
from scenarios.lab.hosts import Host
from scenarios.lab.programs import run

Deed = Callable[[Scene], None]
WITHIN_DEADLINE_S = 11.0
"""The blackout's deadline (10 s), and a second for what the fault itself and the return to the network take."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One row: the deed, how long it lasts, and the deed that ends it."""

    name: str
    what: str
    do: Deed
    lasts_s: float = 0.0
    undo: Deed | None = None
    moments: Sequence[str] = moments.ORDER
    crashes: tuple[str, ...] = ()
    """Sides that lose power: the VE may start anew there, from what its service had written to its disk."""
    dark_limit_s: float = WITHIN_DEADLINE_S
    """How long the VE may be without a running copy before anybody does anything; 0: it depends on how long it lasts."""
    loses_what_ran: bool = False
    """The operator takes the VE back from a target that lost power: what a client was told by a copy there is gone."""
    ends: frozenset[str] = field(default=frozenset({"done", "undone", "refused"}))


def _nothing(_: Scene) -> None:
    """A move with no fault: that the checks themselves do not cry."""


def _when_controller_ended(deed: Deed) -> Deed:
    def later(scene: Scene) -> None:
        scene.wait_for_controller()
        deed(scene)

    return later


# --- the controller ---------------------------------------------------------------------------------


def _kill_controller(scene: Scene) -> None:
    scene.controller.send(signal.SIGKILL)


def _interrupt(scene: Scene) -> None:
    scene.controller.send(signal.SIGINT)


def _interrupt_twice(scene: Scene) -> None:
    scene.controller.send(signal.SIGINT)
    time.sleep(0.05)
    scene.controller.send(signal.SIGINT)


def _abort(scene: Scene) -> None:
    if migration := scene.migration():
        scene.note(scene.site.migrator("abort", migration))


def _second_controller(scene: Scene) -> None:
    scene.note(scene.site.migrator("recover"))


def _stop_controller(scene: Scene) -> None:
    scene.controller.send(signal.SIGSTOP)


def _continue_controller_after_recovery(scene: Scene) -> None:
    """The first one has slept past its lease, another took over; then it wakes and must not drive."""
    scene.recover_until_quiet()
    scene.controller.send(signal.SIGCONT)


# --- agents -----------------------------------------------------------------------------------------


def _kill_agent(*sides: str) -> Deed:
    def deed(scene: Scene) -> None:
        for side in sides:
            _signal(eyes.agent(scene.side(side)), signal.SIGKILL)

    return deed


def _kill_agent_for_good(*sides: str) -> Deed:
    def deed(scene: Scene) -> None:
        for side in sides:
            host = scene.side(side)
            _signal(eyes.supervisor(host) + eyes.agent(host), signal.SIGKILL)

    return deed


def _start_agent(*sides: str) -> Deed:
    def deed(scene: Scene) -> None:
        for side in sides:
            scene.side(side).run("/etc/init.d/migrator-agent", "start")

    return deed


def _stop_agent(side: str) -> Deed:
    return lambda scene: _signal(eyes.agent(scene.side(side)), signal.SIGSTOP)


def _continue_agent(side: str) -> Deed:
    return lambda scene: _signal(eyes.agent(scene.side(side)), signal.SIGCONT)


def _controller_and_agent(side: str) -> Deed:
    def deed(scene: Scene) -> None:
        _kill_controller(scene)
        _kill_agent(side)(scene)

    return deed


def _signal(found: Sequence[eyes.Process], number: int) -> None:
    for process in found:
        process.send(number)


# --- tools ------------------------------------------------------------------------------------------


def _kill_tools(side: str, *names: str) -> Deed:
    def deed(scene: Scene) -> None:
        _signal(eyes.tools(scene.side(side), names), signal.SIGKILL)

    return deed


def _kill_door(side: str) -> Deed:
    return lambda scene: _signal(eyes.doors(scene.side(side)), signal.SIGKILL)


def _kill_every_tool(side: str) -> Deed:
    return lambda scene: _kill_tools(side, *scene.site.form.tools)(scene)


# --- the network ------------------------------------------------------------------------------------


def _line(side: str, *, up: bool) -> Deed:
    return lambda scene: scene.side(side).set_link(up=up)


def _loss(side: str, percent: float) -> Deed:
    return lambda scene: scene.side(side).set_link(loss_percent=percent)


def _between(*, joined: bool) -> Deed:
    """Source and target do not hear each other; everybody else hears both."""

    def deed(scene: Scene) -> None:
        switch = scene.site.lab.record.switch
        for host in scene.site.hosts.values():
            port = f"h{host.record.number}"
            run(["bridge", "-n", switch, "link", "set", "dev", port, "isolated", "off" if joined else "on"])

    return deed


def _controller_line(*, up: bool) -> Deed:
    def deed(scene: Scene) -> None:
        run(["ip", "-n", scene.site.lab.record.switch, "link", "set", "machine", "up" if up else "down"])

    return deed


# --- hosts ------------------------------------------------------------------------------------------


def _crash(*sides: str) -> Deed:
    def deed(scene: Scene) -> None:
        for side in sides:
            scene.crash(side)

    return deed


def _boot(*sides: str) -> Deed:
    def deed(scene: Scene) -> None:
        for side in sides:
            host = scene.side(side)
            host.boot()
        scene.client.say("again")

    return deed


def _crash_unanswered(scene: Scene) -> None:
    """The target's agent does nothing more, then its host loses power: it was perhaps given the VE, and did not run it."""
    _signal(eyes.agent(scene.side("target")), signal.SIGSTOP)
    eyes.wait_for(lambda: scene.controller.ended or scene.logged("source", "peer said PeerHolds"), 2.0)
    _crash("target")(scene)


def _boot_after_fence(side: str) -> Deed:
    """The operator says that the host is off, the VE runs on the other, and only then does the host come back."""

    def deed(scene: Scene) -> None:
        scene.leave_controller()
        scene.fence(side)
        if side == "source" or not scene.logged("source", "peer said PeerRuns"):
            scene.runs_without(side)  # else it was the target's for good before the power went, and has no other home
        scene.side(side).boot()

    return deed


FILL = "dd if=/dev/zero of={0} bs=64k status=none 2> /dev/null; true"
BIG_FILE, BIG_SHM = "/var/lib/fault-filler", "/dev/shm/fault-filler"
SPARE_KB = 6 << 10


def _fill_disk(scene: Scene) -> None:
    scene.side("target").run("sh", "-c", FILL.format(BIG_FILE))


def _free_disk(scene: Scene) -> None:
    scene.side("target").run("rm", "-f", BIG_FILE)


def _fill_memory(scene: Scene) -> None:
    """Memory that nobody can be killed for: files in a tmpfs, up to a little below the host's limit."""
    host = scene.side("target")
    scene.fill_memory(host, BIG_SHM, SPARE_KB)


def _free_memory(scene: Scene) -> None:
    scene.side("target").run("rm", "-f", BIG_SHM)


# --- data -------------------------------------------------------------------------------------------


def _spoil(change: str) -> Deed:
    """Change a checkpoint image on the target after it has come whole and before it is restored."""

    def deed(scene: Scene) -> None:
        target = scene.side("target")
        agent = eyes.agent(target)
        _signal(agent, signal.SIGSTOP)
        sent = eyes.wait_for(lambda: scene.logged("source", "did send"), 20)
        scene.spoiled = sent and _spoil_largest(target, change)
        _signal(agent, signal.SIGCONT)

    return deed


def _spoil_largest(host: Host, change: str) -> bool:
    files = [path for path in host.path(eyes.IMAGES).glob("*/*") if path.is_file()]
    if not files:
        return False
    largest = max(files, key=lambda path: path.stat().st_size)
    size = largest.stat().st_size
    with largest.open("r+b") as file:
        if change == "truncate":
            file.truncate(size // 2)
        else:
            file.seek(size // 2)
            byte = file.read(1)
            file.seek(size // 2)
            file.write(bytes([byte[0] ^ 1]))
    return True


SHORT_S, LONG_S = 2.0, 14.0
"""Shorter and longer than the deadline of the blackout."""

FAULTS = {
    fault.name: fault
    for fault in (
        Fault("none", "no fault", _nothing, ends=frozenset({"done"})),
        Fault("kill-controller", "SIGKILL to the controller", _kill_controller),
        Fault("interrupt", "Ctrl-C", _interrupt),
        Fault("interrupt-twice", "Ctrl-C twice", _interrupt_twice),
        Fault("abort", "`migrator abort` from elsewhere", _abort),
        Fault("second-controller", "`migrator recover` while the first drives", _second_controller),
        Fault(
            "sleeping-controller",
            "the controller is stopped past its lease, another recovers, the first wakes",
            _stop_controller,
            undo=_continue_controller_after_recovery,
        ),
        Fault("kill-source-agent", "SIGKILL to the source's agent", _kill_agent("source")),
        Fault("kill-target-agent", "SIGKILL to the target's agent", _kill_agent("target")),
        Fault("kill-both-agents", "SIGKILL to both agents", _kill_agent("source", "target")),
        Fault("kill-controller+source-agent", "both at once", _controller_and_agent("source")),
        Fault("kill-controller+target-agent", "both at once", _controller_and_agent("target")),
        Fault(
            "source-agent-gone",
            "source's agent and its supervisor killed; started again by hand 3 s later",
            _kill_agent_for_good("source"),
            3.0,
            _start_agent("source"),
            dark_limit_s=0,
        ),
        Fault(
            "target-agent-gone",
            "target's agent and its supervisor killed; started again by hand 3 s later",
            _kill_agent_for_good("target"),
            3.0,
            _start_agent("target"),
            dark_limit_s=0,
        ),
        Fault(
            "source-agent-hangs",
            "source's agent stopped for 12 s",
            _stop_agent("source"),
            12.0,
            _continue_agent("source"),
            dark_limit_s=0,
        ),
        Fault(
            "target-agent-hangs",
            "target's agent stopped for 12 s",
            _stop_agent("target"),
            12.0,
            _continue_agent("target"),
            dark_limit_s=0,
        ),
        Fault(
            "kill-source-crun",
            "SIGKILL to crun",
            _kill_tools("source", "crun"),
            moments=("source runs crun checkpoint", "source runs criu"),
        ),
        Fault("kill-source-criu", "SIGKILL to criu", _kill_tools("source", "criu"), moments=("source runs criu",)),
        Fault(
            "kill-source-door",
            "SIGKILL to what stands before criu",
            _kill_door("source"),
            moments=("source runs crun checkpoint", "source runs criu"),
        ),
        Fault("kill-source-rsync", "SIGKILL to rsync", _kill_tools("source", "rsync"), moments=("source runs rsync",)),
        Fault("kill-source-ssh", "SIGKILL to ssh, its shared connection too", _kill_tools("source", "ssh")),
        Fault("kill-source-tools", "SIGKILL to every tool", _kill_every_tool("source")),
        Fault(
            "kill-target-crun",
            "SIGKILL to crun",
            _kill_tools("target", "crun"),
            moments=("target runs crun restore", "target runs criu"),
        ),
        Fault("kill-target-criu", "SIGKILL to criu", _kill_tools("target", "criu"), moments=("target runs criu",)),
        Fault(
            "kill-target-door",
            "SIGKILL to what stands before criu",
            _kill_door("target"),
            moments=("target runs crun restore", "target runs criu"),
        ),
        Fault("kill-target-rsync", "SIGKILL to rsync", _kill_tools("target", "rsync"), moments=("target runs rsync",)),
        Fault("kill-target-sshd", "SIGKILL to every SSH session", _kill_tools("target", "sshd-session")),
        Fault("kill-target-tools", "SIGKILL to every tool", _kill_every_tool("target")),
        Fault(
            "source-line-short",
            "source's line down for 2 s",
            _line("source", up=False),
            SHORT_S,
            _line("source", up=True),
        ),
        Fault(
            "target-line-short",
            "target's line down for 2 s",
            _line("target", up=False),
            SHORT_S,
            _line("target", up=True),
        ),
        Fault(
            "source-line-long",
            "source's line down for 14 s",
            _line("source", up=False),
            LONG_S,
            _line("source", up=True),
            dark_limit_s=0,
        ),
        Fault(
            "target-line-long",
            "target's line down for 14 s",
            _line("target", up=False),
            LONG_S,
            _line("target", up=True),
            dark_limit_s=0,
        ),
        Fault(
            "peers-apart-short",
            "source and target do not hear each other for 2 s",
            _between(joined=False),
            SHORT_S,
            _between(joined=True),
        ),
        Fault(
            "peers-apart-long",
            "source and target do not hear each other for 14 s",
            _between(joined=False),
            LONG_S,
            _between(joined=True),
            dark_limit_s=0,
        ),
        Fault(
            "peers-apart-for-good",
            "source and target do not hear each other until the controller has given up",
            _between(joined=False),
            undo=_when_controller_ended(_between(joined=True)),
            dark_limit_s=0,
        ),
        Fault("target-loss", "target's line loses 30% for 8 s", _loss("target", 30), 8.0, _loss("target", 0)),
        Fault(
            "controller-line-short",
            "the controller's line down for 2 s",
            _controller_line(up=False),
            SHORT_S,
            _controller_line(up=True),
        ),
        Fault(
            "controller-line-long",
            "the controller's line down for 14 s",
            _controller_line(up=False),
            LONG_S,
            _controller_line(up=True),
        ),
        Fault(
            "source-crash",
            "source loses power, boots 1 s later",
            _crash("source"),
            1.0,
            _boot("source"),
            crashes=("source",),
            dark_limit_s=0,
        ),
        Fault(
            "target-crash",
            "target loses power, boots 1 s later",
            _crash("target"),
            1.0,
            _boot("target"),
            crashes=("target",),
            dark_limit_s=0,
        ),
        Fault(
            "both-crash",
            "both hosts lose power, boot 1 s later",
            _crash("source", "target"),
            1.0,
            _boot("source", "target"),
            crashes=("source", "target"),
            dark_limit_s=0,
        ),
        Fault(
            "source-dead",
            "source loses power when the target holds the VE; `fence`, the VE runs on the target, source boots",
            _crash("source"),
            undo=_boot_after_fence("source"),
            moments=moments.HELD,
            crashes=("source",),
            dark_limit_s=0,
        ),
        Fault(
            "target-dead",
            "target loses power when it holds the VE; `fence`, the VE runs on the source, target boots",
            _crash_unanswered,
            undo=_boot_after_fence("target"),
            moments=moments.HELD,
            crashes=("target",),
            dark_limit_s=0,
            loses_what_ran=True,
        ),
        Fault(
            "target-disk-full",
            "target's disk is full until the move has ended",
            _fill_disk,
            undo=_when_controller_ended(_free_disk),
        ),
        Fault(
            "target-memory-full",
            "target's memory is exhausted until the move has ended",
            _fill_memory,
            undo=_when_controller_ended(_free_memory),
            moments=moments.BEFORE_IMAGES,
        ),
        Fault(
            "image-flipped",
            "one bit of an image flipped on the target before the restore",
            _spoil("flip"),
            moments=("source did freeze",),
            ends=frozenset({"undone"}),
        ),
        Fault(
            "image-truncated",
            "an image cut in half on the target before the restore",
            _spoil("truncate"),
            moments=("source did freeze",),
            ends=frozenset({"undone"}),
        ),
    )
}
