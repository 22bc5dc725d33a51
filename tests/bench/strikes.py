"""The faults of ``make faults``. Each strikes and returns what waits for its end.

That returns when it struck (``time.monotonic()``): a fault after the last token tells nothing.
"""

import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

from galerne.v1 import cluster_pb2

HUNG_S = 3.0
SCALE_DOWN_S, SCALE_UP_S = 0.4, 6.0  # about as long as such a change takes on two cores
LISTED_S = 5.0


def kill(served, parts):
    """SIGKILL, all at once."""
    pids = [_controller_pid(served) if part == "controller" else served.pid(part) for part in parts]
    struck_s = time.monotonic()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return lambda: struck_s


def hang(served, parts):
    """SIGSTOP, continued after some seconds."""
    [pid] = map(served.pid, parts)
    struck_s = time.monotonic()
    os.kill(pid, signal.SIGSTOP)

    def end():
        time.sleep(max(0.0, struck_s + HUNG_S - time.monotonic()))
        os.kill(pid, signal.SIGCONT)
        return struck_s

    return end


def kill_within_a_change(served, _):
    """A shard that stays dies some time after a change between 3 and 4 shards began."""
    is_down = len(served.topology().shards) == 4
    delay_s = random.uniform(0, SCALE_DOWN_S if is_down else SCALE_UP_S)

    def change():
        wish = cluster_pb2.SetTopologyRequest(shards=3 if is_down else 4)
        served.cluster.SetTopology(wish, timeout=30)
        time.sleep(delay_s)
        now = served.topology()
        struck_s = kill(served, now.shards[:1])()
        while (after := served.topology()).stage != "idle":
            time.sleep(0.02)
        fate = after.last_error or "done"
        print(f"    {now.stage}, {delay_s:.1f} s after the change began: {fate[:80]}", flush=True)
        return struck_s

    return _beside(change)


def kill_after_a_scale_up(served, _):
    """The shard that a change has just brought dies."""

    def change():
        served.change(shards=4)
        newest = max(served.topology().shards, key=lambda shard: int(shard.rpartition("-")[2]))
        deadline = time.monotonic() + LISTED_S
        while newest not in {part.id for part in served.parts()}:
            assert time.monotonic() < deadline, f"{newest} is not listed"
            time.sleep(0.02)
        return kill(served, [newest])()

    return _beside(change)


def _controller_pid(served):
    """Of our controller, not of Serve's."""
    for process in served.family():
        if process.name().startswith("ray::Controller"):
            return process.pid
    raise SystemExit("no controller")


def _beside(action):
    """Runs it while the streams go on; what waits for its end has its result or its error."""
    thread = ThreadPoolExecutor(1)
    running = thread.submit(action)
    thread.shutdown(wait=False)
    return running.result
