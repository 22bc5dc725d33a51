"""Whether a deployment still has an owner: without one for too long, it ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

_TURN_S = 1.0


class OwnerLease:
    """A loop of the controller. Who asks which parts shall run is their owner, and renews it."""

    def __init__(
        self,
        orphan_after_s: float,
        end: Callable[[], Awaitable[None]],
        now_s: Callable[[], float] = time.monotonic,
        turn_s: float = _TURN_S,
    ) -> None:
        """``end``: ends the deployment; tried again at the next turn if it raises."""
        self._orphan_after_s = orphan_after_s
        self._end = end
        self._now_s = now_s
        self._turn_s = turn_s
        self._seen_s = now_s()
        self.turns = 0  # of the loop, for those who watch it

    def renew(self) -> None:
        """The owner lives."""
        self._seen_s = self._now_s()

    async def run(self) -> None:
        """Until cancelled, or the deployment was ended."""
        while True:
            self.turns += 1
            await asyncio.sleep(self._turn_s)
            silent_s = self._now_s() - self._seen_s
            if silent_s > self._orphan_after_s:
                logger.critical("owner_lost silent_s=%.0f", silent_s)
                try:
                    await self._end()
                except Exception as error:  # noqa: BLE001 - border to Ray: its head is away
                    logger.warning("orphans_not_ended reason=%r", error)
