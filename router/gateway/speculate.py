"""Speculative decoding as a gateway's settings ask for it."""

from __future__ import annotations

from galerne.clock import Clock
from router.engine.draws import Draws
from router.engine.speculation.ngram import NgramSource
from router.engine.speculation.policy import SpeculationConfig
from router.engine.speculation.port import NO_DRAFTING, Drafting, DraftSource
from router.engine.speculation.speculation import Speculation
from router.gateway.settings import GatewaySettings
from router.gateway.sizes import BLOCK_SIZE
from router.model.eagle import EagleHead
from router.model.eagle_source import EagleSource
from router.model.runner import PagedRunner
from shards.checkpoint.eagle import EagleCheckpoint


def load_head(
    settings: GatewaySettings, head: EagleCheckpoint | None, runner: PagedRunner
) -> EagleHead | None:
    """The head that ``find_head`` has found, beside the runner's model."""
    if head is None:
        return None
    return EagleHead(
        head,
        runner.decoder,
        runner.cache.num_blocks,
        BLOCK_SIZE,
        settings.dtype,
        settings.num_threads,
        settings.device,
    )


def create_drafting(
    settings: GatewaySettings,
    head: EagleHead | None,
    runner: PagedRunner,
    clock: Clock,
    draws: Draws,
) -> Drafting:
    """What guesses for this gateway: the head, if there is one."""
    asked = settings.speculation
    if asked.speculative == "off":
        return NO_DRAFTING
    config = SpeculationConfig(
        num_draft_tokens=asked.num_draft_tokens, is_auto=asked.speculative == "auto"
    )
    source: DraftSource = NgramSource()
    if head is not None:
        source = EagleSource(runner, head, runner.decoder.config.eos_token_id, draws)
    return Speculation(source, config, clock)
