"""Whether Ray's head answers, as a frontend sees it: when it is away too long, all Ray ends.

Frontends and their streams end with it. A short while before that they still can say so.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

_RAYS_PATIENCE_VARIABLE = "RAY_gcs_rpc_server_reconnect_timeout_s"
_RAYS_PATIENCE_S = 60.0  # its default: then its processes end themselves
_OUR_FRACTION = 5 / 6
_PERIOD_S = 1.0


def patience_s() -> float:
    """Seconds for which the head may be away before streams are ended."""
    return float(os.environ.get(_RAYS_PATIENCE_VARIABLE, _RAYS_PATIENCE_S)) * _OUR_FRACTION


async def watch_head(
    address: str,
    on_change: Callable[[str | None], None],
    patience_s: float,
    period_s: float = _PERIOD_S,
) -> None:
    """Run for ever.

    Args:
        address: host:port of the head's process.
        on_change: Told why nothing goes on, when the head has been away for too long, and None
            when it is back.
        patience_s: Seconds that are not too long.
        period_s: Seconds between looks.
    """
    seen_s, is_lost = time.monotonic(), False
    while True:
        await asyncio.sleep(period_s)
        if await _answers(address, period_s):
            seen_s = time.monotonic()
            if is_lost:
                logger.warning("ray_head_back address=%s", address)
                on_change(None)
            is_lost = False
        elif not is_lost and time.monotonic() - seen_s > patience_s:
            is_lost = True
            reason = f"Ray's head has been away for {patience_s:g} s, and all else ends with it"
            logger.error("ray_head_lost address=%s", address)
            on_change(reason)


async def _answers(address: str, timeout_s: float) -> bool:
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return True
