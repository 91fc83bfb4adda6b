"""Planted bugs: what the protocol would be without one of its rules. A checker must catch every one of them.

Rule: a bug is put on from outside, around what the product does; nothing in the product knows of it. Each is named after
the rule that it breaks, and `scenarios/negative` says which promise that costs.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from agents.handover import judging
from agents.handover import source as source_module
from agents.handover.source import Source
from agents.handover.target import Target
from agents.handover.vocabulary import Act, Answer, Arm, Booted, Command, DeadlinePassed, Do, PeerSaid, Write
from migrator.core import lease as leases
from migrator.core import recovery
from migrator.core.lease import Lease
from migrator.core.machine import Migration
from migrator.core.recovery import Known, TargetSays
from migrator.core.vocabulary import Role
from migrator.sim import hosts
from migrator.sim.agents import Agent
from migrator.sim.controllers import Journal
from migrator.sim.hosts import Host
from migrator.wire.facts import Claim, Record, Standing
from migrator.wire.faults import Fault, FaultCode, FaultError
from migrator.wire.messages import PeerGive, PeerRuns, PreCopy

Patch = Any
FLUSHED_S = 5.0


def _given_after_run() -> list[Patch]:
    """The source writes `given` when it hears that the target runs, not before it gives."""
    on_peer = Source._on_peer

    def give(self: Source) -> list[Command]:
        self.stage = source_module.Stage.GIVING
        return [Arm(None), self._tell(self._gift)]

    def late(self: Source, reply: Any) -> list[Command]:
        if isinstance(reply, PeerRuns):
            self.record = replace(self.record, claim=Claim.GIVEN)
        return on_peer(self, reply)

    return [patch.object(Source, "_give", give), patch.object(Source, "_on_peer", late)]


def _undo_after_given() -> list[Patch]:
    """The controller's undo is obeyed after the point of no return."""

    def undo(self: Source, order: Any, ticket: int) -> list[Command]:
        return self._go_back(order.order, ticket, Fault(FaultCode.ABORTED, "undone"))

    return [patch.object(Source, "_on_undo", undo)]


def _orders_not_checked() -> list[Patch]:
    """An order is obeyed whatever was obeyed before."""
    return [patch.object(judging, "late", lambda order, record: False)]


def _record_not_synced() -> list[Patch]:
    """A record that was written reaches the disk some seconds later."""

    def write(self: Host, record: Record) -> None:
        self.unsynced = record

        def flush() -> None:
            if self.unsynced is record:
                self.record = record

        self.world.after(FLUSHED_S, flush)

    return [patch.object(Host, "write", write)]


def _autostart_not_fenced() -> list[Patch]:
    """The source's own init may start a VE that is leaving."""

    def prepare(self: Host, record: Record, order: Any) -> Any:
        result = Host._prepare(self, record, order)
        self.fenced = False
        return result

    return [patch.dict(hosts.ACTS, {Act.PREPARE: prepare})]


def _autostart_before_owner() -> list[Patch]:
    """The target's autostart comes with the VE's configuration."""

    def accept(self: Host, record: Record, order: Any) -> Any:
        self.autostart = self.world.setup.autostart
        return Host._accept(self, record, order)

    return [patch.dict(hosts.ACTS, {Act.ACCEPT: accept})]


def _refusal_not_durable() -> list[Patch]:
    """The target says that it refuses before that is on disk; it never is."""
    refuse = Target._refuse

    def forgotten(self: Target, fault: Any, order: int | None = None) -> list[Command]:
        return [each for each in refuse(self, fault, order) if not isinstance(each, Write)]

    return [patch.object(Target, "_refuse", forgotten)]


def _silence_is_failure_at_source() -> list[Patch]:
    """A source that gets no answer to its gift takes the VE back."""
    on_peer = Source._on_peer

    def judged(self: Source, reply: Any) -> list[Command]:
        if isinstance(reply, Fault) and self.stage is source_module.Stage.GIVING:
            return self._undo(reply)
        return on_peer(self, reply)

    return [patch.object(Source, "_on_peer", judged)]


def _silence_is_failure_at_controller() -> list[Patch]:
    """A controller that gets no answer takes it for a refusal: the host that does not answer has nothing of the VE."""

    def on_fault(self: Migration, fault: Fault, role: Role = Role.SOURCE) -> list[Any]:
        self.fault = self.fault or fault
        return self._undo()

    def on_undone(self: Migration, role: Role, reply: Any) -> list[Any]:
        return [self._send(Role.TARGET, self._release())] if role is Role.SOURCE else self._undone()

    return [patch.object(Migration, "_on_fault", on_fault), patch.object(Migration, "_on_undone", on_undone)]


def _second_controller_not_locked_out() -> list[Patch]:
    """Whoever comes drives the migration, beside whoever drives it already."""

    def take(lease: Lease, holder: str, now_unix_s: float) -> Lease:
        return Lease(holder, lease.epoch, now_unix_s + leases.LEASE_S)

    return [patch.object(leases, "take", take), patch.object(leases, "held", lambda lease, epoch: True)]


def _held_dropped_at_deadline() -> list[Patch]:
    """The deadline of the restore goes on when the VE is held."""
    on_did, handle = Target._on_did, Target.handle

    def armed(self: Target, event: Any) -> list[Command]:
        held = event.act is Act.HOLD
        return [each for each in on_did(self, event) if not (held and isinstance(each, Arm))]

    def dropping(self: Target, event: Any) -> list[Command]:
        if isinstance(event, DeadlinePassed) and self.record.claim is Claim.ARRIVING:
            return self._refuse(self._dropped())
        return handle(self, event)

    return [patch.object(Target, "_on_did", armed), patch.object(Target, "handle", dropping)]


def _late_peer_answer_taken() -> list[Patch]:
    """Whatever the target answers is taken for the answer to what was said last."""
    handle = Source.handle

    def taken(self: Source, event: Any) -> list[Command]:
        return handle(self, replace(event, to=self._told) if isinstance(event, PeerSaid) and self._told else event)

    return [patch.object(Source, "handle", taken)]


def _owner_not_started() -> list[Patch]:
    """An agent that comes up and finds the VE its own leaves it as it is."""
    return [patch.object(Target, "_on_boot_of_owner", lambda self, event: [])]


def _discarded_before_it_runs() -> list[Patch]:
    """The source ends its frozen copy when the target owns the VE, not when it runs there."""
    on_stands = Source._on_stands

    def gone(self: Source, standing: Any) -> list[Command]:
        ours = standing.record.migration == self.record.migration
        return self._gone() if ours and standing.record.claim is Claim.OWNER else on_stands(self, standing)

    return [patch.object(Source, "_on_stands", gone)]


def _lent_to_nobody() -> list[Patch]:
    """By post-copy as without: the source ends its frozen copy as soon as the target runs."""
    gone = Source._gone

    def at_once(self: Source) -> list[Command]:
        self.record = replace(self.record, post_copy=False)
        return gone(self)

    return [patch.object(Source, "_gone", at_once)]


def _cold_source_starts() -> list[Patch]:
    """A source that was down in the hand-over undoes it at once, as one that was not."""
    on_boot = Source._on_boot

    def boot(self: Source, event: Booted) -> list[Command]:
        return on_boot(self, replace(event, rebooted=False))

    return [patch.object(Source, "_on_boot", boot)]


def _cold_target_obeys_source() -> list[Patch]:
    """A target that was down runs the VE on the source's word, or by itself."""
    give, on_boot = Target._give, Target._on_boot

    def warm(self: Target, order: PeerGive, ticket: int) -> list[Command]:
        self.record = replace(self.record, cold=False, order=min(self.record.order, order.order))
        return give(self, order, ticket)

    def boot(self: Target, event: Booted) -> list[Command]:
        owner = self.record.claim is Claim.OWNER
        return on_boot(self, replace(event, rebooted=event.rebooted and not owner))

    return [patch.object(Target, "_give", warm), patch.object(Target, "_on_boot", boot)]


def _reboot_forgotten() -> list[Patch]:
    """Orders from before a host's reboot are as good as those from after it."""
    return [patch.object(judging, "BOOT_STEP", 0)]


def _released_before_undone() -> list[Patch]:
    """An undo lets the target go before the source has said that it has the VE."""
    undo = Migration._undo

    def both(self: Migration) -> list[Any]:
        commands = undo(self)
        release = self._send(Role.TARGET, self._release())
        del self._awaited[Role.TARGET]
        return [*commands, release]

    return [patch.object(Migration, "_undo", both)]


def _known_with(**said: bool) -> Patch:
    prop: Any = Migration.__dict__["known"]

    def known(machine: Migration) -> Known:
        found: Known = prop.fget(machine)
        return found

    def believed(machine: Migration) -> Known:
        return replace(known(machine), **said)

    return patch.object(Migration, "known", property(believed))


def _adopt_without_fence() -> list[Patch]:
    """A source that does not answer is taken to be off."""
    return [_known_with(source_off=True)]


def _take_back_without_fence() -> list[Patch]:
    """A target that does not answer is taken to be off."""
    return [_known_with(target_off=True)]


def _adopt_after_undo() -> list[Patch]:
    """What the target holds is run although the source may have run since."""
    return [_known_with(source_may_have_run=False)]


def _take_back_after_confirm() -> list[Patch]:
    """A VE is taken back although the target was told that it is its own for good."""
    return [_known_with(confirming=False)]


def _fence_for_ever() -> list[Patch]:
    """A host that was declared off stays so, also when it speaks."""

    class Sticky(set[Role]):
        def discard(self, role: object) -> None:
            pass

    begin = Migration.__init__

    def init(self: Migration, request: Any) -> None:
        begin(self, request)
        self.off = Sticky()

    return [patch.object(Migration, "__init__", init)]


def _failed_run_is_a_refusal() -> list[Patch]:
    """A run that failed is refused without making sure that the VE did not run."""
    on_did_not = Target._on_did_not

    def refused(self: Target, event: Any) -> list[Command]:
        if event.act is Act.RUN and self._may_give_back:
            self._acting = None
            return self._refuse(event.fault)
        return on_did_not(self, event)

    return [patch.object(Target, "_on_did_not", refused)]


def _copy_outside_the_machine() -> list[Patch]:
    """A round of copying is done whenever it is asked for, whatever has become of the VE."""
    receive = Agent.receive

    def copying(self: Agent, request: Any, answer: Any) -> None:
        if isinstance(request, PreCopy) and self.machine is not None and self.host.state is not hosts.ABSENT:
            try:
                answer(self.host.perform(Act.COPY, self.machine.record, request))
            except FaultError as error:
                answer(error.fault)
        else:
            receive(self, request, answer)

    return [patch.object(Agent, "receive", copying)]


def _run_before_owner() -> list[Patch]:
    """The target lets the VE run before `owner` is on disk."""
    own = Target._own

    def early(self: Target, order: int, ticket: int) -> list[Command]:
        commands = own(self, order, ticket)
        writes = [each for each in commands if isinstance(each, Write)]
        # The write comes with the end of the run, as if it had been put after it.
        self._unwritten = writes  # type: ignore[attr-defined]
        return [each for each in commands if not isinstance(each, Write)]

    on_running = Target._on_running

    def then(self: Target, event: Any) -> list[Command]:
        return [*getattr(self, "_unwritten", []), *on_running(self, event)]

    return [patch.object(Target, "_own", early), patch.object(Target, "_on_running", then)]


def _undone_is_settled_at_once() -> list[Patch]:
    """A source that undoes by itself does not wait for the target to let go."""
    home = judging.home
    return [patch.object(judging, "home", lambda record, sure: home(record, sure=True))]


def _replay_forgets_orders() -> list[Patch]:
    """A controller that takes a migration up begins its orders anew."""
    replay = Journal.replay

    def forgetful(self: Journal) -> Migration:
        machine = replay(self)
        machine._order = 0
        return machine

    return [patch.object(Journal, "replay", forgetful)]


def _key_goes_with_the_drop() -> list[Patch]:
    """A target that refuses does not let the source ask any more."""

    def drop(self: Host, record: Record, order: Any) -> None:
        Host._drop(self, record, order)
        self.key = False

    return [patch.dict(hosts.ACTS, {Act.DROP: drop})]


def _foreign_undo_not_noted() -> list[Patch]:
    """An undo that comes before what it undoes leaves no trace."""

    def answered(order: Any, record: Record, stage: Any, ticket: int) -> list[Command]:
        return [Answer(ticket, None)]

    return [
        patch.object(judging, "on_foreign", answered),
        patch.object(judging, "barred", lambda order, record: replace(record, settled=True)),
    ]


def _restoring_is_undone() -> list[Patch]:
    """A controller undoes a move whose source was down, whatever the target is just about to hold."""
    says = recovery.target_says

    def hurried(standing: Standing | None, migration: str) -> TargetSays:
        said = says(standing, migration)
        return TargetSays.ARRIVING if said is TargetSays.RESTORING else said

    return [patch.object(recovery, "target_says", hurried)]


def _thaw_not_tried_again() -> list[Patch]:
    """A thaw that fails is left to whoever asks next."""
    on_did_not = Source._on_did_not

    def once(self: Source, act: Act, fault: Fault) -> list[Command]:
        return [each for each in on_did_not(self, act, fault) if not (act is Act.THAW and isinstance(each, Arm | Do))]

    return [patch.object(Source, "_on_did_not", once)]


BUGS: dict[str, Callable[[], list[Patch]]] = {
    function.__name__.removeprefix("_"): function
    for function in (
        _given_after_run,
        _lent_to_nobody,
        _undo_after_given,
        _orders_not_checked,
        _record_not_synced,
        _autostart_not_fenced,
        _autostart_before_owner,
        _refusal_not_durable,
        _silence_is_failure_at_source,
        _silence_is_failure_at_controller,
        _second_controller_not_locked_out,
        _held_dropped_at_deadline,
        _late_peer_answer_taken,
        _owner_not_started,
        _discarded_before_it_runs,
        _cold_source_starts,
        _cold_target_obeys_source,
        _reboot_forgotten,
        _released_before_undone,
        _adopt_without_fence,
        _take_back_without_fence,
        _adopt_after_undo,
        _take_back_after_confirm,
        _fence_for_ever,
        _failed_run_is_a_refusal,
        _copy_outside_the_machine,
        _run_before_owner,
        _undone_is_settled_at_once,
        _replay_forgets_orders,
        _key_goes_with_the_drop,
        _foreign_undo_not_noted,
        _restoring_is_undone,
        _thaw_not_tried_again,
    )
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The world with this bug in it."""
    with ExitStack() as stack:
        for each in BUGS[name]():
            stack.enter_context(each)
        yield
