"""Speculative decoding as a gateway's settings ask for it."""

from __future__ import annotations

from pathlib import Path

import torch

from galerne.clock import Clock
from galerne.errors import ConfigError
from router.engine.speculation.ngram import NgramSource
from router.engine.speculation.policy import SpeculationConfig
from router.engine.speculation.port import NO_DRAFTING, Drafting, DraftSource
from router.engine.speculation.settings import SpeculationSettings
from router.engine.speculation.speculation import Speculation
from router.gateway.settings import BLOCK_SIZE, GatewaySettings
from router.model.eagle import EagleHead
from router.model.eagle_source import EagleSource
from router.model.kv_cache import PagedLatentCache
from router.model.runner import PagedRunner
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


def head_bytes_per_block(head: EagleCheckpoint | None, dtype: torch.dtype) -> int:
    """What the head's own cache adds to each block of the KV pool."""
    return 0 if head is None else PagedLatentCache.bytes_per_block(head.config, BLOCK_SIZE, dtype)


def create_drafting(
    settings: GatewaySettings, head: EagleCheckpoint | None, runner: PagedRunner, clock: Clock
) -> Drafting:
    """What guesses for this gateway. ``head`` as ``find_head`` gave it."""
    asked = settings.speculation
    if asked.speculative == "off":
        return NO_DRAFTING
    config = SpeculationConfig(
        num_draft_tokens=asked.num_draft_tokens, is_auto=asked.speculative == "auto"
    )
    source: DraftSource = NgramSource()
    if head is not None:
        model = EagleHead(
            head,
            runner.decoder,
            runner.cache.num_blocks,
            BLOCK_SIZE,
            settings.dtype,
            settings.num_threads,
        )
        source = EagleSource(runner, model, runner.decoder.config.eos_token_id)
    return Speculation(source, config, clock)
