"""``make generated``: writes what follows from code, the table of metrics and the dashboards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from deploy.generate.autoscaler import AUTOSCALER
from deploy.generate.experts import EXPERTS
from deploy.generate.faults import FAULTS
from deploy.generate.overview import OVERVIEW
from deploy.generate.panels import to_json

DEPLOY = Path(__file__).parents[1]
DASHBOARDS = DEPLOY / "helm/galerne/dashboards"
ALL = (OVERVIEW, EXPERTS, FAULTS, AUTOSCALER)


def dashboards() -> Iterator[tuple[Path, str]]:
    """Where each lies, and what is in it."""
    for dashboard in ALL:
        text = json.dumps(to_json(dashboard), indent=2) + "\n"
        yield DASHBOARDS / f"{dashboard.uid}.json", text


def main() -> None:
    """Write all of them."""
    from deploy.generate.metrics import table  # late: dashboards need no torch

    for path, text in (*dashboards(), (DEPLOY / "metrics.md", table())):
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
