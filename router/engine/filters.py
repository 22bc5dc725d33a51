"""Which tokens may be drawn: top-k, then top-p, then min-p.

Everything here follows one order, by (-score, id). It is turned into unique integers, so that an
unstable sort, the fast one, can give one result only.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from router.engine.fixed_math import fixed_exp, fixed_log, fixed_sum
from router.engine.request import SamplingParams

_SIGN = np.uint32(1 << 31)
_ID_BITS = np.uint64(32)

# How far below the best score the top-p prefix is looked for, before everything is sorted.
_REACHES = (4.0, 10.0, np.inf)


def ranked(
    scores: npt.NDArray[np.float32], ids: npt.NDArray[np.int64], *, limit: int | None = None
) -> npt.NDArray[np.int64]:
    """The ids ordered by (-score, id), the first ``limit`` of them if given.

    Args:
        scores: ``[N]`` float32, no NaN; 0 and -0 are equal.
        ids: ``[N]`` int64, distinct, in [0, 2**32).
        limit: At least 1.
    """
    if limit is not None and limit < scores.size:
        # The values alone can say who is out for sure; equal ones stay in for the ids to decide.
        last = np.partition(scores, -limit)[-limit]
        near = scores >= last
        scores, ids = scores[near], ids[near]
    bits = (scores + np.float32(0)).view(np.uint32)  # -0 + 0 is 0
    # Floats as integers that fall when the float rises: flip all but the sign of positive ones.
    falling = np.where(bits & _SIGN, bits, bits ^ ~_SIGN)
    keys = (falling.astype(np.uint64) << _ID_BITS) | ids.astype(np.uint64)
    keys.sort()
    return (keys[:limit] & np.uint64(0xFFFFFFFF)).astype(np.int64)


def kept_ids(
    scores: npt.NDArray[np.float32], params: SamplingParams
) -> npt.NDArray[np.int64] | None:
    """Ids that pass the filters, ascending; None if every token does.

    top-k keeps the first k of the order. top-p keeps the shortest prefix of what is left whose
    sum of exp(score), added up in order in float32, reaches p times the ``fixed_sum`` of all that
    is left. min-p keeps who is at least min-p times as likely as the best. The best always stays.

    Args:
        scores: ``[V]`` float32 logits over temperature less their maximum: the largest is 0.
        params: Sampling parameters, validated.
    """
    order = None
    if 0 < params.top_k < scores.size:
        order = ranked(scores, np.arange(scores.size), limit=params.top_k)
    if params.top_p < 1:
        order = _nucleus(scores, order, params.top_p)
    if params.min_p > 0:
        floor = np.float32(fixed_log(np.array([params.min_p]))[0])
        order = np.flatnonzero(scores >= floor) if order is None else order[scores[order] >= floor]
    return None if order is None else np.sort(order)


def _nucleus(
    scores: npt.NDArray[np.float32], order: npt.NDArray[np.int64] | None, top_p: float
) -> npt.NDArray[np.int64]:
    """Top-p of the tokens in ``order``, or of all; in order."""
    if order is not None:
        weights = np.zeros_like(scores)
        weights[order] = fixed_exp(scores[order])
        return _prefix(order, weights[order], np.float32(top_p) * fixed_sum(weights))[0]
    weights = fixed_exp(scores)
    target = np.float32(top_p) * fixed_sum(weights)
    for reach in _REACHES:
        ids = np.flatnonzero(scores >= -reach)
        # All scores at a limit are taken or none, so this is a prefix of the order of everything.
        order = ranked(scores[ids], ids)
        prefix, has_reached = _prefix(order, weights[order], target)
        if has_reached:
            break
    return prefix


def _prefix(
    order: npt.NDArray[np.int64], weights: npt.NDArray[np.float32], target: np.float32
) -> tuple[npt.NDArray[np.int64], bool]:
    """Shortest prefix whose weights sum up to ``target``, all if none does; whether one did."""
    reached = np.cumsum(weights)
    length = int(np.searchsorted(reached, target)) + 1
    return order[:length], length <= order.size
