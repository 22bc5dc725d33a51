"""Waits for what gives no event when it comes true.

Each has a deadline, which only a failure waits for: a busy machine may take long.
"""

import asyncio
import socket
import time

PATIENCE_S = 60.0


def wait_until(condition, timeout_s=PATIENCE_S):
    """Seconds until a condition holds."""
    started_s = time.monotonic()
    while not condition():
        assert time.monotonic() - started_s < timeout_s, "did not come true in time"
        time.sleep(0.05)
    return time.monotonic() - started_s


async def until(condition, timeout_s=PATIENCE_S):
    """The same, on an event loop."""
    started_s = time.monotonic()
    while not condition():
        assert time.monotonic() - started_s < timeout_s, "did not come true in time"
        await asyncio.sleep(0.005)
    return time.monotonic() - started_s


def small_window(port):
    """A connection to loopback whose kernel buffers take little for a client that does not read."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.connect(("127.0.0.1", port))
    made.setblocking(False)
    return made
