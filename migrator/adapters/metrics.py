"""Metrics for Prometheus: an Observer that counts what the stories tell, and the port where they are served.

Rule: every number is read off the story, so that metrics, journal and report cannot differ; a VE's name stands on no
counter and no histogram, only on the gauges of a migration under way, which go when it ends. Each family below is
shown in grafana/ (a test holds that in both directions).
"""

from dataclasses import dataclass
from wsgiref.simple_server import WSGIServer

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

import migrator
from migrator.core import report as reports
from migrator.core.phases import ENDED, Phase
from migrator.core.story import Passage, Story
from migrator.core.vocabulary import AbortRequested, Command, Event, Fenced, Replied, Role, Started
from migrator.wire.facts import Mode
from migrator.wire.faults import Fault
from migrator.wire.messages import Copied, HandedOver, Progress

BLACKOUT_BUCKETS_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60, 300)
PHASE_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 900, 3600, 4 * 3600, 86400)
ROUND_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 20, 50)
RATIO_BUCKETS = (0.25, 0.5, 0.75, 0.9, 1.1, 1.25, 1.5, 2, 3, 5, 10)
PAIRS_MAX = 400
"""So many pairs of hosts get series of their own; further ones are counted together as `other`."""
OTHER, UNKNOWN = "other", "unknown"
ONE_MIGRATION = ("migration", "ve", "source", "target")


class Families:
    """Every metric there is, in a registry of its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry, self.names = registry, list[str]()
        pair = ("source", "target")
        self.build = self._gauge("migrator_build_info", "The running version; always 1.", "version")
        self.ended = self._counter("migrator_migrations_total", "Ended migrations.", "outcome", "mode", "engine")
        self.by_hosts = self._counter(
            "migrator_migrations_by_hosts_total", "Ended migrations by pair of hosts.", *pair, "outcome"
        )
        self.total_s = self._histogram(
            "migrator_migration_duration_seconds", "From request to end.", PHASE_BUCKETS_S, "outcome", "mode"
        )
        self.phase_s = self._histogram(
            "migrator_phase_duration_seconds", "Time spent in a phase, by passage.", PHASE_BUCKETS_S, "phase", "mode"
        )
        self.blackout_s = self._histogram(
            "migrator_blackout_seconds", "Blackout on the source's clock.", BLACKOUT_BUCKETS_S, "mode", "engine"
        )
        self.predicted_s = self._histogram(
            "migrator_blackout_predicted_seconds",
            "The last prediction before each blackout.",
            BLACKOUT_BUCKETS_S,
            "mode",
            "engine",
        )
        self.ratio = self._histogram(
            "migrator_blackout_prediction_ratio", "Blackout measured over blackout predicted.", RATIO_BUCKETS, "mode"
        )
        self.overhead_s = self._histogram(
            "migrator_blackout_overhead_seconds",
            "Blackout less CRIU's own time and less the transfer.",
            BLACKOUT_BUCKETS_S,
            "mode",
            "engine",
        )
        self.over_budget = self._counter(
            "migrator_blackouts_over_budget_total", "Blackouts longer than the operator's budget.", "mode"
        )
        self.bytes = self._counter(
            "migrator_transferred_bytes_total", "Sent: files, memory (rounds and last), image.", "channel", *pair
        )
        self.rounds = self._histogram(
            "migrator_rounds", "Rounds of copying before a blackout.", ROUND_BUCKETS, "mode", "engine"
        )
        self.fallbacks = self._counter(
            "migrator_fallbacks_total", "Live migrations that went on as stop-copy.", "engine"
        )
        self.refusals = self._counter("migrator_refusals_total", "Objections that refused a migration.", "refusal")
        self.faults = self._counter("migrator_faults_total", "Faults that hosts answered.", "code", "step", "host")
        self.interventions = self._counter("migrator_interventions_total", "What operators did: abort, fence.", "kind")
        self.in_progress = self._gauge("migrator_in_progress", "Migrations that have not ended.", "phase")
        self.entered_s = self._gauge(
            "migrator_phase_entered_timestamp_seconds",
            "When a migration under way came into its phase.",
            *ONE_MIGRATION,
            "phase",
        )
        self.event_s = self._gauge(
            "migrator_last_event_timestamp_seconds", "When a migration under way last had news.", *ONE_MIGRATION
        )
        self.outlook_s = self._gauge(
            "migrator_expected_blackout_seconds",
            "What the blackout of a migration under way would take now.",
            *ONE_MIGRATION,
        )
        self.dirty = self._gauge(
            "migrator_dirty_bytes_per_second", "How fast a VE that is copied writes its memory.", *ONE_MIGRATION
        )
        self.done_bytes = self._gauge("migrator_step_done_bytes", "Sent in the step under way.", *ONE_MIGRATION)
        self.step_bytes = self._gauge("migrator_step_bytes", "Size of the step under way; 0: unknown.", *ONE_MIGRATION)

    @property
    def of_one_migration(self) -> tuple[Gauge, ...]:
        """Those that name a migration, and go with it."""
        return (self.entered_s, self.event_s, self.outlook_s, self.dirty, self.done_bytes, self.step_bytes)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        self.names.append(name)
        return Counter(name, text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        self.names.append(name)
        return Gauge(name, text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        self.names.append(name)
        return Histogram(name, text, labels, buckets=buckets, registry=self._registry)


@dataclass(slots=True)
class _Seen:
    """How much of one story has been counted."""

    passages: int
    mode: Mode
    phase: Phase | None = None


class Metrics:
    """See `migrator.ports.observer.Observer`. A story that is taken up is counted from the take-up on."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.families = Families(self.registry)
        self.families.build.labels(migrator.__version__).set(1)
        self._begin_at_zero()
        self._seen: dict[str, _Seen] = {}
        self._pairs: set[tuple[str, str]] = set()

    def told(self, story: Story, event: Event, commands: list[Command]) -> None:
        """This happened."""
        seen = self._seen.get(story.request.migration) or self._first_seen(story)
        self._count_event(story, event)
        self._count_fallback(story, event, seen)
        self._count_passages(story, seen)
        if story.ended:
            self._count_end(story)
        self._show_now(story, event, seen)

    def progressed(self, story: Story, progress: Progress) -> None:
        """A host is that far."""
        if story.request.migration in self._seen and not story.ended:
            one = _one(story)
            self.families.done_bytes.labels(**one).set(progress.bytes_done)
            self.families.step_bytes.labels(**one).set(progress.bytes_total)

    def _first_seen(self, story: Story) -> _Seen:
        """What an earlier controller had counted of it: everything before this event."""
        before = Story.replay(story.request, story.began_unix_s, story.events[:-1])
        seen = _Seen(len(before.passages) - 1, before.machine.mode)
        self._seen[story.request.migration] = seen
        return seen

    def _begin_at_zero(self) -> None:
        """Prometheus sees an increase only from a value it knows: what can be counted stands at 0 before it happens."""
        families = self.families
        for phase in set(Phase) - ENDED:
            families.in_progress.labels(phase)
        for mode in Mode:
            families.over_budget.labels(mode)
            families.ratio.labels(mode)
        for kind in ("abort", "fence"):
            families.interventions.labels(kind)

    def _expect(self, story: Story) -> None:
        """The same for what is known when a migration has been planned."""
        families, engine, pair = self.families, _engine(story), self._pair(story)
        families.fallbacks.labels(engine)
        for outcome in ENDED:
            families.by_hosts.labels(*pair, outcome)
            for mode in Mode:
                families.ended.labels(outcome, mode, engine)

    # --- counting --------------------------------------------------------------------------------

    def _count_event(self, story: Story, event: Event) -> None:
        families = self.families
        match event:
            case Started():
                self._expect(story)
            case Replied(reply=Fault() as fault, role=role):
                request = story.request
                host = fault.host or (request.source if role is Role.SOURCE else request.target)
                families.faults.labels(fault.code, fault.step, host).inc()
            case Replied(reply=Copied() as copied):
                self._count_bytes(story, files=copied.file_bytes, memory=copied.memory_bytes)
            case Replied(reply=HandedOver() as handed):
                sent = {"files": handed.file_bytes, "memory": handed.memory_bytes, "image": handed.image_bytes}
                self._count_bytes(story, **sent)
                self._count_blackout(story)
            case AbortRequested():
                families.interventions.labels("abort").inc()
            case Fenced():
                families.interventions.labels("fence").inc()

    def _count_bytes(self, story: Story, **sent: int) -> None:
        for channel, count in sent.items():
            self.families.bytes.labels(channel, *self._pair(story)).inc(count)

    def _count_blackout(self, story: Story) -> None:
        families, blackout = self.families, reports.of(story).blackout
        if blackout is None:
            return
        mode, engine = str(story.machine.mode), _engine(story)
        took_s, predicted_s = blackout.blackout_ms / 1000, blackout.predicted_ms / 1000
        families.blackout_s.labels(mode, engine).observe(took_s)
        families.overhead_s.labels(mode, engine).observe(blackout.overhead_ms / 1000)
        families.rounds.labels(mode, engine).observe(len(story.machine.rounds))
        if predicted_s > 0:
            families.predicted_s.labels(mode, engine).observe(predicted_s)
            families.ratio.labels(mode).observe(took_s / predicted_s)
        families.over_budget.labels(mode).inc(took_s > story.request.policy.blackout_budget_s)

    def _count_fallback(self, story: Story, event: Event, seen: _Seen) -> None:
        fell_back = seen.mode is Mode.LIVE and story.machine.mode is Mode.STOP_COPY
        if fell_back and not isinstance(event, Started):
            self.families.fallbacks.labels(_engine(story)).inc()
        seen.mode = story.machine.mode

    def _count_passages(self, story: Story, seen: _Seen) -> None:
        gone = [each for each in story.passages[seen.passages :] if each.until_unix_s is not None]
        for passage in gone:
            self.families.phase_s.labels(passage.phase, story.machine.mode).observe(_length_s(passage))
        seen.passages += len(gone)

    def _count_end(self, story: Story) -> None:
        families, machine = self.families, story.machine
        outcome, mode = str(machine.phase), str(machine.mode)
        families.ended.labels(outcome, mode, _engine(story)).inc()
        families.by_hosts.labels(*self._pair(story), outcome).inc()
        families.total_s.labels(outcome, mode).observe((story.ended_unix_s or 0.0) - story.began_unix_s)
        for objection in machine.plan.refusals if machine.plan else ():
            families.refusals.labels(objection.name).inc()

    def _pair(self, story: Story) -> tuple[str, str]:
        pair = (story.request.source, story.request.target)
        if pair not in self._pairs and len(self._pairs) >= PAIRS_MAX:
            return (OTHER, OTHER)
        self._pairs.add(pair)
        return pair

    # --- what is under way -----------------------------------------------------------------------

    def _show_now(self, story: Story, event: Event, seen: _Seen) -> None:
        families, one, machine = self.families, _one(story), story.machine
        if machine.phase is not seen.phase:
            self._change_phase(story, seen)
        if story.ended:
            _forget(story, *families.of_one_migration)
            del self._seen[story.request.migration]
            return
        families.event_s.labels(**one).set(event.at_unix_s)
        families.outlook_s.labels(**one).set(reports.of(story).predicted_blackout_ms / 1000)
        if machine.rounds and machine.rounds[-1].dirty_bytes_per_s >= 0:
            families.dirty.labels(**one).set(machine.rounds[-1].dirty_bytes_per_s)

    def _change_phase(self, story: Story, seen: _Seen) -> None:
        families, phase = self.families, story.machine.phase
        if seen.phase is not None:
            families.in_progress.labels(seen.phase).dec()
        _forget(story, families.entered_s, families.done_bytes, families.step_bytes)
        seen.phase = phase
        if not story.ended:
            families.in_progress.labels(phase).inc()
            families.entered_s.labels(**_one(story), phase=phase).set(story.passages[-1].from_unix_s)


def _one(story: Story) -> dict[str, str]:
    request = story.request
    return dict(zip(ONE_MIGRATION, (request.migration, request.ve, request.source, request.target), strict=True))


def _engine(story: Story) -> str:
    """The VE's engine, as its host said."""
    started = next((each for each in story.events if isinstance(each, Started)), None)
    ves = started.source_ves if started else ()
    return next((each.engine for each in ves if each.ve == story.request.ve), UNKNOWN)


def _length_s(passage: Passage) -> float:
    return max(0.0, (passage.until_unix_s or 0.0) - passage.from_unix_s)


def _forget(story: Story, *gauges: Gauge) -> None:
    """Take the migration's series away."""
    for gauge in gauges:
        gauge.remove_by_labels({"migration": story.request.migration})


class Served:
    """A registry served over HTTP until `close`. It names hosts and VEs and asks nobody who they are."""

    def __init__(self, registry: CollectorRegistry, address: str, port: int) -> None:
        """Raises OSError when the address cannot be bound."""
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # a gauge per series that nobody reads
        self._server: WSGIServer
        self._server, self._thread = prometheus_client.start_http_server(port, address, registry)

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
