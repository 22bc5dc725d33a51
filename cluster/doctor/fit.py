"""Measured points become coefficients and curves. Pure.

Least squares of the relative error, because points span four orders of magnitude and a prediction
is judged by its relative error; coefficients are above 0, because no work takes negative time.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cluster.planning.costs import Curve, ExpertCost, Knot

Floats = npt.NDArray[np.float64]

# What noise hides is not free: callers divide by it, and JSON has no infinity.
MIN_COEFFICIENT = 1e-15  # seconds a unit: of a byte too
_MAX_FEATURES = 6  # all subsets are tried


class Point(NamedTuple):
    """One measured time, and how much was done in it."""

    units: float
    seconds: float


class ExpertPoint(NamedTuple):
    """One measured time of a layer's routed experts."""

    num_touched: float  # distinct experts
    num_rows: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Residuals:
    """Relative errors ``|fitted / measured - 1|`` of the points that were fitted."""

    median: float
    worst: float


class Fitted(NamedTuple):
    """Coefficients in the order of the features."""

    coefficients: Floats
    residuals: Residuals


class FittedCurve(NamedTuple):
    """A curve and how far the points lie from it."""

    curve: Curve
    residuals: Residuals


class FittedExperts(NamedTuple):
    """The cost of experts and how far the points lie from it."""

    cost: ExpertCost
    residuals: Residuals


def fit(features: Floats, seconds: Floats) -> Fitted:
    """The ``c >= MIN_COEFFICIENT`` of least summed ``(features @ c / seconds - 1)^2``.

    Shapes: N = points, F = features.

    Args:
        features: ``[N, F]``, none negative; any units.
        seconds: ``[N]`` measured, above 0.

    Returns:
        ``[F]`` seconds a unit of each feature.

    Raises:
        ValueError: No points, shapes that differ, times that are not above 0, or more than 6
            features.

    Source: non-negative least squares (Lawson and Hanson, 1974, chapter 23). With few features the
    best of all sets of positive coefficients is found by trying each.
    """
    if features.ndim != 2 or seconds.shape != (len(features),) or not len(features):
        raise ValueError(f"features {features.shape} and seconds {seconds.shape} do not fit")
    if not (np.isfinite(seconds).all() and (seconds > 0).all()):
        raise ValueError("seconds must be finite and above 0")
    num_features = features.shape[1]
    if num_features > _MAX_FEATURES:
        raise ValueError(f"at most {_MAX_FEATURES} features, got {num_features}")
    scaled = features / seconds[:, None]
    target = 1.0 - MIN_COEFFICIENT * scaled.sum(axis=1)  # of what is above the least
    best, least = np.zeros(num_features), float(target @ target)
    for size in range(1, num_features + 1):
        for chosen in itertools.combinations(range(num_features), size):
            some = _solve(scaled[:, chosen], target)
            error = scaled[:, chosen] @ some - target
            if (some >= 0).all() and float(error @ error) < least:
                best, least = np.zeros(num_features), float(error @ error)
                best[list(chosen)] = some
    coefficients = best + MIN_COEFFICIENT
    return Fitted(coefficients, residuals_of(features @ coefficients, seconds))


def fit_curve(points: Sequence[Point]) -> FittedCurve:
    """The curve that never falls and lies nearest, with a knot for every number of units.

    Raises:
        ValueError: No points, or times that are not above 0.
    """
    units, seconds = _columns(points, 2)
    if not len(units) or not (np.isfinite(seconds).all() and (seconds > 0).all()):
        raise ValueError("points: there must be one at least, with seconds above 0")
    at = np.unique(units)
    counts = np.array([(units == n).sum() for n in at], dtype=np.float64)
    level = rising(np.array([np.median(seconds[units == n]) for n in at]), counts)
    curve = curve_of(at, level)
    return FittedCurve(curve, residuals_of(np.array([curve.seconds(n) for n in units]), seconds))


def curve_of(units: Floats, seconds: Floats) -> Curve:
    """The curve through ``seconds`` ``[N]`` at ``units`` ``[N]``."""
    return Curve(tuple(Knot(float(n), float(s)) for n, s in zip(units, seconds, strict=True)))


def rising(values: Floats, weights: Floats) -> Floats:
    """The values ``[N]`` that never fall and lie nearest by weighted least squares.

    Source: pool adjacent violators (Ayer and others, 1955).
    """
    pools: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        pool = (value, weight, 1)
        while pools and pools[-1][0] > pool[0]:
            mean, before, length = pools.pop()
            total = before + pool[1]
            pool = ((mean * before + pool[0] * pool[1]) / total, total, length + pool[2])
        pools.append(pool)
    return np.repeat([pool[0] for pool in pools], [pool[2] for pool in pools])


def fit_experts(points: Sequence[ExpertPoint]) -> FittedExperts:
    """``fixed_s + per_expert_s * touched + per_row_s * rows`` through points.

    Raises:
        ValueError: See ``fit``.
    """
    touched, rows, seconds = _columns(points, 3)
    found = fit(np.stack([np.ones_like(rows), touched, rows], axis=1), seconds)
    fixed_s, per_expert_s, per_row_s = found.coefficients.tolist()
    cost = ExpertCost(fixed_s=fixed_s, per_expert_s=per_expert_s, per_row_s=per_row_s)
    return FittedExperts(cost, found.residuals)


def relative_drift(first: Sequence[float], last: Sequence[float]) -> float:
    """Median of ``last / first - 1`` over points that were measured at both ends.

    Raises:
        ValueError: No points, or numbers that differ.
    """
    if not first or len(first) != len(last):
        raise ValueError(f"{len(first)} first and {len(last)} last times")
    return float(np.median(np.asarray(last) / np.asarray(first) - 1))


def _solve(features: Floats, target: Floats) -> Floats:
    scale = np.linalg.norm(features, axis=0)  # columns differ by six orders of magnitude
    scale[scale == 0] = 1.0
    solved: Floats = np.linalg.lstsq(features / scale, target, rcond=None)[0] / scale
    return solved


def _columns(points: Sequence[tuple[float, ...]], num_columns: int) -> Sequence[Floats]:
    return list(np.asarray(points, dtype=np.float64).reshape(-1, num_columns).T)


def residuals_of(fitted: Floats, measured: Floats) -> Residuals:
    """Of times ``[N]``."""
    relative = np.abs(fitted / measured - 1)
    return Residuals(float(np.median(relative)), float(relative.max()))
