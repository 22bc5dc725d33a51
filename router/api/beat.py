"""Keeps the controller informed of one frontend, and the frontend of what is ordered."""

from __future__ import annotations

import asyncio
import logging

from galerne import logs
from galerne.errors import NotServingError
from router.api.frontend import Frontend
from router.api.peers import FrontendNews, NewsPort

logger = logging.getLogger(__name__)

PERIOD_S = 1.0


class FrontendBeat:
    """Belongs to the frontend's event loop. From now on ``frontend.tell`` is this."""

    def __init__(self, frontend: Frontend, controller: NewsPort) -> None:
        self._frontend, self._controller = frontend, controller
        self._number: int | None = None
        self._has_others = False  # without them nobody reads what this one's metrics are
        self._log_level: str | None = None  # that was asked for since the start
        self._beats = frontend.metrics.set.counter(
            "galerne_frontend_beats_total", "Times the frontend has told how it stands."
        )
        self._turn = asyncio.Lock()
        frontend.tell = self.tell

    async def tell(self) -> bool:
        """How it stands, and obey; whether every other frontend has told its metrics.

        Raises:
            NotServingError: The controller does not answer.
        """
        frontend = self._frontend
        async with self._turn:  # what is told later is newer
            orders = await self._controller.frontend_news(self._news())
            if orders.has_others and not self._has_others:  # they shall not wait for a second
                self._has_others = True
                orders = await self._controller.frontend_news(self._news())
            self._has_others = orders.has_others
        self._number = orders.number
        frontend.process = f"frontend-{orders.number}"
        if orders.drain is not None:
            frontend.drainer.obey(orders.drain)
        if orders.log_level not in (None, self._log_level):
            self._log_level = orders.log_level
            logs.set_level(orders.log_level)
        self._beats.inc()
        return orders.num_silent == 0

    def _news(self) -> FrontendNews:
        frontend = self._frontend
        return FrontendNews(
            number=self._number,
            num_running=frontend.num_running,
            drained=frontend.drainer.drained,
            num_aborted=frontend.drainer.num_aborted,
            metrics=frontend.metrics.set.text() if self._has_others else b"",
        )

    async def run(self, period_s: float = PERIOD_S) -> None:
        """For ever."""
        while True:
            await self._frontend.note_ready()  # other frontends show what this one tells
            try:
                await self.tell()
            except NotServingError as error:  # it is told when it is back
                logger.warning("frontend_not_heard reason=%s", error)
            await asyncio.sleep(period_s)
