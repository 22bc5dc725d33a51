"""What is asked of a cluster."""

from __future__ import annotations

from dataclasses import dataclass, replace

from galerne.errors import ConfigError

_MAX_NODE_WEIGHT = 50  # machines to this power are still a number


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests as they come; their means. All zero: nobody asks anything."""

    requests_per_s: float
    prompt_tokens: float  # that must be computed: what the prefix cache holds is not counted
    output_tokens: float
    arrival_cv2: float = 1.0  # squared coefficient of variation of their distance; 1: Poisson
    service_cv2: float = 1.0  # of their length


@dataclass(frozen=True, slots=True)
class Demand:
    """A load to be cheap for, and how much of it must be carried with every promise kept.

    A queue is a load that passes: a candidate must carry it, but need not be cheap for it.
    """

    load: Load
    must_carry_requests_per_s: float = 0.0  # below the load's: the load's

    @property
    def stress(self) -> Load:
        """The load that must be carried; the very same one where no queue adds to it."""
        if self.must_carry_requests_per_s <= self.load.requests_per_s:
            return self.load
        return replace(self.load, requests_per_s=self.must_carry_requests_per_s)

    def at(self, requests_per_s: float) -> Demand:
        """With another rate: without a queue both change, with one it stays the least."""
        load = replace(self.load, requests_per_s=requests_per_s)
        return Demand(load, 0.0 if self.stress is self.load else self.must_carry_requests_per_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Objectives:
    """What a deployment promises, and how machines weigh. None: no promise of that kind.

    ``node_weight`` w: in ``auto`` a candidate costs completion time times nodes^w. 0: machines are
    free. 1: twice the machines must halve the completion time, so that a request takes the same
    machine-seconds. The more, the nearer to the fewest machines that keep the promises.

    Raises:
        ConfigError: A promise that nothing can keep, or a weight below 0.
    """

    ttft_p95_s: float | None = None
    inter_token_p95_s: float | None = None
    max_nodes: int | None = None
    min_copies: int = 1  # of every expert, on different nodes where there are several
    node_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("ttft_p95_s", "inter_token_p95_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"objectives.{name}", value, "must be above 0 seconds")
        for name in ("max_nodes", "min_copies"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"objectives.{name}", value, "must be at least 1")
        if not 0 <= self.node_weight <= _MAX_NODE_WEIGHT:
            problem = f"must be in [0, {_MAX_NODE_WEIGHT}]"
            raise ConfigError("objectives.node_weight", self.node_weight, problem)
