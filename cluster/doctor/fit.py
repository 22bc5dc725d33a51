"""Measured points become coefficients. Pure.

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

from cluster.planning.costs import ExpertCost, Linear

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


class FittedLine(NamedTuple):
    """A line and how far the points lie from it."""

    line: Linear
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
    return Fitted(coefficients, _residuals(features @ coefficients, seconds))


def fit_line(points: Sequence[Point]) -> FittedLine:
    """``fixed_s + per_unit_s * units`` through points.

    Raises:
        ValueError: See ``fit``.
    """
    units, seconds = _columns(points, 2)
    found = fit(np.stack([np.ones_like(units), units], axis=1), seconds)
    fixed_s, per_unit_s = found.coefficients.tolist()
    return FittedLine(Linear(fixed_s, per_unit_s), found.residuals)


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


def _residuals(fitted: Floats, measured: Floats) -> Residuals:
    relative = np.abs(fitted / measured - 1)
    return Residuals(float(np.median(relative)), float(relative.max()))
