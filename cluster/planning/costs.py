"""What work costs on a machine and on a link: measured by ``galerne doctor``, or from a roofline.

All times are seconds. A layer's work is linear in what it does, which measurement bears out to
within a few percent from one row to a thousand (README, bench-kernels): a fixed part, a part for
every weight that is read once, a part for every row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from galerne.topology import LinkTransport


@dataclass(frozen=True, slots=True)
class Linear:
    """``fixed_s + per_unit_s * units``."""

    fixed_s: float
    per_unit_s: float

    def seconds(self, units: float) -> float:
        """For so many tokens, rows or sequences."""
        return self.fixed_s + self.per_unit_s * units


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
    """One machine (or GPU), for one model shape."""

    layer: Linear  # all of a layer but attention and routed experts; by tokens
    layer_beside: Linear  # the same with one thread, where shards have the other cores
    attention_s: float  # one query with one key, one layer
    experts: ExpertCost  # the whole machine computes: experts in the gateway
    shard_experts: ExpertCost  # one shard's thread computes, others beside it
    head: Linear  # by rows sampled
    step: Linear  # scheduling, sampling, embedding, Python; by sequences
    num_workers: int  # shards that compute at once without taking time from each other


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkCosts:
    """One transport between a gateway and a shard; a message is a frame and its answer."""

    gateway_s: float  # of the gateway's own time, one message
    shard_s: float  # of the shard's
    latency_s: float  # neither's: wires, wake-ups
    bytes_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Everything a prediction takes from measurement."""

    gateway: NodeCosts
    shard: NodeCosts  # of the machines that hold experts; the same value where they are the same
    links: Mapping[LinkTransport, LinkCosts]
    request_s: float  # of a gateway's time, one request: admission, its first answer, its end
    frontend_s: float  # on the way of the first token, outside the gateway
