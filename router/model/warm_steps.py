"""Which steps to compute before serving: those of every shape that the limits allow. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

from router.model.device_sizes import GRAPH_SIZES
from router.model.triton_decode import graph_shape
from router.model.triton_step import MOST_ALONE
from router.model.warm import WarmStep
from shards.kernels.segments import SEGMENT, keys_of, segments_of, segments_room

_LONGEST_ADAPTED: Final = 4 * SEGMENT  # tokens: longer sequences with adapters record their graphs


class StepLimits(NamedTuple):
    """Of a gateway's steps."""

    max_tokens: int
    max_alone: int  # tokens that attend by themselves: sequences by guesses and one
    max_model_len: int


def plain_steps(limits: StepLimits, *, records: bool) -> list[WarmStep]:
    """For steps where nobody has an adapter; ``records``: decode steps are graphs."""
    return [*decodes(limits, limits.max_model_len if records else SEGMENT), *prompts(limits)]


def adapted_steps(limits: StepLimits, *, records: bool) -> list[WarmStep]:
    """For steps with adapters: their graphs take most time, so only those of short sequences."""
    longest = _LONGEST_ADAPTED if records else SEGMENT
    return [*decodes(limits, min(limits.max_model_len, longest)), *prompts(limits)]


def decodes(limits: StepLimits, max_len: int) -> list[WarmStep]:
    """One for every graph up to a length, largest first: smaller ones find room in what it took."""
    most = min(limits.max_alone, limits.max_tokens)
    befores = zip((0, *GRAPH_SIZES), GRAPH_SIZES, strict=False)
    sizes = [size for before, size in befores if before < most]
    rooms = [segments_room(1)]
    while rooms[-1] < segments_of(max_len):
        rooms.append(segments_room(rooms[-1] + 1))
    return [
        WarmStep(size, 1, min(keys_of(room), max_len) - 1)
        for room in reversed(rooms)
        for size in reversed(sizes)
        if graph_shape(size, room) is not None
    ]


def prompts(limits: StepLimits) -> list[WarmStep]:
    """Chunks of every power of two, and the longest."""
    lengths = {1 << n for n in range(limits.max_tokens.bit_length())} | {limits.max_tokens}
    return [WarmStep(1, length, 0) for length in sorted(lengths) if length > MOST_ALONE]
