"""Copies of experts into bins: heaviest first, then moved until spread, then swapped until level.

Spread comes before level: the copies of an expert share a bin only where rooms force them to.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

WORTHWHILE = 1e-3  # part of the fullest bin's load that a swap must take off, so that swaps end


class Move(NamedTuple):
    """One copy of the expert of a row goes from one bin to another."""

    row: int
    source: int
    target: int


def pack(load_per_copy: Floats, copies: Ints, room: Ints, width: Ints) -> Ints:
    """How many copies of every expert go into every bin.

    E = experts, B = bins. A bin takes at most as many copies of one expert as it is wide; below
    that, the copies of an expert are spread over as many bins as the rooms allow; below that, the
    load per width is level.

    Args:
        load_per_copy: ``[E]``.
        copies: ``[E]``, sums to the sum of ``room``.
        room: ``[B]`` copies a bin holds, over all experts.
        width: ``[B]`` shards in a bin.

    Returns:
        ``[E, B]``.

    Raises:
        ValueError: No packing keeps to the widths.
    """
    order = np.argsort(-load_per_copy, kind="stable")
    held = np.zeros((len(copies), len(room)), np.int64)  # rows in this order
    load = np.zeros(len(room))
    used = np.zeros(len(room), np.int64)
    for mine, expert in zip(held, order, strict=True):
        for _ in range(copies[expert]):
            # The last key weighs most. Of empty bins the one with less room first, because what
            # fills the rest of the heaviest expert's bin is load too. Then the lower bin.
            best = np.lexsort((room / width, load / width, mine, used >= room))[0]
            mine[best] += 1
            used[best] += 1
            load[best] += load_per_copy[expert]
    _spread(held, width)
    if (held > width).any():
        raise ValueError("the rooms force more copies of an expert into a bin than it has shards")
    _level(held, load_per_copy[order], width)
    return held[np.argsort(order)]


def _spread(held: Ints, width: Ints) -> None:
    """Move copies, in place, until they are spread best."""
    while cycle := _saving_cycle(held, width):
        _apply(held, cycle)


def _level(held: Ints, load_per_copy: Floats, width: Ints) -> None:
    """Swap copies, in place, as long as that relieves the fullest bin and spreads no worse."""
    while swap := _levelling_swap(held, load_per_copy, width):
        _apply(held, swap)


def _apply(held: Ints, moves: Iterable[Move]) -> None:
    for row, source, target in moves:
        held[row, source] -= 1
        held[row, target] += 1


def _levelling_swap(held: Ints, load_per_copy: Floats, width: Ints) -> list[Move]:
    """The best swap of the fullest bin with the emptiest bin that has any, or none."""
    load = (load_per_copy[:, None] * held).sum(axis=0)
    price, saving = _prices(held, width)
    relief = load_per_copy[:, None] - load_per_copy  # [E, E] if the first goes, the second comes
    full, *others = np.argsort(-load / width, kind="stable").tolist()
    limit = (1 - WORTHWHILE) * load[full] / width[full]
    for other in reversed(others):
        there = price[:, other] - saving[:, full]
        back = price[:, full] - saving[:, other]
        fullest = np.maximum(
            (load[full] - relief) / width[full], (load[other] + relief) / width[other]
        )
        fullest[there[:, None] + back > 0] = np.inf
        gone, come = divmod(int(fullest.argmin()), len(held))
        if fullest[gone, come] < limit:
            return [Move(gone, full, other), Move(come, other, full)]
    return []


def _prices(held: Ints, width: Ints) -> tuple[Floats, Floats]:
    """``[E, B]`` what one more copy costs there, and what one copy less saves.

    The k-th copy of an expert in a bin costs k, and beyond the width more than all else together.
    """
    excess = float(1 + held.sum() ** 2)
    price = held + 1 + excess * (held >= width)
    return price, np.where(held > 0, held + excess * (held > width), -np.inf)


def _saving_cycle(held: Ints, width: Ints) -> list[Move]:
    """Moves round a cycle of bins that leave the copies better spread, or none.

    While the packing is not the cheapest, some cycle of moves saves (minimum-cost flow).
    """
    price, saving = _prices(held, width)
    change = price[:, None, :] - saving[:, :, None]  # [E, source, target]
    mover = change.argmin(axis=0)
    cycle = _negative_cycle(change.min(axis=0))
    pairs = zip(cycle, cycle[1:] + cycle[:1], strict=True)
    return [Move(int(mover[source, target]), source, target) for source, target in pairs]


def _negative_cycle(cost: Floats) -> list[int]:
    """Nodes of a cycle whose ``[source, target]`` costs sum to less than 0, or none.

    Bellman-Ford from all nodes at once: B rounds without rest mean that there is a cycle.
    """
    distance = np.zeros(len(cost))
    came_from = np.zeros(len(cost), np.int64)
    for _ in range(len(cost)):
        through = distance[:, None] + cost
        is_nearer = through.min(axis=0) < distance
        if not is_nearer.any():
            return []
        came_from[is_nearer] = through.argmin(axis=0)[is_nearer]
        distance = np.minimum(distance, through.min(axis=0))
    node = int(np.argmax(is_nearer))
    for _ in range(len(cost)):  # back until surely on the cycle
        node = int(came_from[node])
    cycle = [node]
    while (before := int(came_from[cycle[-1]])) != node:
        cycle.append(before)
    return cycle[::-1]
