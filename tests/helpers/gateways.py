"""Engines over the fixture models, driven by the test."""

import threading
from contextlib import contextmanager

import torch

from galerne.clock import MonotonicClock
from helpers.fixture_models import BLOCK_SIZE, local_experts
from router.engine.block_hash import HashContext
from router.engine.block_pool import BlockPool
from router.engine.engine import Engine
from router.engine.native_draws import draws_here
from router.engine.request import GenerationRequest, SamplingParams
from router.engine.scheduler import Scheduler
from router.engine.scheduler_config import SchedulerConfig
from router.engine.speculation.port import NO_DRAFTING
from router.engine.stepper import Stepper
from router.model.decoder import Decoder
from router.model.kv_cache import PagedLatentCache
from router.model.runner import PagedRunner
from router.model.step_runner import StepRunner
from router.model.vision import VisionTower
from shards.kernels.formats import WeightFormat


class Collector:
    """Takes deltas on the engine's thread, lets the test wait for the end of requests."""

    def __init__(self):
        self.deltas = {}
        self._changed = threading.Condition()

    def __call__(self, deltas):
        with self._changed:
            for delta in deltas:
                self.deltas.setdefault((delta.request_id, delta.choice), []).append(delta)
            self._changed.notify_all()

    def wait(self, request_id, choice=0, timeout=60.0, *, tokens=None):
        """Deltas of a choice, once it has ended (or has so many tokens)."""

        def done():
            got = self.deltas.get((request_id, choice), [])
            count = sum(len(d.token_ids) for d in got)
            return got and (got[-1].finish_reason or (tokens is not None and count >= tokens))

        with self._changed:
            assert self._changed.wait_for(done, timeout), f"{request_id} did not end"
            return list(self.deltas[request_id, choice])

    def tokens(self, request_id, choice=0, timeout=60.0):
        return [t for d in self.wait(request_id, choice, timeout) for t in d.token_ids]


@contextmanager
def engine(
    source,
    dtype=torch.bfloat16,
    *,
    exchange=None,
    num_blocks=128,
    wrap=lambda runner: runner,
    threads=1,
    beside=None,
    dense=WeightFormat.BF16,
    vision=None,
    is_started=True,
    drafting=lambda model: NO_DRAFTING,
    device="cpu",
    **settings,
):
    """An engine and its collector; ``wrap`` may put a probe around the step runner.

    ``drafting`` makes what guesses, of the ``PagedRunner``.
    """
    fields = {"max_num_seqs": 16, "max_batched_tokens": 256, "max_chunk_tokens": 128}
    fields |= {"block_size": BLOCK_SIZE, "max_waiting": 64, "max_model_len": 1024} | settings
    pool = BlockPool(num_blocks, BLOCK_SIZE)

    def context(request):
        return HashContext(
            model_fingerprint=source.fingerprint,
            numerics_profile=str(dtype),
            mla_form="absorbed",
            adapter=request.adapter,
            salt=request.cache_salt,
        )

    scheduler = Scheduler(SchedulerConfig(**fields), pool, context)
    cache = PagedLatentCache(source.config, num_blocks, BLOCK_SIZE, dtype, device)
    tower = None if source.config.vision is None else VisionTower(source, dtype, device=device)
    model = PagedRunner(
        Decoder(source, dtype, threads, dense, num_beside=beside, device=device),
        cache,
        exchange or local_experts(source, dtype, threads, device=device),
        tower,
        vision=vision,
    )
    collector = Collector()
    config = source.config
    stepper = Stepper(scheduler, config.vocab_size, config.eos_token_id, draws_here(threads))
    made = Engine(
        scheduler,
        pool,
        wrap(StepRunner(model, threads)),
        stepper,
        MonotonicClock(),
        fields["max_waiting"],
        collector,
        drafting=drafting(model),
    )
    if is_started:
        made.start()
    try:
        yield made, collector
    finally:
        made.stop()


def request(request_id="r", prompt=(5, 6, 7), images=(), cache_salt="", adapter="", **sampling):
    fields = {"temperature": 0.0, "max_tokens": 8, "ignore_eos": True} | sampling
    return GenerationRequest(
        request_id=request_id,
        prompt_token_ids=tuple(prompt),
        sampling=SamplingParams(**fields),
        images=tuple(images),
        cache_salt=cache_salt,
        adapter=adapter,
    )
