"""What the end of one of the controller's loops means."""

from __future__ import annotations

import asyncio
import logging
import os

logger = logging.getLogger(__name__)


def end_process(loop: asyncio.Task[None]) -> None:
    """A loop that has died takes the controller with it: Ray starts another."""
    if not loop.cancelled():
        logger.critical("control_loop_died", exc_info=loop.exception())
        os._exit(1)
