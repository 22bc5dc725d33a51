"""``galerne quantize``: a checkpoint's weights in fewer bits, once and for all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from galerne.errors import ConfigError
from shards.checkpoint.mapped import MappedCheckpoint
from shards.checkpoint.names import dense_shapes
from shards.checkpoint.native_write import write_native_checkpoint
from shards.kernels.formats import WeightFormat

TOKENIZER = "tekken.json"


class _DenseWeights(Mapping[str, torch.Tensor]):
    """Read when they are asked for: not all are in memory at once."""

    def __init__(self, checkpoint: MappedCheckpoint) -> None:
        self._checkpoint = checkpoint
        self._names = dense_shapes(checkpoint.config)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._checkpoint.dense(name).to(torch.bfloat16)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def write_quantised(
    checkpoint: MappedCheckpoint,
    source: Path,
    target: Path,
    experts: WeightFormat,
    dense: WeightFormat,
    on_progress: Callable[[int, int], None],
) -> None:
    """Write the checkpoint in the native layout, and its tokenizer with it if it has one.

    What is served from it by native kernels has the bits of the original, in bf16 or fp8, served
    with ``--experts`` and ``--dense``. Memory holds one weight at a time.

    Args:
        checkpoint: An open one, in bf16 or fp8.
        source: Its directory.
        target: Made if missing; must hold no checkpoint.
        experts: Of the routed experts.
        dense: Of projections, shared experts and head.
        on_progress: Called with (experts written, experts in all).

    Raises:
        ConfigError: Nothing would change, or it is quantised already.
        FileExistsError: A checkpoint is there already.
    """
    config = checkpoint.config
    if experts is dense is WeightFormat.BF16:
        raise ConfigError("experts", experts.label, "with dense bf16 changes nothing")
    for name, held in (("experts", config.experts_held), ("dense", config.dense_held)):
        if held is not WeightFormat.BF16:
            raise ConfigError(name, held.label, f"is what {source} holds already")
    total = config.num_layers * config.num_experts

    def expert(layer: int, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        on_progress(layer * config.num_experts + index, total)
        if index == 0:
            checkpoint.release()
        weights = checkpoint.expert(layer, index)
        wide = [weight.to(torch.bfloat16) for weight in weights.gate_up]
        gate, up = wide if len(wide) == 2 else wide[0].chunk(2)
        return gate, up, weights.down.to(torch.bfloat16)

    made = replace(config, is_fp8=False, experts_held=experts, dense_held=dense)
    write_native_checkpoint(target, made, _DenseWeights(checkpoint), expert)
    on_progress(total, total)
    if (source / TOKENIZER).exists():
        shutil.copyfile(source / TOKENIZER, target / TOKENIZER)
