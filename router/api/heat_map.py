"""The experts' load as a picture. Pure: counts in, drawing out."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, NamedTuple

NUM_LEVELS: Final = 8
_NUM_BUSIEST: Final = 5


class Step(NamedTuple):
    """One colour: cells with ``at_least`` to ``at_most`` rows, as an SVG path of unit squares."""

    level: int  # 1 to NUM_LEVELS
    at_least: int
    at_most: int
    path: str  # x: expert, y: layer; empty where there is none


class BusyExpert(NamedTuple):
    """An expert that stands out."""

    layer: int
    expert: int
    rows: int
    times_mean: float  # of its layer


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """``[layers, experts]`` counts as colours; cells without rows have none."""

    num_layers: int
    num_experts: int
    num_rows: int
    steps: tuple[Step, ...]  # coolest first; those that no count can have are left out
    busiest: tuple[BusyExpert, ...]  # most rows first


def heat_map(rows: Sequence[Sequence[int]]) -> HeatMap | None:
    """Colours for ``rows[layer][expert]``, each step up twice as much; None without any rows.

    Doubling, because loads are lopsided: in even steps all but a few experts would look alike.
    """
    most = max((max(layer, default=0) for layer in rows), default=0)
    if most <= 0:
        return None
    limits = [most >> (NUM_LEVELS - level) for level in range(NUM_LEVELS + 1)]
    limits[0] = 0
    paths: dict[int, list[str]] = {level: [] for level in range(1, NUM_LEVELS + 1)}
    for y, layer in enumerate(rows):
        for level, x, width in _runs([_level(count, limits) for count in layer]):
            paths[level].append(f"M{x} {y}h{width}v1h-{width}z")
    return HeatMap(
        num_layers=len(rows),
        num_experts=len(rows[0]),
        num_rows=sum(map(sum, rows)),
        steps=tuple(_steps(paths, limits)),
        busiest=_busiest(rows),
    )


def _level(count: int, limits: Sequence[int]) -> int:
    """The lowest level whose limit the count does not exceed; 0 only for no rows."""
    return bisect_left(limits, count)


def _runs(levels: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(level, first cell, number of cells) of neighbours of one level; none of level 0."""
    at = 0
    for level, run in groupby(levels):
        width = len(list(run))
        if level:
            yield level, at, width
        at += width


def _steps(paths: dict[int, list[str]], limits: Sequence[int]) -> Iterator[Step]:
    for level, path in paths.items():
        at_least, at_most = limits[level - 1] + 1, limits[level]
        if at_least <= at_most:
            yield Step(level, at_least, at_most, "".join(path))


def _busiest(rows: Sequence[Sequence[int]]) -> tuple[BusyExpert, ...]:
    found = [
        BusyExpert(y, x, count, count * len(layer) / sum(layer))
        for y, layer in enumerate(rows)
        for x, count in enumerate(layer)
        if count
    ]
    return tuple(sorted(found, key=lambda expert: -expert.rows)[:_NUM_BUSIEST])
