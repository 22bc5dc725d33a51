"""Rules between the sizes of a model, the same for both layouts."""

from __future__ import annotations

from galerne.errors import CheckpointError
from shards.checkpoint.config import ModelConfig, VisionConfig

MAX_LAYERS = 4096
MAX_EXPERTS = 65536


def check_sizes(file: str, config: ModelConfig) -> ModelConfig:
    """The config itself, when its sizes fit together.

    Raises:
        CheckpointError: Names the first rule that is broken.
    """
    rules = (
        (config.num_layers <= MAX_LAYERS, f"at most {MAX_LAYERS} layers", config.num_layers),
        (config.num_experts <= MAX_EXPERTS, f"at most {MAX_EXPERTS} experts", config.num_experts),
        (
            config.num_experts_per_tok <= config.num_experts,
            f"num_experts_per_tok of at most the number of experts, {config.num_experts}",
            config.num_experts_per_tok,
        ),
        (
            config.qk_rope_head_dim % 2 == 0,
            "an even qk_rope_head_dim, for it is rotated in pairs",
            config.qk_rope_head_dim,
        ),
        *(_vision_rules(config.vision) if config.vision is not None else ()),
    )
    for is_kept, expected, found in rules:
        if not is_kept:
            raise CheckpointError(file, None, expected, str(found))
    return config


def _vision_rules(vision: VisionConfig) -> tuple[tuple[bool, str, int], ...]:
    return (
        (
            vision.num_layers <= MAX_LAYERS,
            f"at most {MAX_LAYERS} vision layers",
            vision.num_layers,
        ),
        (
            vision.hidden_size % (4 * vision.num_heads) == 0,
            f"a vision hidden_size that is a multiple of 4 x {vision.num_heads} heads",
            vision.hidden_size,
        ),
    )
