"""Whether Serve is about to end this replica, which it does not tell.

It waits for what a replica still does, and a Watch never ends by itself. But it asks no replica for
its health that is to go. Its controller may have other reasons not to ask, so it is asked then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from cluster.ingress.existing import serve_details

CHECK_PERIOD_S = 2.0  # of Serve's health checks
SILENT_AFTER_S = 5 * CHECK_PERIOD_S
LOOK_PERIOD_S = 1.0
_ANSWER_S = 5.0
_STOPPING = "STOPPING"


class HealthChecks:
    """When Serve last asked."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._asked_s = now_s()

    def seen(self) -> None:
        """Serve asks."""
        self._asked_s = self._now_s()

    @property
    def have_ceased(self) -> bool:
        """Whether it has not asked for long."""
        return self._now_s() - self._asked_s > SILENT_AFTER_S


def is_let_go(details: Mapping[str, Any], actor_name: str) -> bool:
    """Whether Serve, by its details (as of its REST API), ends a replica. Pure.

    It does not list those of an application that it deletes.
    """
    states = [
        replica["state"]
        for app in details["applications"].values()
        for deployment in app["deployments"].values()
        for replica in deployment["replicas"]
        if replica["actor_name"] == actor_name
    ]
    return states in ([], [_STOPPING])


def ask_serve(actor_name: str) -> bool:
    """The same of Serve as it is now; False too if its controller does not answer. Blocks."""
    details = serve_details(_ANSWER_S)
    return details is not None and is_let_go(details, actor_name)


async def until_let_go(
    checks: HealthChecks, ask: Callable[[], bool], period_s: float = LOOK_PERIOD_S
) -> None:
    """Return when Serve ends this replica.

    Args:
        checks: Of this replica's health: Serve is not asked while it asks.
        ask: Whether it does, such as ``ask_serve``; runs in a thread.
        period_s: Seconds between looks.
    """
    while not (checks.have_ceased and await asyncio.to_thread(ask)):  # noqa: ASYNC110 - no event
        await asyncio.sleep(period_s)
