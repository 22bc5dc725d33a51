"""A small random checkpoint whose layers have a model's true shape."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cluster.planning.shape import shape_of
from shards.checkpoint.config import ModelConfig
from shards.checkpoint.random_checkpoint import write_random_checkpoint
from shards.kernels.formats import WeightFormat

MIN_LAYERS = 2  # weights that are used in turn come from memory, not from a cache
# Of the experts written. A model that is smaller keeps all its layers: it lives in the caches when
# it is served, too.
_ENOUGH_BYTES = 256 << 20
MAX_EXPERT_BYTES = 1 << 30
_SEED = 6


def cut(model: ModelConfig, max_expert_bytes: int = MAX_EXPERT_BYTES) -> ModelConfig:
    """The model with few layers, text only, in bf16; every layer as wide as before.

    Layers: two, or as many as make 256 MiB of routed experts, at most the model's own. Where even
    two layers' experts take more than ``max_expert_bytes``, there are fewer of them, but four times
    what a token takes: how many are touched is measured, not assumed.
    """
    of_expert = shape_of(model, WeightFormat.BF16, WeightFormat.BF16).expert_bytes
    of_layer = model.num_experts * of_expert
    wanted = max(MIN_LAYERS, -(-_ENOUGH_BYTES // max(int(of_layer), 1)))
    num_layers = min(model.num_layers, int(wanted))
    fewest = min(model.num_experts, 4 * model.num_experts_per_tok)
    num_experts = min(model.num_experts, int(max_expert_bytes / (num_layers * of_expert)))
    return replace(
        model,
        num_layers=num_layers,
        num_experts=max(num_experts, fewest),
        is_fp8=False,
        # The layout cannot say these two; they cost no time.
        yarn_apply_scale=False,
        llama4_original_max_positions=model.yarn_original_max_positions,
        experts_held=WeightFormat.BF16,
        dense_held=WeightFormat.BF16,
        vision=None,
    )


def write_small_model(
    directory: Path, model: ModelConfig, max_expert_bytes: int = MAX_EXPERT_BYTES
) -> ModelConfig:
    """Write a random checkpoint of ``cut(model)``; returns its config.

    Raises:
        FileExistsError: There is a checkpoint already.
        OSError: The disk is full.
    """
    small = cut(model, max_expert_bytes)
    write_random_checkpoint(directory, small, _SEED)
    return small
