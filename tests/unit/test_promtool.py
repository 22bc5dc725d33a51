"""Alert rules as Prometheus' own tool sees them: they parse, and fire when they should."""

import subprocess
from pathlib import Path

import pytest

from helpers.prometheus import find

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/helm/galerne/alerts/galerne.rules.yaml"
PROMTOOL = find("promtool")

pytestmark = pytest.mark.skipif(PROMTOOL is None, reason="no promtool: make prometheus")


def run(*arguments):
    command = [PROMTOOL, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_rules_are_what_prometheus_takes():
    done = run("check", "rules", RULES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rules found" in done.stdout


@pytest.mark.parametrize(
    "file", sorted((ROOT / "tests/promtool").glob("*.yaml")), ids=lambda f: f.stem
)
def test_alerts_fire_when_they_should_and_not_when_they_should_not(file):
    done = run("test", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_tool_sees_an_alert_that_does_not_fire(tmp_path):
    """Else all of these would say nothing."""
    text = (ROOT / "tests/promtool/clients.yaml").read_text()
    changed = text.replace("values: '1 0 1x10 0x10'", "values: '1x40'")
    assert changed != text
    file = tmp_path / "clients.yaml"
    file.write_text(changed.replace("../../deploy", str(ROOT / "deploy")))
    assert run("test", "rules", file).returncode != 0
