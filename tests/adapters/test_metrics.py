"""Metrics say what the stories say, no more and no less."""

import socket
import urllib.error
import urllib.request
from dataclasses import replace

import pytest

from migrator.adapters import metrics as module
from migrator.adapters.metrics import Metrics, Served
from migrator.core.story import Story
from migrator.core.vocabulary import AbortRequested, Policy, Replied, Resumed, Role
from migrator.wire.messages import Progress
from tests.stories import BETA, BROKEN, GOOD, LOST, REQUEST, STARTED, VE, good, request, said, tell, undone


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """A sample; None: there is none."""
    return metrics.registry.get_sample_value(name, labels)


def samples(metrics: Metrics, family: str) -> list[dict[str, str]]:
    """The labels of every sample of a gauge."""
    return [sample.labels for each in metrics.registry.collect() if each.name == family for sample in each.samples]


LIVE = {"mode": "live", "engine": "oci"}
PAIR = {"source": "alpha", "target": "beta"}


def test_good_migration_is_counted_once() -> None:
    """The end, its time and its hosts are counted when it ends, and only then."""
    metrics = Metrics()
    tell(said(GOOD[:-1]), [metrics])
    assert value(metrics, "migrator_migrations_total", outcome="done", **LIVE) == 0

    metrics = Metrics()
    tell(said(GOOD), [metrics])

    assert value(metrics, "migrator_migrations_total", outcome="done", **LIVE) == 1
    assert value(metrics, "migrator_migrations_by_hosts_total", outcome="done", **PAIR) == 1
    assert value(metrics, "migrator_migration_duration_seconds_sum", outcome="done", mode="live") == 8


def test_blackout_is_measured_beside_its_prediction() -> None:
    """Blackout, prediction, their ratio, our overhead and the rounds are those of the report."""
    metrics = Metrics()
    tell(said(GOOD), [metrics])

    assert value(metrics, "migrator_blackout_seconds_sum", **LIVE) == pytest.approx(0.4)
    assert value(metrics, "migrator_blackout_predicted_seconds_sum", **LIVE) == pytest.approx(0.2, abs=1e-4)
    assert value(metrics, "migrator_blackout_prediction_ratio_sum", mode="live") == pytest.approx(2.0, abs=1e-3)
    assert value(metrics, "migrator_blackout_overhead_seconds_sum", **LIVE) == pytest.approx(0.05)
    assert value(metrics, "migrator_rounds_sum", **LIVE) == 2
    assert value(metrics, "migrator_blackouts_over_budget_total", mode="live") == 0


def test_blackout_over_budget_is_counted() -> None:
    """A blackout longer than this operator allowed is counted as such."""
    metrics = Metrics()
    tell(said(GOOD), [metrics], request(policy=Policy(blackout_budget_s=0.3)))

    assert value(metrics, "migrator_blackouts_over_budget_total", mode="live") == 1


def test_bytes_by_channel() -> None:
    """Files and memory of the rounds and of the blackout, and the image, each under their channel and pair."""
    metrics = Metrics()
    tell(said(GOOD), [metrics])

    sent = {
        each: value(metrics, "migrator_transferred_bytes_total", channel=each, **PAIR)
        for each in ("files", "memory", "image")
    }
    assert sent == {"files": 1070, "memory": 1160, "image": 3000}


def test_phases_are_observed_as_they_end() -> None:
    """Each passage of a phase is one observation of its length."""
    metrics = Metrics()
    tell(said(GOOD), [metrics])

    took = {
        phase: value(metrics, "migrator_phase_duration_seconds_sum", phase=phase, mode="live")
        for phase in ("inspecting", "reserving", "copying", "handing-over", "verifying", "retiring")
    }
    assert took == {
        "inspecting": 1, "reserving": 2, "copying": 2, "handing-over": 1, "verifying": 1, "retiring": 1
    }  # fmt: skip
    assert value(metrics, "migrator_phase_duration_seconds_count", phase="copying", mode="live") == 1


def test_fault_is_counted_by_code_step_and_host() -> None:
    """A host's fault is counted; what is undone is an outcome."""
    metrics = Metrics()
    tell(said([*GOOD[:4], (Role.SOURCE, BROKEN), *undone()]), [metrics], request(policy=Policy(fallback=False)))

    assert value(metrics, "migrator_faults_total", code="tool-failed", step="dump", host="alpha") == 1
    assert value(metrics, "migrator_migrations_total", outcome="undone", **LIVE) == 1


def test_fault_without_a_host_is_the_one_that_was_asked() -> None:
    """Who answered is known even when the fault does not say."""
    metrics = Metrics()
    tell(said([GOOD[0], (Role.TARGET, replace(LOST, host=""))]), [metrics])

    assert value(metrics, "migrator_faults_total", code="unreachable", step="", host="beta") == 1


def test_refusals_are_counted_by_name() -> None:
    """Each objection that stood against a migration is counted, and its outcome is refused."""
    metrics = Metrics()
    poor = replace(
        STARTED, target=replace(BETA, engines=(), disk_free_bytes=0), source_ves=(replace(VE, disk_bytes=9),)
    )
    tell([], [metrics], started=poor)

    assert value(metrics, "migrator_refusals_total", refusal="engine-missing") == 1
    assert value(metrics, "migrator_refusals_total", refusal="disk") == 1
    assert value(metrics, "migrator_migrations_total", outcome="refused", **LIVE) == 1


def test_fallback_is_counted_and_planned_stop_copy_is_not() -> None:
    """A live migration that goes on as stop-copy is a fallback; one that was planned so is none."""
    fallen, planned = Metrics(), Metrics()
    tell(said([*GOOD[:4], (Role.SOURCE, BROKEN), *undone()]), [fallen])
    tell([], [planned], started=replace(STARTED, source_ves=(replace(VE, live=False),)))

    assert value(fallen, "migrator_fallbacks_total", engine="oci") == 1
    assert value(planned, "migrator_fallbacks_total", engine="oci") == 0


def test_operators_are_counted() -> None:
    """An abort is an intervention."""
    metrics = Metrics()
    tell([*said(GOOD[:2]), AbortRequested(1010.0, "ops")], [metrics])

    assert value(metrics, "migrator_interventions_total", kind="abort") == 1


def test_migration_under_way_is_shown_until_it_ends() -> None:
    """Its phase, since when, the last news, the expected blackout and the dirty rate; nothing is left after the end."""
    metrics = Metrics()
    tell(said(GOOD[:4]), [metrics])
    one = {"migration": "m1", "ve": "web", **PAIR}

    assert value(metrics, "migrator_in_progress", phase="handing-over") == 1
    assert value(metrics, "migrator_in_progress", phase="copying") == 0
    assert samples(metrics, "migrator_phase_entered_timestamp_seconds") == [{**one, "phase": "handing-over"}]
    assert value(metrics, "migrator_last_event_timestamp_seconds", **one) == 1005
    assert value(metrics, "migrator_expected_blackout_seconds", **one) == pytest.approx(0.2, abs=1e-4)
    assert value(metrics, "migrator_dirty_bytes_per_second", **one) == 2000

    metrics = Metrics()
    tell(said(GOOD), [metrics])
    assert value(metrics, "migrator_in_progress", phase="handing-over") == 0
    assert not [each._name for each in metrics.families.of_one_migration if samples(metrics, each._name)]


def test_progress_is_shown_for_its_phase() -> None:
    """Bytes of the step under way; gone with the phase, and not brought back by a late notice."""
    metrics, one = Metrics(), {"migration": "m1", "ve": "web", **PAIR}
    story = tell(said(GOOD[:2]), [metrics])
    metrics.progressed(story, Progress("copy files", 10, 40))
    assert value(metrics, "migrator_step_done_bytes", **one) == 10
    assert value(metrics, "migrator_step_bytes", **one) == 40

    for event in said(GOOD[2:], 1004.0):
        metrics.told(story, event, story.tell(event))
    metrics.progressed(story, Progress("copy files", 40, 40))

    assert samples(metrics, "migrator_step_done_bytes") == []


def test_story_taken_up_is_counted_from_there() -> None:
    """What an earlier controller counted is not counted again."""
    metrics = Metrics()
    story = Story.replay(REQUEST, 1000.0, [STARTED, *said(GOOD[:5])])

    for event in (Resumed(1100.0), Replied(1101.0, Role.SOURCE, LOST)):
        metrics.told(story, event, story.tell(event))

    assert value(metrics, "migrator_phase_duration_seconds_count", phase="verifying", mode="live") == 1
    assert value(metrics, "migrator_phase_duration_seconds_count", phase="copying", mode="live") is None
    assert value(metrics, "migrator_in_progress", phase="settling") == 1


def test_pairs_of_hosts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many hosts there are, the series stay a bounded number; what does not fit is counted as `other`."""
    monkeypatch.setattr(module, "PAIRS_MAX", 2)
    metrics = Metrics()
    for number in range(5):
        tell(said(good(f"m{number}")), [metrics], request(f"m{number}", f"alpha{number}"))

    pairs = {labels["source"] for labels in samples(metrics, "migrator_migrations_by_hosts")}
    assert pairs == {"alpha0", "alpha1", "other"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_served_over_http_and_closed() -> None:
    """What is counted can be scraped while it is served; a port in use is an OSError; closing frees it."""
    metrics, port = Metrics(), _free_port()
    tell(said(GOOD), [metrics])
    served = Served(metrics.registry, "127.0.0.1", port)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        with pytest.raises(OSError, match="in use"):
            Served(metrics.registry, "127.0.0.1", port)
    finally:
        served.close()

    assert 'migrator_migrations_total{engine="oci",mode="live",outcome="done"} 1.0' in text
    assert "_created" not in text
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5)
