"""What the controller answers about frontends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cluster.control.events import EventLog
from cluster.control.frontends import FrontendBook
from cluster.control.log_levels import LogLevels
from cluster.control.roster_view import RosterView
from galerne.metric_set import MetricSet
from router.api.log_level import FRONTEND
from router.api.peers import DrainFacts, FrontendNews, FrontendOrders


def show_frontends(metrics: MetricSet, num_live: Callable[[], int]) -> None:
    """How many there are, read whenever the page is."""
    metrics.show_gauge("galerne_frontends", "Frontends that have told lately.", num_live)


class FrontendAnswers(LogLevels):
    """A part of the controller."""

    _frontends: FrontendBook

    def _keep_frontends(
        self,
        view: RosterView,
        metrics: MetricSet,
        events: EventLog,
        now_s: Callable[[], float],
    ) -> None:
        """Begin with none."""
        self._frontends = FrontendBook(now_s, events.add)
        view.frontend_metrics = self._frontends.metrics
        show_frontends(metrics, lambda: self._frontends.num_live)

    async def frontend_news(self, frontend: str, news: FrontendNews) -> FrontendOrders:
        """See ``NewsPort``."""
        orders = self._frontends.hear(frontend, news)
        return replace(orders, log_level=self.log_level_of(FRONTEND))

    async def drain(self, order: str, deadline_s: float) -> DrainFacts:
        """See ``ClusterPort``."""
        return self._frontends.drain(order, deadline_s)
