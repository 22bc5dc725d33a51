"""What is asked of a cluster."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from galerne.errors import ConfigError

_MAX_NODE_WEIGHT = 50  # machines to this power are still a number
_USUAL_WEIGHT, _PROMISED_WEIGHT = 1.0, 4.0  # without and with a promise of time


@dataclass(frozen=True, slots=True, kw_only=True)
class Guessing:
    """Speculative decoding as it was measured: means of one sequence in one step."""

    rows: float = 1.0  # that go through the layers: the newest token and the guesses behind it
    tokens: float = 1.0  # that come of them
    seconds: float = 0.0  # in which the gateway makes the guesses


NO_GUESSING = Guessing()


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests as they come; their means. All zero: nobody asks anything."""

    requests_per_s: float
    prompt_tokens: float  # that must be computed: what the prefix cache holds is not counted
    output_tokens: float
    arrival_cv2: float = 1.0  # squared coefficient of variation of their distance; 1: Poisson
    service_cv2: float = 1.0  # of their length
    image_s: float = 0.0  # in which a gateway encodes a request's images; cached ones take none
    guessing: Guessing = NO_GUESSING  # where it pays


@dataclass(frozen=True, slots=True)
class Queue:
    """Requests that wait already, as a fluid that flows off at what capacity the load leaves."""

    waiting: int
    requests_per_s: float  # that come meanwhile
    drain_s: float  # in which it is to be emptied where a TTFT is promised
    horizon_s: float  # for which what is decided holds, and the load is taken to last

    def seconds(self, capacity: float) -> float:
        """Until it is empty, at ``capacity`` requests/s; infinite where more comes than goes."""
        if not self.waiting:
            return 0.0
        spare = capacity - self.requests_per_s
        return self.waiting / spare if spare > 0 else math.inf

    def mean_wait_s(self, capacity: float) -> float:
        """What it adds to the mean request until the horizon.

        The wait of all is the area under the queue, shared by the W that wait and who comes until
        the horizon H. It falls to 0 in a time T (area W · T / 2), or is R at the horizon, and then
        flows off at the capacity, no longer having others before it (area R^2 / (2 · capacity)).
        """
        sharing = self.waiting + self.requests_per_s * self.horizon_s
        if not sharing:
            return 0.0
        left = self.waiting + (self.requests_per_s - capacity) * self.horizon_s
        if left <= 0:
            return self.seconds(capacity) / 2 * self.waiting / sharing
        area = (self.waiting + left) / 2 * self.horizon_s + left**2 / (2 * capacity)
        return area / sharing


@dataclass(frozen=True, slots=True)
class Demand:
    """A load, and the queue that it finds.

    A queue passes: a candidate must empty it, but need not be cheap for a load that would. Given
    one, also an empty one, it is a load of now; without, one that lasts.
    """

    load: Load
    queue: Queue | None = None

    def at(self, requests_per_s: float) -> Demand:
        """With another rate; at most as many come while the queue is emptied."""
        queue = self.queue
        if queue is not None and queue.requests_per_s > requests_per_s:
            queue = replace(queue, requests_per_s=requests_per_s)
        return Demand(replace(self.load, requests_per_s=requests_per_s), queue)


@dataclass(frozen=True, slots=True, kw_only=True)
class Objectives:
    """What a deployment promises, and how machines weigh. None: no promise of that kind.

    ``node_weight`` w: in ``auto`` candidates are compared by completion time times nodes^w. 0:
    machines are free. 1: twice the machines must halve the completion time. The more, the nearer to
    the fewest machines that keep the promises. Unset: 1 without a promise of time, 4 with one; see
    ``judge`` for why.

    Raises:
        ConfigError: A promise that nothing can keep, or a weight below 0.
    """

    ttft_p95_s: float | None = None
    inter_token_p95_s: float | None = None
    max_nodes: int | None = None
    min_copies: int = 1  # of every expert, on different nodes where there are several
    node_weight: float | None = None

    def __post_init__(self) -> None:
        for name in ("ttft_p95_s", "inter_token_p95_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"objectives.{name}", value, "must be above 0 seconds")
        for name in ("max_nodes", "min_copies"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"objectives.{name}", value, "must be at least 1")
        if self.node_weight is not None and not 0 <= self.node_weight <= _MAX_NODE_WEIGHT:
            problem = f"must be in [0, {_MAX_NODE_WEIGHT}]"
            raise ConfigError("objectives.node_weight", self.node_weight, problem)

    @property
    def weight(self) -> float:
        """The weight of machines that is in effect."""
        if self.node_weight is not None:
            return self.node_weight
        return _PROMISED_WEIGHT if self.has_times else _USUAL_WEIGHT

    @property
    def has_times(self) -> bool:
        """Whether a time is promised."""
        return self.ttft_p95_s is not None or self.inter_token_p95_s is not None
