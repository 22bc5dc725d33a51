"""Bytes that tensors take on a GPU, before there are any. Loads no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final, TypeAlias

from shards.checkpoint.config import ModelConfig
from shards.kernels.formats import GROUP, WeightFormat

# Number of tensors by the bytes of one.
Tensors: TypeAlias = Counter[int]

# Of torch's caching allocator: c10/core/AllocatorConfig.h, kMinBlockSize, kSmallSize,
# kMinLargeAlloc, kRoundLarge, and large_segment_size as it is unless told otherwise.
_BLOCK: Final = 512
_SMALL: Final = 1 << 20
_LARGE: Final = 10 << 20
_ROUND_LARGE: Final = 2 << 20
_SEGMENT: Final = 20 << 20


def kept_on_gpu(model: ModelConfig, held: WeightFormat) -> WeightFormat:
    """As a GPU holds weights: those of an fp8 checkpoint stay as they are. Pure."""
    return WeightFormat.FP8 if model.is_fp8 and held is WeightFormat.BF16 else held


def weight_tensors(
    num_outputs: int, num_inputs: int, held: WeightFormat, number_bytes: int
) -> Tensors:
    """Of a weight ``[N, K]`` as a ``DeviceWeight`` has it.

    ``number_bytes``: of what is wide: 2 for bf16, 4 for float32.
    """
    n, k = num_outputs, num_inputs
    if held is WeightFormat.BF16:
        return Counter([n * k * number_bytes])
    if held is WeightFormat.INT4:
        groups = -(-k // GROUP)
        return Counter([n * groups * GROUP // 2]) + Counter([4 * n * groups])
    return Counter([n * k]) + Counter([4 * n])


def expert_tensors(hidden: int, width: int, held: WeightFormat, number_bytes: int) -> Tensors:
    """Of one expert: gate and up as one weight ``[2 I, H]``, and down ``[H, I]``."""
    both = weight_tensors(2 * width, hidden, held, number_bytes)
    return both + weight_tensors(hidden, width, held, number_bytes)


def times(tensors: Tensors, number: int) -> Tensors:
    """So many of each."""
    return Counter({size: number * count for size, count in tensors.items()})


def plain_bytes(tensors: Mapping[int, int]) -> int:
    """Of all of them, as they say themselves."""
    return sum(size * count for size, count in tensors.items())


def allocated_bytes(tensors: Mapping[int, int]) -> float:
    """That torch's allocator takes of the GPU for many tensors of each size. Pure.

    Up to 1 MiB they share segments and lose little. Up to 10 MiB as many as fit share one of 20
    MiB: two of 8 MiB, an expert's down of Mistral Small 4 in fp8, take 20. Above, they are rounded
    to 2 MiB. What rests of the last segments is not counted here: see ``PROCESS_BYTES``.
    """
    return sum(_taken(size) * count for size, count in tensors.items())


def _taken(size: int) -> float:
    rounded = -(-size // _BLOCK) * _BLOCK
    if rounded <= _SMALL:
        return rounded
    if rounded < _LARGE:
        return _SEGMENT / (_SEGMENT // rounded)
    return -(-rounded // _ROUND_LARGE) * _ROUND_LARGE
