"""How many frontends there may be, as settings and as options of Serve's deployment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cluster.ingress.environment import LONGEST_STREAM_S

MAX_FRONTENDS = 16
CORES_PER_FRONTEND = 8  # of the head node, where gateways and shards want cores too

_POLICY = "cluster.ingress.frontend_policy:scale_frontends"
_WINDOW_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontendScaling:
    """Bounds, and how patient Serve is between them."""

    at_least: int = 1
    at_most: int = 1
    first: int | None = None  # at the start; None: as few as may be
    grow_after_s: float = 10.0  # for so long more must be wanted
    shrink_after_s: float = 300.0

    @property
    def is_fixed(self) -> bool:
        """Whether nothing is to be decided."""
        return self.at_least == self.at_most

    def deployment_options(self) -> dict[str, Any]:
        """Those of ``serve.deployment`` that say how many replicas there are and how they leave."""
        # One that is scaled away takes nothing new, and has as long as HAProxy has for its streams.
        options: dict[str, Any] = {"graceful_shutdown_timeout_s": LONGEST_STREAM_S}
        if self.is_fixed:
            return options | {"num_replicas": self.at_least}
        return options | {
            "autoscaling_config": {
                "min_replicas": self.at_least,
                "max_replicas": self.at_most,
                "initial_replicas": self.first or self.at_least,
                "upscale_delay_s": self.grow_after_s,
                "downscale_delay_s": self.shrink_after_s,
                "look_back_period_s": _WINDOW_S,
                "policy": {"policy_function": _POLICY},
            }
        }


class FrontendSettings(BaseModel):
    """``frontends:`` in the YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: int = Field(default=1, ge=1, le=MAX_FRONTENDS, description="frontends at least")
    max: int | None = Field(
        default=None,
        ge=1,
        le=MAX_FRONTENDS,
        description="frontends at most, all on the head node; Ray Serve starts and ends them by "
        f"how busy they are; unset: one for every {CORES_PER_FRONTEND} cores there",
    )

    @model_validator(mode="after")
    def _check_order(self) -> FrontendSettings:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max must be at least min, which is {self.min}")
        return self

    def scaling(self, num_cores: int) -> FrontendScaling:
        """Bounds on a head node of so many cores."""
        most = min(MAX_FRONTENDS, num_cores // CORES_PER_FRONTEND) if self.max is None else self.max
        return FrontendScaling(at_least=self.min, at_most=max(most, self.min))
