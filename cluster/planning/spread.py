"""How one frame's tokens fall on shards that hold whole experts, if the gate chooses uniformly, or
slices of all of them. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

from cluster.planning.shape import ModelShape

_WIDTH_OF_SUMS = 2  # float32 to bfloat16


@dataclass(frozen=True, slots=True)
class Spread:
    """Expected values, of one layer."""

    touched: float  # distinct experts, all shards together
    rows: float  # (token, expert) pairs
    answers: float  # rows that come back, as wide as those sent
    num_messages: float  # shards that get any row
    sent_tokens: float  # each token once for every shard that it touches
    fullest: float  # distinct experts at the shard that has most

    @property
    def fullest_rows(self) -> float:
        """Rows of the fullest shard: as many an expert as everywhere."""
        return self.rows * self.fullest / self.touched if self.touched else 0.0


def spread(shape: ModelShape, shards: int, replicas: int, tokens: float) -> Spread:
    """``tokens`` of a micro-batch over ``shards`` that hold equal shares of the experts."""
    touched = shape.num_touched(tokens)
    rows = tokens * shape.num_experts_per_tok
    missed = _miss(shape.num_experts, shape.num_experts_per_tok, shards)
    return Spread(
        touched=touched,
        rows=rows,
        answers=rows,
        num_messages=shards * (1 - missed**tokens),
        sent_tokens=tokens * shards * (1 - missed),
        fullest=fullest(touched, shape.num_experts, shards, replicas),
    )


def sliced_spread(shape: ModelShape, shards: int, replicas: int, tokens: float) -> Spread:
    """The same where every shard holds as large a slice of every expert.

    A copy of the model lies in S/R of the S shards. Every token of its share goes to all of them,
    and each adds up its slices of the token's experts to one row of partial sums, float32 and so
    twice as wide as what was sent. All read alike; counted are whole experts, of which each shard
    reads a slice: what a kernel costs besides, however thin the slice, is not in the model.
    """
    copies = min(replicas, shards)
    touched = copies * shape.num_touched(tokens / copies)
    sent = tokens * shards / copies
    return Spread(
        touched=touched,
        rows=tokens * shape.num_experts_per_tok,
        answers=_WIDTH_OF_SUMS * sent,
        num_messages=shards,
        sent_tokens=sent,
        fullest=touched / shards,
    )


def fullest(touched: float, experts: int, groups: int, replicas: int = 1) -> float:
    """Expected distinct experts at the fullest of ``groups`` equal shards (or machines).

    ``touched`` of ``experts`` are drawn without replacement, so a group of n = E/S has a
    hypergeometric count of mean n·q, q = touched/E, and any two counts correlate by -1/(S-1). The
    largest of S such is mean + c(S) · sigma, sigma² = n q (1-q) E/(E-1); c(S) is the expected
    largest of S standard normals (Blom, 1958). ``replicas`` neighbours hold the same experts and
    are taken to level theirs: S/replicas groups, each as large as so many shards.

    Never below an even share, below one expert of those touched, or above what a group owns.
    Within 12 % of drawing at random, 16 % where a shard has one expert or none (a normal lacks the
    skew of such small counts).
    """
    replicas = min(replicas, groups)
    levelled = groups / replicas
    held = experts / levelled
    share = touched / experts
    variance = held * share * (1 - share) * experts / max(experts - 1, 1)
    largest = (held * share + _largest_normal(levelled) * math.sqrt(max(variance, 0.0))) / replicas
    return min(
        max(largest, touched / groups, min(touched, 1.0)), float(math.ceil(experts / groups))
    )


@cache
def _largest_normal(groups: float) -> float:
    return NormalDist().inv_cdf((groups - 0.375) / (groups + 0.25))


@cache
def _miss(experts: int, per_token: int, shards: int) -> float:
    """Probability that none of a token's experts is at a given shard (hypergeometric)."""
    held = experts / shards
    return math.prod(max(experts - held - i, 0.0) / (experts - i) for i in range(per_token))
