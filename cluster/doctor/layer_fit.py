"""A layer's times become a curve by tokens, and what attention adds for its keys. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cluster.doctor.fit import (
    MIN_COEFFICIENT,
    Floats,
    Residuals,
    curve_of,
    residuals_of,
    rising,
)
from cluster.doctor.steps import StepShape
from cluster.planning.costs import Curve

_LEAST_SHARE = 0.05  # of a step's layer that is not attention over its keys


class LayerPoint(NamedTuple):
    """A layer without its routed experts, in one step."""

    shape: StepShape
    layer_s: float


class LayerFit(NamedTuple):
    """Costs of a layer without its routed experts."""

    layer: Curve  # by tokens
    attention_s: float  # a query and a key, where each sequence has one query
    chunk_attention_s: float  # in a chunk, whose queries share their keys
    residuals: Residuals


def fit_layer(points: Sequence[LayerPoint]) -> LayerFit:
    """Time by tokens, the same for all contexts, and a part for every query and key.

    Least squares of the relative error; times by tokens never fall.

    Raises:
        ValueError: No points.
    """
    if not points:
        raise ValueError("points: there must be one at least")
    seconds = np.array([point.layer_s for point in points])
    tokens = np.array([point.shape.num_tokens for point in points])
    at = np.unique(tokens)
    pairs = np.stack(_pairs(points), axis=1)
    features = np.concatenate([tokens[:, None] == at, pairs], axis=1) / seconds[:, None]
    scale = np.maximum(np.linalg.norm(features, axis=0), MIN_COEFFICIENT)
    solved = np.linalg.lstsq(features / scale, np.ones(len(points)), rcond=None)[0] / scale
    keys_s = np.maximum(solved[len(at) :], MIN_COEFFICIENT)
    layer = own_curve(points, float(keys_s[0]), float(keys_s[1]))
    fitted = np.array([layer.seconds(n) for n in tokens]) + pairs @ keys_s
    return LayerFit(layer, float(keys_s[0]), float(keys_s[1]), residuals_of(fitted, seconds))


def own_curve(points: Sequence[LayerPoint], attention_s: float, chunk_attention_s: float) -> Curve:
    """What is left by tokens when attention over keys is taken off.

    Points count by what is left of them: one that is nearly all attention says little of it.
    """
    seconds = np.array([point.layer_s for point in points])
    tokens = np.array([point.shape.num_tokens for point in points])
    decoded, in_chunks = _pairs(points)
    attention = attention_s * decoded + chunk_attention_s * in_chunks
    own = np.maximum(seconds - attention, _LEAST_SHARE * seconds)
    weights = (own / seconds) ** 2
    at = np.unique(tokens)
    chosen = [tokens == n for n in at]
    level = np.array([np.average(own[c], weights=weights[c]) for c in chosen])
    return curve_of(at, rising(level, np.array([weights[c].sum() for c in chosen])))


def _pairs(points: Sequence[LayerPoint]) -> tuple[Floats, Floats]:
    """Queries times keys of steps that decode, and of chunks; 0 for the other kind."""
    pairs = np.array([float(point.shape.num_pairs) for point in points])
    is_chunk = np.array([point.shape.num_new > 1 for point in points])
    return np.where(is_chunk, 0.0, pairs), np.where(is_chunk, pairs, 0.0)
