"""Machines that a change waits for."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSupply:
    """What an autoscaler of nodes would bring."""

    at_start: int
    most: int  # those beyond it stay pending for ever
    provision_s: float = 0.0  # from the request to the machine

    def ready_s(self, now_s: float, present: int, wanted: int) -> float:
        """When so many nodes are there; infinite if never."""
        if wanted <= present:
            return now_s
        return now_s + self.provision_s if wanted <= self.most else math.inf

    def num_coming(self, wanted: int) -> int:
        """How many of the nodes asked for do come."""
        return min(wanted, self.most)
