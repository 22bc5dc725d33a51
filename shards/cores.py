"""How a shard's compute thread lives with other processes on the same cores."""

from __future__ import annotations

import logging
import os

from shards.cgroup import cpu_limit

logger = logging.getLogger(__name__)


# Environment of processes that compute: torch's pools must not spin against our own threads, or
# those of other processes. Read when torch is loaded.
PASSIVE_POOLS = {"OMP_WAIT_POLICY": "PASSIVE"}
# At most so many cores, where neither affinity nor quota says what others leave, as in a pod.
CORES_VARIABLE = "GALERNE_CORES"


def available_cores() -> int:
    """Cores that this process may use: by its affinity, its container's quota and the variable."""
    limits = [float(len(os.sched_getaffinity(0)))]
    quota = cpu_limit()
    if quota is not None:
        limits.append(quota)
    told = os.environ.get(CORES_VARIABLE, "")
    if told.isdecimal():
        limits.append(int(told))
    return max(int(min(limits)), 1)


def share_cores(core: int) -> None:
    """Keep the calling thread on one core (a number, taken modulo those of this process), politely.

    Measured with four shards and their gateway on two cores, 16 streams: shards that stay where
    they are finish together, and as batch threads they do not interrupt the gateway while it is
    still sending frames to the others. Where the system has neither, or forbids them, nothing
    changes.
    """
    if not hasattr(os, "sched_setaffinity") or not hasattr(os, "SCHED_BATCH"):
        return
    cores = sorted(os.sched_getaffinity(0))
    try:
        os.sched_setaffinity(0, {cores[core % len(cores)]})
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError as error:
        logger.warning("cores_not_shared reason=%s", error)
