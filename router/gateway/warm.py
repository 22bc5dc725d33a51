"""Has a GPU's kernels compiled and its decode graphs recorded before the gateway is ready."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from galerne.adapters import MAX_ADAPTERS
from router.engine.scheduler_config import SchedulerConfig
from router.exchange.local import LocalExperts
from router.gateway.settings import GatewaySettings
from router.model.eagle import EagleHead
from router.model.runner import PagedRunner
from router.model.vision import VisionTower
from router.model.warm import WarmStep, beside, warm_head, warm_runner, warm_tower
from shards.adapters.blank import blank_adapter
from shards.kernels.kinds import torch_device

if TYPE_CHECKING:  # they need Triton
    from router.model.warm_steps import StepLimits

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]  # (what, done, of)


def warm_gateway(
    settings: GatewaySettings,
    scheduler: SchedulerConfig,
    runner: PagedRunner,
    head: EagleHead | None,
    tower: VisionTower | None,
    on_progress: Progress,
) -> None:
    """Compute steps of every kind that may be met; no engine runs yet. Logs what that costs."""
    from router.model.warm_steps import adapted_steps, plain_steps

    limits = _limits(settings, scheduler)
    own, records = beside(runner), isinstance(runner.exchange, LocalExperts)
    with _logged("steps", settings):
        steps = plain_steps(limits, records=records)
        warm_runner(own, steps, lambda n, of: on_progress("steps", n, of))
    if head is not None:
        assert own.states is not None, "a step has just run"
        with _logged("head", settings):
            steps = plain_steps(limits, records=True)
            warm_head(head, own.states, steps, lambda n, of: on_progress("head steps", n, of))
    if tower is not None:
        with _logged("images", settings):
            warm_tower(tower)
    if settings.adapters_root is not None:
        with _logged("adapters", settings):
            _warm_adapted(own, adapted_steps(limits, records=records), on_progress)


@contextmanager
def _logged(part: str, settings: GatewaySettings) -> Iterator[None]:
    """Say what a part has cost: seconds, and bytes of the device."""
    started_s, free = time.monotonic(), _free_bytes(settings)
    yield
    seconds, taken = time.monotonic() - started_s, free - _free_bytes(settings)
    logger.info("gateway_warmed part=%s seconds=%.1f bytes=%d", part, seconds, taken)


def _limits(settings: GatewaySettings, scheduler: SchedulerConfig) -> StepLimits:
    from router.model.warm_steps import StepLimits

    asked = settings.speculation
    guesses = 0 if asked.speculative == "off" else asked.num_draft_tokens
    return StepLimits(
        max_tokens=scheduler.max_batched_tokens,
        max_alone=scheduler.max_num_seqs * (1 + guesses),
        max_model_len=scheduler.max_model_len,
    )


def _warm_adapted(runner: PagedRunner, steps: Sequence[WarmStep], on_progress: Progress) -> None:
    """Run the steps with an adapter that changes nothing, and forget it again.

    Graphs hold for adapters of its rank; those of larger ones are recorded when they are needed.
    """
    decoder, experts = runner.decoder, runner.exchange
    if len(decoder.adapters) == MAX_ADAPTERS:
        return
    layers = range(decoder.config.num_layers)
    adapter = blank_adapter(decoder.config, layers, [(layer, 0) for layer in layers])
    if isinstance(experts, LocalExperts):
        experts.bank.add_adapter(adapter)
    decoder.add_adapter(adapter)
    try:
        warm_runner(runner, steps, lambda n, of: on_progress("adapter steps", n, of), adapter.key)
    finally:
        decoder.drop_adapter(adapter.key)
        if isinstance(experts, LocalExperts):
            experts.bank.drop_adapter(adapter.key)


def _free_bytes(settings: GatewaySettings) -> int:
    """Of the device; 0 for one that is a CPU."""
    device = torch_device(settings.device)
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
