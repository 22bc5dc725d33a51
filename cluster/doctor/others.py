"""How much of the cores others took while something was measured."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import NamedTuple

import psutil

from shards.cores import available_cores


class Taken(NamedTuple):
    """Parts of all cores' time, over a while."""

    by_others: float  # processes that are not the doctor's
    stolen: float  # by the host of a virtual machine


class OthersWatch:
    """Counts from when it is made. Processes that came and went in between are not seen."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._seconds = _seconds_of_others()
        self._stolen_s = _stolen_s()

    def taken(self) -> Taken:
        """Since then."""
        whole_s = max(time.monotonic() - self._began_s, 1e-9) * available_cores()
        others_s = added_seconds(self._seconds, _seconds_of_others())
        return Taken(others_s / whole_s, max(_stolen_s() - self._stolen_s, 0.0) / whole_s)


def added_seconds(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """CPU time that was added, by process id; new processes count whole."""
    return sum(max(seconds - before.get(pid, 0.0), 0.0) for pid, seconds in after.items())


def _seconds_of_others() -> dict[int, float]:
    """CPU seconds of each process but this one and its children.

    Not of ``/proc/stat``: some virtual machines count far too little there.
    """
    own = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    found = {}
    for process in psutil.process_iter():
        try:
            if process.pid not in own:
                times = process.cpu_times()
                found[process.pid] = times.user + times.system
        except psutil.Error:  # it has ended
            continue
    return found


def _stolen_s() -> float:
    return float(getattr(psutil.cpu_times(), "steal", 0.0))
