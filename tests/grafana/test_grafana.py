"""Dashboard and alerts name metrics that exist, show every one there is, and work in a real Prometheus."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from migrator.adapters.metrics import Metrics, Served
from migrator.core.story import Story
from migrator.core.vocabulary import AbortRequested, Policy, Role
from migrator.wire.messages import Progress
from tests.stories import BETA, BROKEN, GOOD, STARTED, request, said, tell, undone

TOP = Path(__file__).parents[2]
GRAFANA = TOP / "grafana"
UNPACKED = TOP / "build/prometheus/usr/bin"
"""Where the Makefile unpacks Debian's package, so that no service is installed."""
NAME = re.compile(r"\bmigrator_[a-z_]+")
READY_LIMIT_S = 60.0

dashboard: dict[str, Any] = json.loads((GRAFANA / "migration.json").read_text())
panels: list[dict[str, Any]] = [each for each in dashboard["panels"] if each["type"] != "row"]
alerts = (GRAFANA / "alerts.yml").read_text()


def expressions() -> list[tuple[str, str]]:
    """(panel, expression) of every target."""
    return [(panel["title"], each["expr"]) for panel in panels for each in panel["targets"]]


def samples_that_exist() -> set[str]:
    """Every name that a query may use."""
    kinds = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    return {each.name + end for each in Metrics().registry.collect() for end in kinds[each.type]}


def named(text: str) -> set[str]:
    """The metrics an expression names."""
    return set(NAME.findall(text))


def test_every_metric_that_is_named_exists() -> None:
    """A panel, a variable or an alert that names a metric which is not exported would be silent for ever."""
    rules = "\n".join(line for line in alerts.splitlines() if "docs/runbooks" not in line)
    asked = named(json.dumps(dashboard["panels"])) | named(json.dumps(dashboard["templating"])) | named(rules)

    assert asked - samples_that_exist() == set()


def test_every_metric_is_shown() -> None:
    """A metric that no panel shows is one that nobody finds at night."""
    shown = set().union(*(named(expr) for _, expr in expressions()))
    families = {
        each.name: {each.name + end for end in ("", "_total", "_bucket", "_sum", "_count")}
        for each in Metrics().registry.collect()
    }

    assert [name for name, samples in families.items() if not samples & shown] == []


@pytest.mark.parametrize("panel", panels, ids=lambda panel: panel["title"])
def test_panel_explains_itself(panel: dict[str, Any]) -> None:
    """A title in words, a description in a sentence, a unit, and the data source as a variable."""
    assert re.match(r"[A-Z].{5,}", panel["title"])
    assert len(panel["description"].split()) >= 5
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert {each["datasource"]["uid"] for each in panel["targets"]} == {"${datasource}"}


def test_panels_have_their_own_ids_and_places() -> None:
    """No two panels share an id or a place on the grid."""
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies on {taken[x, y]}"
                taken[x, y] = panel["title"]
    assert max(x for x, _ in taken) == 23
    assert len({each["id"] for each in dashboard["panels"]}) == len(dashboard["panels"])


def test_every_alert_has_its_runbook_and_its_tests() -> None:
    """Each alert names a runbook of its own name that exists and answers four questions; each is tested both ways."""
    tested = (GRAFANA / "alerts_test.yml").read_text()
    found = re.findall(r"- alert: (\w+)(.*?)(?=- alert:|\Z)", alerts, re.DOTALL)
    assert len(found) >= 10
    for name, body in found:
        [runbook] = re.findall(r"runbook: (\S+)", body)
        assert runbook == f"docs/runbooks/{name}.md"
        headings = re.findall(r"^## (.*)$", (TOP / runbook).read_text(), re.MULTILINE)
        assert headings == ["Meaning", "Impact", "Diagnosis", "Mitigation", "Over when"]
        assert re.search(r"severity: (critical|warning)", body)
        cases = re.findall(rf"alertname: {name}\n\s+exp_alerts:(.*)", tested)
        assert {case.strip() for case in cases} == {"", "[]"}, (
            f"{name} needs a case in which it fires, and one in which not"
        )


def test_runbooks_name_only_commands_that_exist() -> None:
    """A command in a runbook is one of the program's verbs."""
    from migrator.cli.main import main

    for runbook in (TOP / "docs/runbooks").glob("*.md"):
        for verb in re.findall(r"^ *migrator ([a-z-]+)", runbook.read_text(), re.MULTILINE):
            assert verb in main.commands, f"{runbook.name}: migrator {verb}"


# --- with the real tools ---------------------------------------------------------------------------


def tool(name: str) -> str:
    """Path of a program of Debian's `prometheus` package; skips where there is none."""
    found = shutil.which(name, path=f"{UNPACKED}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"no {name} here: make prometheus")
    return found


def test_alert_rules_do_what_their_tests_say() -> None:
    """promtool runs the rules over made-up series: each fires when it should, and not when it should not."""
    argv = [tool("promtool"), "test", "rules", "alerts_test.yml"]
    done = subprocess.run(argv, cwd=GRAFANA, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_settings_are_good() -> None:
    """The settings that people are told to copy are ones that Prometheus takes."""
    argv = [tool("promtool"), "check", "config", "prometheus.yml"]
    done = subprocess.run(argv, cwd=GRAFANA, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Prometheus:
    """A real one, scraping one port every second."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def query(self, expr: str) -> list[dict[str, Any]]:
        """An instant query's result; what a dashboard's variable stands for is put in."""
        plain = re.sub(r"\$__rate_interval|\$__range", "10s", expr)
        plain = re.sub(r"\$(source|target)", ".*", plain)
        url = f"{self._url}/api/v1/query?{urllib.parse.urlencode({'query': plain})}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            said: dict[str, Any] = json.load(answer)
        assert said["status"] == "success"
        found: list[dict[str, Any]] = said["data"]["result"]
        return found

    def wait_for(self, expr: str) -> None:
        """Until a query has a result."""
        deadline = time.monotonic() + READY_LIMIT_S
        while True:
            try:
                if self.query(expr):
                    return
            except OSError:
                pass  # it is still coming up
            assert time.monotonic() < deadline, f"Prometheus never had {expr}"
            time.sleep(0.2)


@contextmanager
def prometheus(directory: Path, scraped: int) -> Iterator[Prometheus]:
    """Run one for as long as the block lasts."""
    port = _free_port()
    settings = directory / "prometheus.yml"
    settings.write_text(
        "global: {scrape_interval: 1s}\n"
        f"scrape_configs: [{{job_name: migrator, static_configs: [{{targets: ['127.0.0.1:{scraped}']}}]}}]\n"
    )
    argv = [
        tool("prometheus"),
        f"--config.file={settings}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (directory / "log").open("w") as log, subprocess.Popen(argv, stdout=log, stderr=log) as process:
        try:
            yield Prometheus(port)
        finally:
            process.terminate()


def live_a_little(metrics: Metrics) -> Story:
    """What a fleet does in a day: moves, failures, a refusal, an abort, a fallback; the story that is still under way."""
    now_s = time.time()
    strict = Policy(blackout_budget_s=0.1, fallback=False)
    broken = [*GOOD[:4], (Role.SOURCE, BROKEN)]
    tell(said(GOOD, now_s - 10), [metrics], request("m1", policy=strict))
    tell(said([*broken, *undone()]), [metrics], request("m2", policy=strict))
    tell(said([*broken, *undone()]), [metrics], request("m3"))
    tell([], [metrics], request("m4"), replace(STARTED, target=replace(BETA, engines=())))
    tell([*said(GOOD[:2]), AbortRequested(1010.0, "ops")], [metrics], request("m5"))
    tell(said([*GOOD[:5], (Role.TARGET, BROKEN)], now_s - 10), [metrics], request("m6"))
    story = tell(said(GOOD[:4], now_s - 5), [metrics], request("m7"))
    metrics.progressed(story, Progress("send", 5, 10))
    return story


@pytest.mark.slow
def test_every_panel_has_something_to_show(tmp_path: Path) -> None:
    """After a day of everything, scraped by a real Prometheus, no panel of the dashboard is empty."""
    tool("prometheus")
    metrics, scraped = Metrics(), _free_port()
    served = Served(metrics.registry, "127.0.0.1", scraped)
    try:
        with prometheus(tmp_path, scraped) as seen:
            live_a_little(metrics)
            seen.wait_for('migrator_step_done_bytes{migration="m7"}')
            live_a_little(metrics)
            seen.wait_for('increase(migrator_migrations_total{outcome="undone"}[1m]) > 0')
            empty = [title for title, expr in expressions() if not seen.query(expr)]
    finally:
        served.close()

    assert empty == []
