"""What people read: plain words first, and in every failure the host, the step, where the VE is and what to do next."""

from dataclasses import replace

import pytest

from migrator.app.hosts import HostState
from migrator.cli import render
from migrator.core import plan as planning
from migrator.core import report as reports
from migrator.core.vocabulary import Policy, Role
from migrator.wire.facts import Claim, Objection, ToolFact, VeState
from migrator.wire.messages import Reply
from tests.stories import ALPHA, BETA, BROKEN, GOOD, LOST, REQUEST, STARTED, VE, request, said, stands, tell, undone


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536 << 10, "1.5 MiB"),
        (1 << 40, "1.0 TiB"),
        (5 << 50, "5120.0 TiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    """Powers of 1024 with their own names, and no number without a unit."""
    assert render.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 ms"), (0.34, "340 ms"), (2.14, "2.1 s"), (59.96, "60.0 s"), (200, "3 min 20 s"), (7260, "2 h 1 min")],
)
def test_durations(seconds: float, text: str) -> None:
    """The unit fits the length."""
    assert render.duration(seconds) == text


def test_table_is_as_wide_as_it_needs() -> None:
    """Columns line up and no line ends in spaces."""
    text = render.table([("a", "bbb"), ("cccc", "")], ("X", "Y"))

    assert text.splitlines() == ["X     Y", "a     bbb", "cccc"]


def test_fault_names_step_host_and_tool_and_quotes_its_log() -> None:
    """The sentence first, then the end of the tool's own log, indented."""
    assert render.fault(BROKEN).splitlines() == [
        "dump on alpha (criu): criu ended with 1",
        "  the end of criu log:",
        "    Error (criu/sk-inet.c:1): no",
    ]


def test_objection_has_evidence_and_remedy_and_says_if_it_can_be_waived() -> None:
    """Every reason with what to do; a name to waive only where waiving is safe."""
    text = render.objections([Objection("a", "it is so", "do this"), Objection("b", "too", "do that", waivable=True)])

    assert text.splitlines() == ["  a: it is so", "    -> do this", "  b: too", "    -> do that, or --waive b"]


def test_plan_says_how_and_what_it_costs() -> None:
    """Mode and reason, sizes, prediction, what was waived, what should be known."""
    ve = replace(VE, blockers=("a tty",), notes=("it has an action script",), memory_bytes=10 << 20)
    waiving = request(policy=Policy(waived=("blocker",), fallback=False))
    text = render.plan(waiving, planning.make(waiving, replace(STARTED, source_ves=(ve,))))

    assert text.splitlines()[0] == "web from alpha to beta: live, because web runs and can be checkpointed"
    assert "10.0 MiB of memory" in text
    assert "predicted: blackout" in text
    assert "  waived: blocker: a tty" in text
    assert "  note: it has an action script" in text


def test_refused_plan_gives_all_reasons() -> None:
    """A plan that cannot be made says so first, and then everything that stands against it."""
    poor = replace(STARTED, target=replace(BETA, engines=(), bridges=()))
    text = render.plan(REQUEST, planning.make(REQUEST, poor))

    assert text.splitlines()[0] == "web from alpha to beta is refused:"
    assert "engine-missing" in text
    assert "bridge" in text


def test_report_of_a_good_migration() -> None:
    """Where the VE is, the blackout with its parts and our own share in a line, what was copied, how long it took."""
    lines = render.report(reports.of(tell(said(GOOD)))).splitlines()

    assert lines[0] == "migration m1: web from alpha to beta, live: done"
    assert lines[1] == "  web is on beta, as it was on alpha; alpha is clean"
    assert "  blackout 400 ms (predicted 200 ms)" in lines
    assert "    CRIU 150 ms, on the wire 200 ms, our own overhead 50 ms" in lines
    assert "    predicted/actual (ms): fixed 200/320, memory 0/150, files 100/110" in lines
    assert any(line.startswith("  copied:") and "in 2 rounds" in line for line in lines)
    assert not [line for line in lines if line.startswith("  next:")]


WORDS: list[tuple[Role, Reply]] = [(Role.SOURCE, stands(Claim.GIVEN)), (Role.TARGET, stands(Claim.HOME))]
ENDS: dict[str, tuple[list[tuple[Role, Reply]], str]] = {
    "undone": ([*GOOD[:4], (Role.SOURCE, BROKEN), *undone()], "web is on alpha as before"),
    "needs-operator": (
        [*GOOD[:5], (Role.TARGET, replace(BROKEN, host="beta")), *WORDS],
        "nothing is started by itself",
    ),
    "blocked": (
        [*GOOD[:4], (Role.SOURCE, LOST), WORDS[0], (Role.TARGET, LOST)],
        "beta does not answer: web waits on alpha",
    ),
}


@pytest.mark.parametrize("phase", ENDS)
def test_report_of_a_bad_end_says_where_it_is_and_what_to_do(phase: str) -> None:
    """Every end that is not good tells the VE's place or what stands in the way, and the next safe command."""
    replies, words = ENDS[phase]
    found = reports.of(tell(said(replies), request=request(policy=Policy(fallback=False))))
    lines = render.report(found).splitlines()

    assert found.phase == phase
    assert words in lines[1]
    assert lines[-1].startswith("  next: migrator ")
    if found.fault is not None:
        assert lines[2] == f"  why: {found.fault.sentence()}"


def test_undone_after_a_lost_answer_says_which() -> None:
    """Nothing certainly failed; the host and step whose answer was lost are told, beside where the VE is."""
    replies = [*GOOD[:4], (Role.SOURCE, LOST), (Role.SOURCE, stands(Claim.HOME)), (Role.TARGET, stands(Claim.REFUSED))]
    lines = render.report(reports.of(tell(said([*replies, *undone()])))).splitlines()

    assert lines[0].endswith(": undone")
    assert "web is on alpha as before" in lines[1]
    assert lines[2] == f"  why: handing-over on alpha: {LOST.message}"


def test_done_in_spite_of_a_lost_answer_says_so() -> None:
    """It went well, and somebody who looks at the times wants to know what was waited for."""
    replies = [*GOOD[:4], (Role.SOURCE, LOST), (Role.SOURCE, stands(Claim.GONE)), (Role.TARGET, stands(Claim.OWNER))]
    text = render.report(reports.of(tell(said([*replies, *GOOD[5:]]))))

    assert ": done" in text.splitlines()[0]
    assert "why:" not in text
    assert "  note: an answer was lost on the way" in text


def test_report_of_a_refusal_says_that_nothing_was_changed() -> None:
    """Refused: the VE is untouched, and each reason has its remedy."""
    text = render.report(reports.of(tell([], started=replace(STARTED, target=replace(BETA, engines=())))))

    assert "untouched" in text.splitlines()[1]
    assert "-> migrator host check" in text


def test_host_says_what_is_missing_and_how_to_get_it() -> None:
    """Missing tools with a command, tools that cannot be used with the reason, a clock that is off."""
    tools = (ToolFact("criu", "3.17", "cannot start on this kernel", "apt install criu/forky"), ToolFact("rsync", ""))
    lines = render.host("alpha", HostState(replace(ALPHA, tools=tools, engines=()), (), ("web",), 7.0)).splitlines()

    assert "  engines: none is usable" in lines
    assert "  VEs: 0; held by a migration: web" in lines
    assert "  criu 3.17 cannot be used: cannot start on this kernel -> apt install criu/forky" in lines
    assert "  missing: rsync -> apt install rsync" in lines
    assert any("clock: +7.0 s" in line and "NTP" in line for line in lines)


def test_ves_and_one_ve() -> None:
    """The list has a line for each; one VE has its links, its mounts and what stands against a checkpoint."""
    stopped = replace(VE, ve="a", state=VeState.STOPPED, interfaces=())
    full = replace(VE, foreign_mounts=("/srv",), blockers=("a tty",), notes=("n",), autostart=True)

    lines = render.ves([("beta", VE), ("alpha", stopped)]).splitlines()
    text = render.ve("alpha", full)

    assert [line.split()[:3] for line in lines[1:]] == [["a", "alpha", "stopped"], ["web", "beta", "running"]]
    assert "  eth0 (02:00:00:00:00:01): 10.0.0.9/24, host side ve-web on br0" in text
    for part in ("starts with its host: yes", "mounted from the host: /srv", "would be refused: a tty", "note: n"):
        assert part in text
