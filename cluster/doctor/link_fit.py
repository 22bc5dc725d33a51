"""Round trips become the costs of a link. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cluster.doctor.fit import Floats, Residuals, fit
from cluster.planning.costs import LinkCosts

_MIN_S = 1e-6  # what is left of a call, at least, where the clocks disagree


class LinkPoint(NamedTuple):
    """Medians over bursts, per call."""

    num_messages: float
    num_bytes: float  # both ways, all messages
    num_rounds: float  # messages that the busiest core's shards take one after the other
    bytes_of_busiest: float  # of these
    wall_s: float
    gateway_cpu_s: float
    busiest_cpu_s: float  # of the shards on the busiest core
    compute_s: float  # experts' wall time of the slowest shard
    are_alone: bool  # every shard has a core


class LinkFit(NamedTuple):
    """Costs of one transport and how far the points lie from them."""

    costs: LinkCosts
    residuals: Residuals


def fit_link(points: Sequence[LinkPoint]) -> LinkFit:
    """Gateway's and shard's own time from their CPU clocks, the rest from the wall clock.

    The wall time of a call is the experts' + ``gateway_s`` x messages + ``shard_s`` x messages of
    the busiest core + ``latency_s`` + bytes / ``bytes_per_s``.

    Raises:
        ValueError: See ``fit``.
    """
    gateway = _per_message([(p.num_messages, p.num_bytes, p.gateway_cpu_s) for p in points])
    alone = [p for p in points if p.are_alone] or list(points)
    shard = _per_message(
        [(p.num_rounds, p.bytes_of_busiest, p.busiest_cpu_s - p.compute_s) for p in alone]
    )
    gateway_s, (shard_s, shard_byte_s) = gateway[0], shard
    known, rest = [], []
    for point in points:
        experts_s = point.compute_s
        if not point.are_alone:  # passes that share a core are longer than what they compute
            own_s = shard_s * point.num_rounds + shard_byte_s * point.bytes_of_busiest
            experts_s = max(point.busiest_cpu_s - own_s, 0.0)
        messages_s = gateway_s * point.num_messages + shard_s * point.num_rounds
        known.append(messages_s)
        rest.append(max(point.wall_s - experts_s, _MIN_S))
    return _fit_rest(points, np.array(known), np.array(rest), gateway_s, shard_s)


def _fit_rest(
    points: Sequence[LinkPoint], known: Floats, wall: Floats, gateway_s: float, shard_s: float
) -> LinkFit:
    left = np.maximum(wall - known, _MIN_S)
    features = np.array([[1.0, p.num_bytes] for p in points])
    # Weighed by the whole: what is left over after the known parts may be next to nothing.
    latency_s, byte_s = fit(features / wall[:, None] * left[:, None], left**2 / wall).coefficients
    fitted = known + features @ np.array([latency_s, byte_s])
    relative = np.abs(fitted / wall - 1)
    costs = LinkCosts(
        gateway_s=gateway_s,
        shard_s=shard_s,
        latency_s=float(latency_s),
        bytes_per_s=float(1 / byte_s),
    )
    return LinkFit(costs, Residuals(float(np.median(relative)), float(relative.max())))


def _per_message(rows: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Seconds a message and a byte, from (messages, bytes, seconds)."""
    table = np.array([(m, b, max(s, _MIN_S)) for m, b, s in rows])
    per_message_s, per_byte_s = fit(table[:, :2], table[:, 2]).coefficients.tolist()
    return per_message_s, per_byte_s
