"""What work costs on a machine and on a link: measured by ``galerne doctor``, or from a roofline.

All times are seconds. Experts' work is linear in what it does: a part for every weight that is read
once, a part for every row. A layer, the head and a step are not: kernels take other ways for few
rows than for many, so their costs go through what was measured.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from galerne.topology import LinkTransport


@dataclass(frozen=True, slots=True)
class Linear:
    """``fixed_s + per_unit_s * units``."""

    fixed_s: float
    per_unit_s: float

    def seconds(self, units: float) -> float:
        """For so many tokens, rows or sequences."""
        return self.fixed_s + self.per_unit_s * units


class Knot(NamedTuple):
    """One measured time, and how much was done in it."""

    units: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Curve:
    """Straight lines from knot to knot; nothing falls as more is done.

    Before the first knot as it, beyond the last as the last line goes.

    Raises:
        ValueError: No knot, or knots that are not in order, or fall, or are not finite.
    """

    knots: tuple[Knot, ...]

    def __post_init__(self) -> None:
        if not self.knots:
            raise ValueError("knots: there must be one at least")
        if not all(math.isfinite(value) and value >= 0 for knot in self.knots for value in knot):
            raise ValueError(f"knots: must be finite and not negative, got {self.knots}")
        for left, right in itertools.pairwise(self.knots):
            if left.units >= right.units or left.seconds > right.seconds:
                raise ValueError(f"knots: {right} must be beyond {left}, and take no less time")

    def seconds(self, units: float) -> float:
        """For so many tokens, rows or sequences."""
        knots = self.knots
        if units <= knots[0].units or len(knots) == 1:
            return knots[0].seconds
        at = min(bisect_right(knots, units, key=lambda knot: knot.units), len(knots) - 1)
        left, right = knots[at - 1], knots[at]
        slope = (right.seconds - left.seconds) / (right.units - left.units)
        return left.seconds + slope * (units - left.units)


Cost: TypeAlias = Linear | Curve


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertCost:
    """Routed experts of one layer."""

    fixed_s: float
    per_expert_s: float  # reading one expert's weights
    per_row_s: float  # one token in one expert

    def seconds(self, num_touched: float, num_rows: float) -> float:
        """``num_touched`` distinct experts compute ``num_rows`` rows."""
        return self.fixed_s + self.per_expert_s * num_touched + self.per_row_s * num_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCosts:
    """One machine, or one of its GPUs (``is_gpu``), for one model shape."""

    layer: Cost  # all of a layer but attention and routed experts; by tokens
    # The same with one thread, where shards have the other cores; on a GPU, whose steps are one
    # recorded graph as long as the experts are there too: launch by launch, wherever they are.
    layer_beside: Cost
    attention_s: float  # one query with one key, one layer
    experts: ExpertCost  # the whole machine computes: experts in the gateway
    shard_experts: ExpertCost  # one shard's thread computes, others beside it
    head: Cost  # by rows sampled
    step: Cost  # scheduling, sampling, embedding, Python; by sequences
    num_workers: int  # shards that compute at once without taking time from each other
    chunk_attention_s: float | None = None  # as attention_s, in a chunk of a prompt; unset: alike
    is_gpu: bool = False  # no two parts share it


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkCosts:
    """One transport between a gateway and a shard; a message is a frame and its answer."""

    gateway_s: float  # of the gateway's own time, one message
    shard_s: float  # of the shard's
    latency_s: float  # neither's: wires, wake-ups
    bytes_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scatter:
    """How clients see times that the model says are alike: a machine's other work, and batching."""

    gap_p50: float  # of waits for a token over their mean, while nothing begins
    gap_p95: float
    first_p95: float  # of a lone request's time to its first token, over the median

    def __post_init__(self) -> None:
        if not 0 < self.gap_p50 <= self.gap_p95 or self.first_p95 < 1:
            raise ValueError(f"scatter: quantiles must be above 0 and in order, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Everything a prediction takes from measurement."""

    gateway: NodeCosts
    shard: NodeCosts  # of the machines that hold experts; the same value where they are the same
    links: Mapping[LinkTransport, LinkCosts]
    request_s: float  # by which one request delays a gateway: admission, frontend, its end
    frontend_s: float  # on the way of the first token, outside the gateway
    # By which the way of its tokens to clients lengthens a step, by sequences: frontends, proxies
    # and clients want cores that kernels have.
    answer: Cost = Linear(0.0, 0.0)
    scatter: Scatter | None = None  # of times that clients see; unset: none
