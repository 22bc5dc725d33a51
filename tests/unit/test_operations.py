"""The operations manual says what the code says."""

import re
from pathlib import Path

import pytest
import yaml

from shards.kernels.formats import WeightFormat
from tests.bench import sizing
from tests.bench.marked import marked

DEPLOY = Path(__file__).parents[2] / "deploy"
MANUAL = (DEPLOY / "operations.md").read_text()


@pytest.mark.parametrize(("held", "rate"), [(WeightFormat.BF16, 0.0), (WeightFormat.INT4, 0.1)])
def test_the_table_of_machines_is_what_the_planner_makes_of_them(held, rate):
    """Else ``make sizing`` writes it anew."""
    row = sizing.row(sizing.KINDS[0], held, rate)
    assert row in marked(MANUAL, "sizing").splitlines()


def test_every_alert_has_its_section_and_every_section_its_alert():
    groups = yaml.safe_load((DEPLOY / "helm/galerne/alerts/galerne.rules.yaml").read_text())
    alerts = [rule["alert"] for group in groups["groups"] for rule in group["rules"]]
    assert re.findall(r"^#### (\w+)$", MANUAL, re.MULTILINE) == alerts
