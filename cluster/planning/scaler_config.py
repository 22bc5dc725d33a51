"""When a change of topology is worth it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from galerne.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalerConfig:
    """The autoscaler's patience."""

    min_gain: float = 0.1  # share of the cost that a change must save, no objective being broken
    cool_down_s: float = 120.0  # after a change, to the next that no broken objective demands
    hold_s: float = 600.0  # for which what carries most of the busiest load is kept
    settle_s: float = 15.0  # the same where one does: its effect must have been seen
    drain_s: float = 10.0  # in which a queue that breaks the TTFT objective is to be emptied
    pending_timeout_s: float = 300.0  # for nodes that a change waits for
    remember_s: float = 900.0  # for which nodes that did not come are not asked for
    idle_to_zero_s: float | None = None  # None: at least one gateway always runs

    def __post_init__(self) -> None:
        if not 0 <= self.min_gain < 1:
            raise ConfigError("autoscaler.min_gain", self.min_gain, "must be in [0, 1)")
        for name in ("cool_down_s", "hold_s", "settle_s", "remember_s"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ConfigError(f"autoscaler.{name}", value, "must be at least 0 seconds")
        for name in ("drain_s", "pending_timeout_s", "idle_to_zero_s"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"autoscaler.{name}", value, "must be above 0 seconds")
