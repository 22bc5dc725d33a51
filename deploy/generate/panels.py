"""Grafana dashboards out of a few words. Pure: what is described in, JSON out.

Schema: Grafana 10 and later (``schemaVersion`` 39), as its own JSON export writes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

Json: TypeAlias = dict[str, Any]

_METRIC: Final = re.compile(r"\b(galerne_\w+)(\{)?")
_SCOPE: Final = 'namespace=~"$namespace",job=~"$job"'
_DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS: Final = 24
_QUANTILES: Final = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One picture.

    Attributes:
        queries: PromQL by legend, without the labels that tell deployments apart.
        text: Shown behind the title's sign; what to look for.
        unit: Grafana's name of it.
        kind: Grafana's type of panel.
        width: Of 24 columns.
        bad: Value from which on it is red; None: nothing is.
        is_bad_below: Values below ``bad`` are, instead.
        names: What numbers are called, in a panel of states.
    """

    title: str
    queries: dict[str, str]
    text: str = ""
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    is_stacked: bool = False
    most: float | None = None
    bad: float | None = None
    is_bad_below: bool = False
    names: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Panels below a heading, from the left."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """One page."""

    uid: str
    title: str
    text: str
    rows: Sequence[Row]


def quantiles(histogram: str, per: str = "") -> dict[str, str]:
    """Queries of a histogram's quantiles; ``per`` is a label, and then only the 95th."""
    by = f"le, {per}" if per else "le"
    buckets = f"sum by ({by}) (rate({histogram}_bucket[$__rate_interval]))"
    if per:
        return {f"{{{{{per}}}}}": f"histogram_quantile(0.95, {buckets})"}
    return {f"p{100 * q:g}": f"histogram_quantile({q:g}, {buckets})" for q in _QUANTILES}


def rate(counter: str, by: str = "") -> str:
    """Its growth per second, added up by labels."""
    grouped = f"sum by ({by})" if by else "sum"
    return f"{grouped} (rate({counter}[$__rate_interval]))"


def mean(histogram: str, by: str) -> str:
    """Mean of a histogram's samples, by a label."""
    return f"{rate(f'{histogram}_sum', by)} / {rate(f'{histogram}_count', by)}"


def scoped(query: str) -> str:
    """The query, of the deployment that is chosen on the page."""

    def scope(found: re.Match[str]) -> str:
        return f"{found[1]}{{{_SCOPE}" + ("," if found[2] else "}")

    return _METRIC.sub(scope, query)


def to_json(dashboard: Dashboard) -> Json:
    """As Grafana imports it."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.text,
        "tags": ["galerne"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,  # one cursor in all panels
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "",
        "templating": {"list": [_datasource(), _variable("namespace"), _variable("job")]},
        "annotations": {"list": [_changes()]},
        "links": [_links()],
        "panels": list(_panels(dashboard.rows)),
    }


def _panels(rows: Iterable[Row]) -> Iterator[Json]:
    number, top = 0, 0
    for row in rows:
        number += 1
        at = {"h": 1, "w": _COLUMNS, "x": 0, "y": top}
        yield {"id": number, "type": "row", "title": row.title, "gridPos": at, "panels": []}
        top, left, height = top + 1, 0, 0
        for panel in row.panels:
            if left + panel.width > _COLUMNS:
                top, left, height = top + height, 0, 0
            number += 1
            at = {"h": panel.height, "w": panel.width, "x": left, "y": top}
            yield _panel(panel, number, at)
            left, height = left + panel.width, max(height, panel.height)
        top += height


def _panel(panel: Panel, number: int, at: Json) -> Json:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": _DATASOURCE,
        "gridPos": at,
        "targets": [
            {
                "refId": chr(ord("A") + i),
                "datasource": _DATASOURCE,
                "expr": scoped(query),
                "legendFormat": legend,
                "instant": panel.kind in ("bargauge", "table"),
            }
            for i, (legend, query) in enumerate(panel.queries.items())
        ],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(panel),
    }


def _defaults(panel: Panel) -> Json:
    defaults: Json = {"unit": panel.unit, "min": 0, "thresholds": _thresholds(panel)}
    if panel.most is not None:
        defaults["max"] = panel.most
    if panel.names:
        options = {str(value): {"text": name} for value, name in panel.names.items()}
        defaults["mappings"] = [{"type": "value", "options": options}]
    if panel.kind in ("stat", "state-timeline", "bargauge"):
        defaults["color"] = {"mode": "thresholds"}
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "fillOpacity": 30 if panel.is_stacked else 8,
            "lineWidth": 1,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.is_stacked else "none"},
        }
        if panel.bad is not None:
            defaults["custom"]["thresholdsStyle"] = {"mode": "line"}
    return defaults


def _thresholds(panel: Panel) -> Json:
    if panel.kind == "state-timeline" and panel.bad is None:  # one state at a time, none is bad
        steps: list[Json] = [{"color": "transparent", "value": None}, {"color": "blue", "value": 1}]
        return {"mode": "absolute", "steps": steps}
    good, bad = ("red", "green") if panel.is_bad_below else ("green", "red")
    steps = [{"color": good if panel.bad is not None else "blue", "value": None}]
    if panel.bad is not None:
        steps.append({"color": bad, "value": panel.bad})
    return {"mode": "absolute", "steps": steps}


def _options(panel: Panel) -> Json:
    newest = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    match panel.kind:
        case "timeseries":
            return {
                "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull"]},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }
        case "stat":
            return {"colorMode": "background", "graphMode": "area", "reduceOptions": newest}
        case "bargauge":
            return {"displayMode": "gradient", "orientation": "horizontal", "reduceOptions": newest}
        case "state-timeline":
            return {"showValue": "never", "mergeValues": True, "rowHeight": 0.9}
    return {}


def _datasource() -> Json:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data"}


def _variable(label: str) -> Json:
    query = f"label_values(galerne_ready, {label})"
    return {
        "name": label,
        "label": label,
        "type": "query",
        "datasource": _DATASOURCE,
        "query": {"query": query, "refId": label},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",  # series without the label, too
        "current": {"text": "All", "value": "$__all"},
    }


def _changes() -> Json:
    """A mark wherever another topology began to serve."""
    return {
        "name": "epoch",
        "datasource": _DATASOURCE,
        "enable": True,
        "iconColor": "purple",
        "expr": scoped("changes(galerne_epoch[1m]) > 0"),
        "titleFormat": "another topology",
        "step": "1m",
    }


def _links() -> Json:
    return {
        "title": "Galerne",
        "type": "dashboards",
        "tags": ["galerne"],
        "asDropdown": False,
        "includeVars": True,
        "keepTime": True,
    }
