"""Changes of experts that are stored as one parameter per layer: PEFT's ``target_parameters``.

PEFT keeps one pair for all E experts of a stack: A ``[r · E, in]``, expert after expert, and B
``[out, r · E]``, whose columns have the expert as their fastest index. Its releases differ in which
axis of the stack they call *in*; the shapes tell. Source: huggingface/peft, ``ParamWrapper``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from shards.adapters.low_rank import LowRank
from shards.adapters.names import Target
from shards.checkpoint.config import ModelConfig

if TYPE_CHECKING:
    import torch


class Stack(NamedTuple):
    """A pair of one layer."""

    down: torch.Tensor  # [r · E, in], A
    up: torch.Tensor  # [out, r · E], B
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        """``(out, in)`` of a change, as the pair says it."""
        return len(self.up), self.down.shape[1]


class Orientation(NamedTuple):
    """Which parameter a stack changes, and whether B · A is the change or its transpose."""

    is_down: bool
    is_transposed: bool


def orientations(stack: tuple[int, int], config: ModelConfig) -> list[Orientation]:
    """All that a stack's shape allows; none: it fits no parameter."""
    hidden, size = config.hidden_size, config.expert_size
    by_parameter = {False: (2 * size, hidden), True: (hidden, size)}
    return [
        Orientation(is_down, is_transposed)
        for is_down, shape in by_parameter.items()
        for is_transposed in (False, True)
        if stack == (shape[::-1] if is_transposed else shape)
    ]


def orient(stacks: Sequence[tuple[int, int]], config: ModelConfig) -> list[Orientation] | None:
    """Of a layer's one or two stacks' shapes; None if these leave a doubt, or fit nothing.

    Both stacks were written by one release, so they have the same orientation.
    """
    found = [
        chosen
        for chosen in _choices([orientations(stack, config) for stack in stacks])
        if len({o.is_transposed for o in chosen}) == 1
        and len({o.is_down for o in chosen}) == len(chosen)
    ]
    return found[0] if len(found) == 1 else None


def _choices(options: list[list[Orientation]]) -> Iterator[list[Orientation]]:
    if not options:
        yield []
        return
    for first in options[0]:
        for rest in _choices(options[1:]):
            yield [first, *rest]


def unstacked(
    layer: int, stack: Stack, how: Orientation, config: ModelConfig
) -> Iterator[tuple[Target, LowRank]]:
    """The changes of every expert, as views."""
    num_experts = config.num_experts
    downs = stack.down.reshape(num_experts, -1, stack.down.shape[1])
    ups = stack.up.reshape(len(stack.up), -1, num_experts)
    for expert in range(num_experts):
        down, up = downs[expert], ups[:, :, expert]
        if how.is_transposed:
            down, up = up.t(), down.t()
        if how.is_down:
            yield Target(layer, "down", expert), LowRank(down, up, stack.scale)
            continue
        for name, half in zip(("gate", "up"), up.chunk(2), strict=True):
            yield Target(layer, name, expert), LowRank(down, half, stack.scale)
