"""One made-up host: a disk that survives, one VE with its engine, and the init that starts VEs at boot.

Rule: what an act does here is what `agents.handover.vocabulary.Act` says of it, with its effect at its end. A host that
goes down keeps its disk and loses its processes and what lay in memory.
"""

from typing import TYPE_CHECKING

from agents.handover import judging
from agents.handover.vocabulary import Act
from migrator.sim import checks
from migrator.wire.facts import Claim, Mode, Record, VeState
from migrator.wire.faults import Fault, FaultCode, fault_error
from migrator.wire.messages import (
    Confirm,
    Copied,
    Departing,
    PeerHolds,
    PeerRestore,
    PeerRuns,
    PreCopy,
    Reply,
    Reserve,
    Reserved,
)

if TYPE_CHECKING:
    from migrator.sim.agents import Agent
    from migrator.sim.world import World

RUNNING, FROZEN, STOPPED, ABSENT = VeState.RUNNING, VeState.FROZEN, VeState.STOPPED, VeState.ABSENT
Order = Reserve | PeerRestore | PreCopy | Confirm | None


class NotYet(Exception):
    """An act goes on: what it waits for has not come. After `LENDER_LIMIT_S` some are given up with `fault`."""

    def __init__(self, fault: Fault | None = None) -> None:
        super().__init__(str(fault))
        self.fault = fault


class Host:
    """A host with at most one VE."""

    def __init__(self, world: "World", name: str) -> None:
        self.world, self.name = world, name
        self.up, self.boot = True, 1
        self.held_off = False
        """Declared off: whoever did so keeps it off for a while."""
        self.agent: Agent | None = None
        # on disk
        self.record: Record | None = None
        self.files: int | None = None
        """The state that lies in the VE's files; None: no files."""
        self.autostart = self.fenced = self.key = False
        # in memory
        self.unsynced: Record | None = None
        """Only ever used by a planted bug: a record that was written and is not on disk."""
        self.state = ABSENT
        self.version = 0
        """The state that lies in the VE's processes."""
        self.images: int | None = None
        self.lacks = False
        """By post-copy: a part of what its processes have in memory is on the other host yet."""
        self.by_init: VeState | None = None
        """What this host's boot made of a VE that no migration held: not ours to judge."""
        self.down_in: Claim | None = None
        """What its record said when this host went down last."""
        self.restored_too_late = False
        """The target's own limit for the restore has passed: it lets go of what it holds, whoever else may want it."""
        self._before_run = 0

    # --- the disk --------------------------------------------------------------------------------

    def write(self, record: Record) -> None:
        """Durable when it returns."""
        self.record = record
        if record.claim is Claim.ARRIVING and record.image_complete and self.state is FROZEN and not self.lacks:
            self.world.held = True  # before that is on disk, an agent that dies cannot know what it had

    def read(self) -> Record | None:
        """What the next agent process finds."""
        return self.unsynced or self.record

    # --- power -----------------------------------------------------------------------------------

    def go_down(self, seconds: float | None) -> None:
        """All processes end; booted again after `seconds`, unless None."""
        if not self.up:
            return
        if self.agent is not None:
            self.agent.die()
        self.up, self.images, self.unsynced = False, None, None
        self.down_in = self.record.claim if self.record is not None else None
        if self.state is FROZEN and self.record is not None and self.record.claim is Claim.ARRIVING:
            self.world.held = False  # its memory is gone
        self.lacks = False
        if self.state is not ABSENT:
            self._leave(STOPPED)
        if seconds is not None:
            self.world.after(seconds, self.come_up)

    def come_up(self) -> None:
        """Booted: init starts what it would start, before or after the agent."""
        if self.up or self.held_off:
            return
        self.up, self.boot = True, self.boot + 1
        first, second = (self._init, self.start_agent)
        if self.world.random.random() < 0.5:
            first, second = second, first
        first()
        self.world.after(0.05, second)

    def _init(self) -> None:
        if not self.up or self.state is not STOPPED:
            return
        starts = self.autostart and not self.fenced
        if starts:
            self._start()
        if starts or self.record is None or not judging.in_a_move(self.record):
            self.by_init = self.state

    def start_agent(self) -> None:
        """Unless one runs."""
        if self.up and self.agent is None:
            self.world.new_agent(self)

    # --- the VE ----------------------------------------------------------------------------------

    def _start(self) -> None:
        other = self.world.other(self)
        given_up = self.down_in not in (Claim.LEAVING, Claim.GIVEN)  # it may have run since it was frozen
        refused = other.record is not None and other.record.claim is Claim.REFUSED
        given_up = given_up or (other.restored_too_late and refused)
        whole = other.state is FROZEN and not other.lacks
        if whole and other.version == self.world.latest and not (given_up or self.world.run_failed):
            self.world.breach(checks.MEMORY, f"{self.name} starts from its disk what {other.name} holds in memory")
        self.version = self.files if self.files is not None else -1
        self._run()

    def _run(self) -> None:
        world = self.world
        for other in world.hosts.values():
            if other is not self and other.state is RUNNING:
                world.breach(checks.TWO_RUNNING, f"{self.name} lets the VE run while it runs on {other.name}")
        if self.version != self.files:
            world.breach(checks.TORN, f"memory {self.version} with files {self.files} on {self.name}")
        if self.version < world.latest and not world.may_roll_back(self):
            world.breach(checks.LOST, f"{self.name} runs state {self.version}, {world.latest} has run before")
        self._before_run = world.latest
        world.latest = self.version
        self.state = RUNNING

    def _leave(self, state: VeState) -> None:
        if self.state is RUNNING:
            # Whatever it did while it ran, clients may have seen, and it is on its disk.
            self.world.latest += 1
            self.version = self.files = self.world.latest
        self.state = state

    # --- acts ------------------------------------------------------------------------------------

    def perform(self, act: Act, record: Record, order: Order) -> Reply | dict[str, str] | None:
        """The effect of one act. Raises FaultError."""
        return ACTS[act](self, record, order)

    def _prepare(self, record: Record, order: Order) -> Reply:
        self.fenced = self.key = True
        return Departing("key")

    def _unprepare(self, record: Record, order: Order) -> None:
        self.fenced = self.key = False
        self.images = None

    def _copy(self, record: Record, order: Order) -> Reply:
        self._send_files()
        assert isinstance(order, PreCopy)
        return Copied(order.round, 1.0, 5, 0.1, memory_method=order.memory_method)

    def _send_files(self) -> None:
        target = self.world.other(self)
        if not self.world.reaches(self.name, target.name) or not target.key:
            raise fault_error(FaultCode.TOOL_FAILED, "rsync ended with 12", step="copy files")
        if target.state in (RUNNING, FROZEN):
            self.world.breach(checks.TORN, f"files from {self.name} go over the {target.state} VE of {target.name}")
        target.files = self.version if self.state in (RUNNING, FROZEN) else self.files

    def _freeze(self, record: Record, order: Order) -> None:
        if record.mode is Mode.STOP_COPY:
            self._leave(STOPPED)
        elif self.state is RUNNING:
            self._leave(FROZEN)

    def _dump(self, record: Record, order: Order) -> None:
        if record.mode is Mode.LIVE:
            if self.state is not FROZEN:
                raise fault_error(FaultCode.TOOL_FAILED, "no process to dump", step="dump", tool="criu")
            self.images = self.version
        self._send_files()

    def _send(self, record: Record, order: Order) -> dict[str, str]:
        if record.mode is Mode.STOP_COPY:
            return {}
        target = self.world.other(self)
        if not self.world.reaches(self.name, target.name) or not target.key or self.images is None:
            raise fault_error(FaultCode.TOOL_FAILED, "the images did not arrive", step="send")
        target.images, self.images = self.images, None
        return {"pages": str(target.images)}

    def _thaw(self, record: Record, order: Order) -> None:
        if record.rest is not RUNNING:
            return
        if self.state is FROZEN:
            self._run()
        elif self.state is STOPPED:
            self._start()

    def _lend(self, record: Record, order: Order) -> None:
        target = self.world.other(self)
        if self.state is not FROZEN:
            raise fault_error(FaultCode.CONFLICT, "the memory is not here any more", step="lend")
        if not (self.world.reaches(self.name, target.name) and target.key and target.lacks):
            raise NotYet
        target.lacks = False

    def _discard(self, record: Record, order: Order) -> None:
        self._must_not_run("discarded")
        other = self.world.other(self)
        if self.state is FROZEN and other.state is RUNNING and other.lacks:
            self.world.breach(checks.MEMORY, f"{self.name} ends processes whose memory {other.name} waits for")
        if self.state is FROZEN:
            self.state = STOPPED

    def _destroy(self, record: Record, order: Order) -> None:
        self._must_not_run("destroyed")
        self._remove()
        self.key = False

    def _accept(self, record: Record, order: Order) -> Reply:
        self.key, self.state = True, STOPPED
        return Reserved(("host key",))

    def _hold(self, record: Record, order: Order) -> Reply:
        if record.mode is Mode.LIVE:
            manifest = order.manifest if isinstance(order, PeerRestore) else {}
            if self.images is None or manifest.get("pages") != str(self.images):
                raise fault_error(FaultCode.CORRUPT, "the images are not those of the manifest", step="restore")
            self.state, self.version, self.lacks = FROZEN, self.images, record.post_copy
        elif self.files is None:
            raise fault_error(FaultCode.TOOL_FAILED, "no files", step="arrange")
        return PeerHolds(0.1, 0.1)

    def _let_run(self, record: Record, order: Order) -> Reply:
        if self.state is FROZEN:
            self._run()
        elif self.state is STOPPED and record.rest is RUNNING:
            self._start()
        return PeerRuns(0.0)

    def _halt(self, record: Record, order: Order) -> None:
        if record.mode is Mode.STOP_COPY:
            if self.state is RUNNING:
                # It began to start and was stopped again: what it did is given up, as the mode allows.
                self.state, self.world.latest = STOPPED, self._before_run
        elif self.state is not FROZEN:
            raise fault_error(FaultCode.TOO_LATE, f"it is {self.state}", step="halt")

    def _announce(self, record: Record, order: Order) -> None:
        pass

    def _drop(self, record: Record, order: Order) -> None:
        self._must_not_run("dropped")
        world, other = self.world, self.world.other(self)
        whole = self.state is FROZEN and not self.lacks
        only = whole and self.version == world.latest and other.state not in (RUNNING, FROZEN)
        if only and world.held and not world.run_failed:
            world.breach(checks.MEMORY, f"{self.name} drops the only copy of what the VE had in memory")
        self._remove()

    def _forbid(self, record: Record, order: Order) -> None:
        self.key = False

    def _lift(self, record: Record, order: Order) -> None:
        if self.lacks and not (isinstance(order, Confirm) and order.alone):
            raise NotYet(Fault(FaultCode.PEER_LOST, "the source does not send its memory", step="fill memory"))
        if self.lacks:
            self.lacks = False
            self._leave(STOPPED)
            self._start()
        self.key, self.images = False, None
        self.autostart = self.world.setup.autostart

    def _must_not_run(self, done: str) -> None:
        if self.state is RUNNING:
            self.world.breach(checks.ENDED_WRONGLY, f"the VE is {done} on {self.name} while it runs")

    def _remove(self) -> None:
        self.state, self.files, self.images, self.version, self.lacks = ABSENT, None, None, 0, False
        self.autostart = self.fenced = False


ACTS = {
    Act.PREPARE: Host._prepare,
    Act.UNPREPARE: Host._unprepare,
    Act.COPY: Host._copy,
    Act.FREEZE: Host._freeze,
    Act.DUMP: Host._dump,
    Act.SEND: Host._send,
    Act.THAW: Host._thaw,
    Act.LEND: Host._lend,
    Act.DISCARD: Host._discard,
    Act.DESTROY: Host._destroy,
    Act.ACCEPT: Host._accept,
    Act.HOLD: Host._hold,
    Act.RUN: Host._let_run,
    Act.HALT: Host._halt,
    Act.ANNOUNCE: Host._announce,
    Act.DROP: Host._drop,
    Act.FORBID: Host._forbid,
    Act.LIFT: Host._lift,
}
