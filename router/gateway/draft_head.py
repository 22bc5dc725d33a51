"""The Eagle head that a gateway's settings ask for. Loads no torch."""

from __future__ import annotations

from pathlib import Path

from galerne.errors import ConfigError
from router.engine.speculation.settings import SpeculationSettings
from router.gateway.sizes import BLOCK_SIZE
from router.model.cache_size import block_bytes
from shards.checkpoint.config import ModelConfig
from shards.checkpoint.eagle import EagleCheckpoint, open_eagle

HEAD_DIRECTORY = "eagle"  # within a checkpoint's


def find_head(
    settings: SpeculationSettings, checkpoint: Path, config: ModelConfig
) -> EagleCheckpoint | None:
    """The Eagle head that guesses for the model in ``checkpoint``, if one is to.

    Raises:
        ConfigError: One is asked for, and there is none.
        CheckpointError: It cannot be used with this model.
    """
    if settings.speculative not in ("auto", "eagle"):
        return None
    inside = checkpoint / HEAD_DIRECTORY
    path = settings.draft_model or (inside if inside.is_dir() else None)
    if path is None and settings.speculative == "eagle":
        problem = f"there is no {inside}, and draft_model is not set"
        raise ConfigError("speculative", "eagle", problem)
    return None if path is None else open_eagle(path, config)


def head_block_bytes(head: EagleCheckpoint | None, number_bytes: int) -> int:
    """What the head's own cache adds to each block of the KV pool."""
    return 0 if head is None else block_bytes(head.config, BLOCK_SIZE, number_bytes)
