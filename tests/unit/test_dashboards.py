"""Dashboards and alerts ask for metrics that there are, and are tested themselves."""

import json
import re
from pathlib import Path

import pytest
import yaml

from deploy.generate.__main__ import dashboards
from deploy.generate.panels import scoped

ROOT = Path(__file__).parents[2]
RULES = yaml.safe_load((ROOT / "deploy/helm/galerne/alerts/galerne.rules.yaml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
TESTS = [
    case
    for file in sorted((ROOT / "tests/promtool").glob("*.yaml"))
    for case in yaml.safe_load(file.read_text())["tests"]
]
FILES = list(dashboards())
TABLE = re.findall(r"^\| `(\w+)` \| (\w+) ", (ROOT / "deploy/metrics.md").read_text(), re.M)
SERIES = {
    name + suffix
    for name, kind in TABLE
    for suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))
}


def queries_of(dashboard):
    marks = [mark["expr"] for mark in dashboard["annotations"]["list"]]
    return marks + [t["expr"] for panel in dashboard["panels"] for t in panel.get("targets", ())]


@pytest.mark.parametrize(("path", "text"), FILES, ids=lambda value: getattr(value, "stem", ""))
def test_a_dashboards_file_is_what_is_generated(path, text):
    assert path.read_text() == text, "make generated"


@pytest.mark.parametrize("path", [path for path, _ in FILES], ids=lambda path: path.stem)
def test_a_dashboard_asks_for_metrics_that_there_are_of_the_deployment_that_was_chosen(path):
    dashboard = json.loads(path.read_text())
    queries = queries_of(dashboard)
    assert queries
    for query in queries:
        names = re.findall(r"galerne_\w+", query)
        assert names
        assert set(names) <= SERIES, query
        assert query.count('job=~"$job"') == len(names), query


@pytest.mark.parametrize("path", [path for path, _ in FILES], ids=lambda path: path.stem)
def test_panels_lie_within_the_page_and_on_no_other(path):
    taken = set()
    panels = json.loads(path.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_only_metrics_get_the_labels_of_the_deployment():
    query = 'sum by (galerne) (rate(galerne_a_total{x="galerne"}[1m])) / galerne_b'
    chosen = 'namespace=~"$namespace",job=~"$job"'
    assert scoped(query) == (
        f'sum by (galerne) (rate(galerne_a_total{{{chosen},x="galerne"}}[1m]))'
        f" / galerne_b{{{chosen}}}"
    )


def test_every_metric_is_on_a_dashboard_or_watched_by_an_alert_or_said_not_to_be():
    """One that nobody looks at may as well go."""
    shown = " ".join(text for _, text in FILES) + " ".join(rule["expr"] for rule in ALERTS)
    unseen = {name for name, _ in TABLE if name not in shown}
    assert unseen == {
        "galerne_api_key_file_looks_total",  # loops: a file is looked at, or its change is not seen
        "galerne_tls_certificate_looks_total",
        "galerne_frontend_beats_total",
        "galerne_frontend_busy_looks_total",
        "galerne_api_keys",
        "galerne_client_requests_total",
        "galerne_engine_finished_total",
        "galerne_engine_num_draft_tokens",
        "galerne_engine_steps_total",
        "galerne_engine_waiting_limit",
        "galerne_image_batches_total",
        "galerne_image_cache_bytes",
        "galerne_image_pixels_total",
        "galerne_process_start_time_seconds",
        "galerne_process_virtual_memory_bytes",
        "galerne_requests_running",
        "galerne_shard_gateways",
        "galerne_streams_parked",
    }


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_what_it_means_and_what_to_do_first(rule):
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in ("page", "ticket")
    notes = rule["annotations"]
    assert notes.keys() == {"summary", "description", "action", "runbook_url"}
    assert "$labels.job" in notes["summary"]
    assert notes["runbook_url"] == f"deploy/operations.md#{rule['alert'].lower()}"
    assert set(re.findall(r"galerne_\w+", rule["expr"])) <= SERIES


def test_few_alerts_wake_people():
    paging = [rule["alert"] for rule in ALERTS if rule["labels"]["severity"] == "page"]
    assert len(paging) <= len(ALERTS) / 4 + 1
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS)


@pytest.mark.parametrize("name", [rule["alert"] for rule in ALERTS])
def test_an_alert_is_seen_firing_and_seen_silent_beside_it(name):
    asked = f'alertname="{name}",alertstate="firing"'
    cases = [case for case in TESTS if any(asked in t["expr"] for t in case["promql_expr_test"])]
    assert cases
    times = [t for case in cases for t in case["promql_expr_test"] if asked in t["expr"]]
    assert any(t["exp_samples"] for t in times)
    # Silent at another time, or for another deployment or process of the same test.
    jobs = {
        found
        for case in cases
        for series in case["input_series"]
        for found in re.findall(
            r'(?:job|process|namespace|part|shard|kind)="[^"]+"', series["series"]
        )
    }
    seen = {
        found
        for t in times
        for s in t["exp_samples"]
        for found in re.findall(r'\w+="[^"]+"', s["labels"])
    }
    assert any(not t["exp_samples"] for t in times) or jobs - seen
