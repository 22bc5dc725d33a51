"""The page about the cluster. Pure: facts in, HTML out; no script, nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

from galerne.units import seconds_text
from router.api.cluster_port import (
    NAME_LEGEND,
    DecisionFacts,
    ExpertLoadFacts,
    ScalerFacts,
    TopologyFacts,
)
from router.api.heat_map import heat_map
from router.api.http_pages import HEADERS_OF_ALL_PAGES, static_file

_REFRESH_S = 5
_NOTHING = "-"
# In the page itself: it shows all it has even where nothing more can be fetched.
_STYLE = static_file("base.css") + files("router.api").joinpath("templates/cluster.css").read_text()
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
PAGE_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    **HEADERS_OF_ALL_PAGES,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """All that is shown."""

    topology: TopologyFacts
    scaler: ScalerFacts | None  # None where no autoscaler runs
    problem: str  # why not
    decisions: tuple[DecisionFacts, ...]  # oldest first
    experts: ExpertLoadFacts | None = None  # None: it was not asked for


def page(view: ClusterView, model: str, number: int | None) -> str:
    """What serves, the load, a decision with its candidates, and those before it.

    ``number`` of the decision that was asked for; None: the latest, and the page renews itself.
    """
    heat = None if view.experts is None else heat_map(view.experts.rows)
    return _render(
        view=view, heat=heat, model=model, refresh_s=_REFRESH_S if number is None else None
    )


def failure_page(problem: str) -> str:
    """Only the words, while nobody can say more; renews itself."""
    return _render(view=None, heat=None, problem=problem, refresh_s=_REFRESH_S)


def _render(*, model: str = "", problem: str = "", **shown: object) -> str:
    template = _environment().get_template("cluster.html")
    return template.render(model=model, problem=problem, style=_STYLE, legend=NAME_LEGEND, **shown)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("router.api"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "seconds": lambda value: _NOTHING if value is None else seconds_text(value),
        "number": lambda value: f"{value:.3g}" if _is_finite(value) else _NOTHING,
        "count": lambda value: _NOTHING if value is None else f"{value:,}",
        "percent": lambda value: f"{value:.0%}" if _is_finite(value) else _NOTHING,
        "signed": lambda value: f"{value:+.0%}",
        "utc": lambda value: datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
    }
    return environment


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
