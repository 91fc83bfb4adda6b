"""PURE. After a crash, a timeout or a lost answer: what both hosts say decides what is done.

Rule: the table has an answer for every combination; where the hosts' words do not fit the protocol the answer is the
operator, never a guess. `silent` is a host that does not answer.

    source \\ target  home       arriving   held       owner      refused    silent
    home             undo       undo       undo       operator   undo       undo
    leaving          undo       undo       undo       operator   undo       undo
    busy             undo       wait       wait       operator   undo       wait
    cold             undo       undo       wait       forward    undo       blocked on target
    given            operator   operator   wait       forward    tell       blocked on target
    gone             operator   operator   operator   forward    operator   blocked on target
    silent           blocked on source ..............  forward    blocked on source

    busy   `leaving`, and an order is being carried out; the source has its own deadline for it
    cold   `leaving`, and the source has been down since the hand-over began: its memory is only at the target
    held   `arriving` with a complete image; by post-copy (`held in part`) it is no use without the source: silent: blocked on
           source, or the operator once that is declared off; cold: undo; given: wait, never give
    restoring is `arriving`, and about it: with a cold source, whose memory may be just there, wait; else as `arriving`
    owner  and done with letting it run; while it is about that (`starting`) `forward` waits: blocked on target
    undo   is safe with a silent target: it cannot run what it was not given
    wait   the hosts do it themselves; waited long enough, the controller carries the word of the one to the other:
           `tell` the source what the target says, `give` the target what the source has given
    forward with a silent source: the target may be used; the source is cleaned when it is back

What the journal knows beside that changes the answer:

    abort wanted               busy: undo
    was copying                leaving, arriving: go on copying
    target confirmed the VE    whatever it says now (the VE may have moved on): forward, but while it is silent the
                               source's copy is kept: blocked on target; source silent: blocked on source;
                               home: operator; another migration's record on the source: done
    source declared off        silent, held: adopt, if the source cannot have undone by itself or been told to undo
    adopt was sent             home, held: release the target first, so that a late adopt finds it refused;
                               home, leaving or busy, silent: blocked on target (it may run there);
                               anything but silent, home: operator
    target declared off        silent: take back, unless the target has been told that the VE is its own for good
    take back was sent         never forward again: take back until the source is home, then undo
"""

from dataclasses import dataclass
from enum import StrEnum

from migrator.wire.facts import Claim, Standing


class Action(StrEnum):
    """What the controller does next."""

    UNDO = "undo"
    GO_ON = "go-on"
    """Copy on where it was interrupted."""
    WAIT = "wait"
    """The hosts are about it."""
    TELL_SOURCE = "tell-source"
    """Bring the target's word to the source."""
    GIVE = "give"
    """Bring the source's `given` to the target."""
    ADOPT = "adopt"
    """Let the target run what it holds, on the operator's word that the source is off."""
    TAKE_BACK = "take-back"
    """Let the source run what it gave, on the operator's word that the target is off."""
    RELEASE = "release"
    FORWARD = "forward"
    DONE = "done"
    BLOCKED_ON_SOURCE = "blocked-on-source"
    BLOCKED_ON_TARGET = "blocked-on-target"
    NEEDS_OPERATOR = "needs-operator"


class SourceSays(StrEnum):
    """The source's word, as far as it matters here."""

    HOME = "home"
    OTHER = "other"
    """Its record is of another migration, so this one is over there or never began: as `home`."""
    LEAVING = "leaving"
    BUSY = "busy"
    COLD = "cold"
    GIVEN = "given"
    GONE = "gone"
    SILENT = "silent"
    STRANGE = "strange"
    """A claim that no source of this migration makes."""


class TargetSays(StrEnum):
    """The target's word, as far as it matters here."""

    HOME = "home"
    """Nothing of this migration is there."""
    ARRIVING = "arriving"
    RESTORING = "restoring"
    """And it is about it; it may be the VE's memory that it restores."""
    HELD = "held"
    HELD_IN_PART = "held-in-part"
    """By post-copy: as `held`, and of no use without the source."""
    STARTING = "starting"
    """It owns the VE, and is still about letting it run."""
    OWNER = "owner"
    REFUSED = "refused"
    SILENT = "silent"
    STRANGE = "strange"


@dataclass(frozen=True, slots=True)
class Known:
    """What the journal says that the hosts may not know."""

    aborted: bool = False
    """The operator wants it undone."""
    copying: bool = False
    """It was copying, and may go on if both hosts are as they were."""
    waited: bool = False
    """The hosts had time to do it by themselves."""
    source_off: bool = False
    """The operator has declared the source off, and it has not been heard of since."""
    target_off: bool = False
    source_may_have_run: bool = True
    """The source may have undone the hand-over: it was told to, or says so."""
    adopting: bool = False
    """The target was told to run the VE because the source was declared off."""
    confirming: bool = False
    """The target was told that the VE is its own for good."""
    confirmed: bool = False
    """And it said so."""
    taken_back: bool = False
    """The source was told to take the VE back because the target was declared off."""


def source_says(standing: Standing | None, migration: str) -> SourceSays:
    """The word of the source; None: it does not answer."""
    if standing is None:
        return SourceSays.SILENT
    record = standing.record
    if record.migration != migration:
        return SourceSays.OTHER
    match record.claim:
        case Claim.HOME:
            return SourceSays.HOME
        case Claim.LEAVING if record.cold:
            return SourceSays.COLD
        case Claim.LEAVING:
            return SourceSays.BUSY if standing.working else SourceSays.LEAVING
        case Claim.GIVEN:
            return SourceSays.GIVEN
        case Claim.GONE:
            return SourceSays.GONE
        case _:
            return SourceSays.STRANGE


def target_says(standing: Standing | None, migration: str) -> TargetSays:
    """The word of the target; None: it does not answer."""
    if standing is None:
        return TargetSays.SILENT
    record = standing.record
    if record.migration != migration:
        return TargetSays.HOME
    match record.claim:
        case Claim.HOME:
            return TargetSays.HOME
        case Claim.ARRIVING:
            held = TargetSays.HELD_IN_PART if record.post_copy else TargetSays.HELD
            coming = TargetSays.RESTORING if standing.working else TargetSays.ARRIVING
            return held if record.image_complete else coming
        case Claim.OWNER:
            about_it = standing.working and not record.cold
            return TargetSays.STARTING if about_it else TargetSays.OWNER
        case Claim.REFUSED:
            return TargetSays.REFUSED
        case _:
            return TargetSays.STRANGE


def decide(source: SourceSays, target: TargetSays, known: Known) -> Action:
    """The action for what the two hosts say of this migration and what the journal knows of it."""
    if source is SourceSays.STRANGE or target is TargetSays.STRANGE:
        return Action.NEEDS_OPERATOR
    if known.taken_back:
        return _after_take_back(source)
    if known.confirmed:
        return _after_confirm(source, target)
    if target in (TargetSays.OWNER, TargetSays.STARTING):
        action = _target_owns(source)
        still = action is Action.FORWARD and target is TargetSays.STARTING
        return Action.BLOCKED_ON_TARGET if still else action
    if target is TargetSays.SILENT:
        return _target_is_silent(source, known)
    if target is TargetSays.RESTORING:
        if source is SourceSays.COLD:
            return Action.WAIT  # it has a limit of its own for that, and ends it one way or another
        target = TargetSays.ARRIVING
    if target is TargetSays.HELD_IN_PART:
        return _held_in_part(source, known)
    if source is SourceSays.SILENT:
        adoptable = known.adopting or (known.source_off and not known.source_may_have_run)
        return Action.ADOPT if target is TargetSays.HELD and adoptable else Action.BLOCKED_ON_SOURCE
    return _both_speak(source, target, known)


def _held_in_part(source: SourceSays, known: Known) -> Action:
    """The rest of the memory is the source's, and was lost if that has been down."""
    match source:
        case SourceSays.SILENT:
            return Action.NEEDS_OPERATOR if known.source_off else Action.BLOCKED_ON_SOURCE
        case SourceSays.COLD:
            return Action.UNDO
        case SourceSays.GIVEN:
            return Action.WAIT  # what the source cannot say, it cannot lend either
        case _:
            return _both_speak(source, TargetSays.HELD, known)


def _both_speak(source: SourceSays, target: TargetSays, known: Known) -> Action:
    """And the target does not own it."""
    match source, target:
        case _, TargetSays.HOME if known.adopting:
            return Action.NEEDS_OPERATOR
        case SourceSays.HOME | SourceSays.OTHER, TargetSays.HELD if known.adopting:
            return Action.RELEASE
        case SourceSays.HOME | SourceSays.OTHER, _:
            return Action.UNDO
        case SourceSays.LEAVING, TargetSays.ARRIVING if known.copying and not known.aborted:
            return Action.GO_ON
        case SourceSays.LEAVING, _:
            return Action.UNDO
        case SourceSays.BUSY, TargetSays.ARRIVING | TargetSays.HELD if not known.aborted:
            return Action.WAIT
        case SourceSays.BUSY, _:
            return Action.UNDO
        case SourceSays.COLD, TargetSays.HELD:
            return Action.TELL_SOURCE if known.waited else Action.WAIT
        case SourceSays.COLD, _:
            return Action.UNDO
        case SourceSays.GIVEN, TargetSays.HELD:
            return Action.GIVE if known.waited else Action.WAIT
        case SourceSays.GIVEN, TargetSays.REFUSED:
            return Action.TELL_SOURCE
        case SourceSays.GIVEN, TargetSays.HOME if known.target_off and not known.confirming:
            return Action.TAKE_BACK
        case _:
            return Action.NEEDS_OPERATOR


def _target_owns(source: SourceSays) -> Action:
    """Or says so; it has not confirmed that it is for good."""
    match source:
        case SourceSays.COLD | SourceSays.GIVEN | SourceSays.GONE | SourceSays.SILENT:
            return Action.FORWARD
        case _:
            return Action.NEEDS_OPERATOR


def _target_is_silent(source: SourceSays, known: Known) -> Action:
    match source:
        case SourceSays.SILENT:
            return Action.BLOCKED_ON_SOURCE
        case SourceSays.GONE:
            return Action.BLOCKED_ON_TARGET
        case _ if known.target_off and known.confirming:
            return Action.NEEDS_OPERATOR
        case SourceSays.BUSY if not known.adopting and not known.aborted:
            return Action.WAIT
        case SourceSays.HOME | SourceSays.OTHER | SourceSays.LEAVING | SourceSays.BUSY if not known.adopting:
            return Action.UNDO
        case _:
            return Action.TAKE_BACK if known.target_off else Action.BLOCKED_ON_TARGET


def _after_take_back(source: SourceSays) -> Action:
    """The VE is the source's, whatever the target says when it is back."""
    match source:
        case SourceSays.HOME | SourceSays.OTHER:
            return Action.UNDO
        case SourceSays.SILENT:
            return Action.BLOCKED_ON_SOURCE
        case SourceSays.GONE:
            return Action.NEEDS_OPERATOR
        case _:
            return Action.TAKE_BACK


def _after_confirm(source: SourceSays, target: TargetSays) -> Action:
    """The VE is the target's, whatever the target says now; what the source has is not removed unseen."""
    match source:
        case SourceSays.COLD | SourceSays.GIVEN | SourceSays.GONE if target is TargetSays.SILENT:
            return Action.BLOCKED_ON_TARGET
        case SourceSays.COLD | SourceSays.GIVEN | SourceSays.GONE:
            return Action.FORWARD
        case SourceSays.OTHER:
            return Action.DONE
        case SourceSays.SILENT:
            return Action.BLOCKED_ON_SOURCE
        case _:
            return Action.NEEDS_OPERATOR
