"""Round trips become the costs of a link. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cluster.doctor.fit import Residuals, fit
from cluster.planning.costs import LinkCosts

_MIN_S = 1e-7  # what is left of a call, at least, beside its experts


class LinkPoint(NamedTuple):
    """Medians over bursts, per call; every shard has a core."""

    num_messages: float
    num_bytes: float  # both ways, all messages
    wall_s: float
    compute_s: float  # experts' wall time of the slowest shard
    shard_s: float  # a message's time at its shard beside the experts


class LinkFit(NamedTuple):
    """Costs of one transport and how far the points lie from them."""

    costs: LinkCosts
    residuals: Residuals


def fit_link(points: Sequence[LinkPoint]) -> LinkFit:
    """What a call takes beside its experts, by messages and bytes.

    ``wall_s - compute_s = latency_s + shard_s + gateway_s * messages + bytes / bytes_per_s``.
    From the wall clock: CPU clocks count the spinning of who waits, and threads that overlap.

    Raises:
        ValueError: See ``fit``.
    """
    rest = np.array([max(p.wall_s - p.compute_s, _MIN_S) for p in points])
    features = np.array([[1.0, p.num_messages, p.num_bytes] for p in points])
    fitted = fit(features, rest)
    alike_s, gateway_s, byte_s = fitted.coefficients.tolist()
    shard_s = min(float(np.median([p.shard_s for p in points])), alike_s)
    costs = LinkCosts(
        gateway_s=gateway_s,
        shard_s=shard_s,
        latency_s=alike_s - shard_s,
        bytes_per_s=1 / byte_s,
    )
    return LinkFit(costs, fitted.residuals)
