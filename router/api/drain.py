"""Draining on request, with progress."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator

from galerne.errors import InvalidRequestError
from galerne.v1 import cluster_pb2 as pb
from router.api.frontend import Frontend

DEADLINE_S = 30.0
_POLL_S = 0.25
_LAST_WORDS_S = 2.0  # for the terminal events of aborted requests


async def drain(
    frontend: Frontend, request: pb.DrainRequest
) -> AsyncGenerator[pb.DrainProgress, None]:
    """Take no requests from now on; messages until none runs. The last one says 0.

    Raises:
        InvalidRequestError: The deadline is negative.
    """
    deadline_s = request.deadline_s if request.HasField("deadline_s") else DEADLINE_S
    if not deadline_s >= 0:
        raise InvalidRequestError("deadline_s", f"must be at least 0, got {deadline_s}")
    frontend.start_draining()
    end = time.monotonic() + deadline_s
    while frontend.num_running and time.monotonic() < end:
        left = max(end - time.monotonic(), 0.0)
        yield pb.DrainProgress(running=frontend.num_running, seconds_left=left)
        await asyncio.sleep(min(_POLL_S, left))
    num_aborted = await frontend.abort_running()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LAST_WORDS_S):
            await frontend.drain()
    yield pb.DrainProgress(running=frontend.num_running, aborted=num_aborted)
