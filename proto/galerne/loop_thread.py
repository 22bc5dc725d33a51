"""The one event loop of a process that gRPC lives on.

grpc.aio shares one completion-queue poller among all event loops of a process, and a loop that is
closed while another lives breaks the poller's wake-ups. So there is one loop, on one daemon thread,
and it is never closed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from functools import lru_cache
from typing import Any, TypeVar

_T = TypeVar("_T")


class LoopThread:
    """An event loop that runs on a daemon thread for as long as the process lives."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the loop runs."""
        return self._thread.is_alive()

    def run(self, work: Coroutine[Any, Any, _T], timeout_s: float) -> _T:
        """Run a coroutine on the loop and wait for its result.

        Raises:
            TimeoutError: It took longer than ``timeout_s``.
        """
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout_s)


@lru_cache(maxsize=1)
def grpc_loop() -> LoopThread:
    """The process' loop for gRPC."""
    return LoopThread("grpc-loop")


async def until_one_ends(*parts: asyncio.Future[Any]) -> None:
    """Wait until a part of a connection ends; end the others; raise what it raised."""
    try:
        await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        for part in parts:
            if part.done():
                part.result()
    finally:
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)
        del parts, part  # what a part raised has this frame in its trace: that would be a cycle
