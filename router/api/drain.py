"""Draining: at one frontend, by order; and of all of them, with progress."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from galerne.errors import InvalidRequestError, NotServingError
from galerne.v1 import cluster_pb2 as pb
from router.api.cluster_port import ClusterPort
from router.api.peers import DrainOrder

if TYPE_CHECKING:
    from router.api.frontend import Frontend

DEADLINE_S = 30.0
_POLL_S = 0.25
LAST_WORDS_S = 2.0  # for the terminal events of aborted requests
_SILENT_S = 15.0  # after the deadline, for a controller that is away and frontends that are late


class Drainer:
    """Carries out orders at one frontend; the newest one counts."""

    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend
        self._ordered = ""
        self._task: asyncio.Task[None] | None = None
        self.drained = ""  # the last order that was carried out
        self.num_aborted = 0  # by it

    def obey(self, order: DrainOrder) -> None:
        """Begin, unless it is the one that was begun last."""
        if order.id == self._ordered:
            return
        self._ordered = order.id
        self._frontend.start_draining()
        if self._task is not None:
            self._task.cancel()
        self._task = asyncio.create_task(self._carry_out(order))

    async def _carry_out(self, order: DrainOrder) -> None:
        await is_drained(self._frontend, order.seconds_left)
        num_aborted = await self._frontend.abort_running()
        await is_drained(self._frontend, LAST_WORDS_S)
        self.drained, self.num_aborted = order.id, num_aborted


async def is_drained(frontend: Frontend, timeout_s: float) -> bool:
    """Have a frontend take no requests; whether none waits there any more, in time."""
    try:
        async with asyncio.timeout(timeout_s):
            await frontend.drain()
    except TimeoutError:
        return False
    return True


async def drain(
    frontend: Frontend, cluster: ClusterPort, request: pb.DrainRequest
) -> AsyncGenerator[pb.DrainProgress, None]:
    """Have all frontends take no requests from now on; messages until none runs.

    Raises:
        InvalidRequestError: The deadline is negative.
        NotServingError: The controller is away, or a frontend has not carried it out.
    """
    deadline_s = request.deadline_s if request.HasField("deadline_s") else DEADLINE_S
    if not deadline_s >= 0:
        raise InvalidRequestError("deadline_s", f"must be at least 0, got {deadline_s}")
    order, end = secrets.token_hex(8), time.monotonic() + deadline_s
    await cluster.drain(order, deadline_s)  # from then on it will be done
    frontend.drainer.obey(DrainOrder(id=order, seconds_left=deadline_s))
    while True:
        left = max(end - time.monotonic(), 0.0)
        try:
            await frontend.tell()
            facts = await cluster.drain(order, left)
        except NotServingError:
            if time.monotonic() > end + _SILENT_S:
                raise
        else:
            progress = pb.DrainProgress(running=facts.running, aborted=facts.aborted)
            if facts.is_done:
                yield progress
                return
            if time.monotonic() > end + _SILENT_S:
                raise NotServingError("a frontend has not said that it is drained")
            progress.seconds_left = left
            yield progress
        await asyncio.sleep(min(_POLL_S, max(left, 0.05)))
