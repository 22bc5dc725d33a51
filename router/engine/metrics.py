"""What an engine counts, in a registry of its own."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from router.engine.plan import StepPlan
from router.engine.request import TokenDelta

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class EngineMetrics:
    """Counters of one engine."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.steps = Counter("galerne_engine_steps", "Steps of the model", registry=registry)
        self.loops = Counter(
            "galerne_engine_loop_turns", "Progress of the engine loop", registry=registry
        )
        self.tokens = Counter(
            "galerne_engine_tokens", "Tokens computed", ("phase",), registry=registry
        )
        self.step_seconds = Histogram(
            "galerne_engine_step_seconds", "One step", buckets=_BUCKETS, registry=registry
        )
        self.failed_steps = Counter(
            "galerne_engine_failed_steps", "Steps that raised", registry=registry
        )
        self.dropped_steps = Counter(
            "galerne_engine_dropped_steps",
            "Steps that were begun anew, for their topology was retired",
            registry=registry,
        )
        self.finished = Counter(
            "galerne_engine_finished", "Choices ended", ("reason",), registry=registry
        )
        self.running = Gauge("galerne_engine_running", "Running choices", registry=registry)
        self.waiting = Gauge("galerne_engine_waiting", "Waiting choices", registry=registry)
        self.kv_blocks_used = Gauge(
            "galerne_engine_kv_blocks_used", "KV blocks in use", registry=registry
        )
        self.preemptions = Gauge("galerne_engine_preemptions", "Preemptions", registry=registry)
        self.prefix_hit_tokens = Gauge(
            "galerne_engine_prefix_hit_tokens", "Prompt tokens found cached", registry=registry
        )
        self.drafted = Counter(
            "galerne_engine_draft_tokens", "Guesses verified", ("source",), registry=registry
        )
        self.accepted = Counter(
            "galerne_engine_accepted_draft_tokens",
            "Guesses that were what was drawn",
            ("source",),
            registry=registry,
        )
        self.acceptance = Gauge(
            "galerne_engine_draft_acceptance",
            "Running share of first guesses that were right",
            ("source",),
            registry=registry,
        )
        self.num_draft_tokens = Gauge(
            "galerne_engine_num_draft_tokens",
            "Guesses per sequence in the newest step; 0: they do not pay",
            registry=registry,
        )
        self.part_seconds = Counter(
            "galerne_engine_part_seconds", "Time by part of the model", ("part",), registry=registry
        )
        self.image_lookups = Counter(
            "galerne_image_cache_lookups",
            "Images of requests, by whether their features were there or being made (hit)",
            ("result",),
            registry=registry,
        )
        self.image_cache_bytes = Gauge(
            "galerne_image_cache_bytes",
            "Features of images, those of running requests included",
            registry=registry,
        )
        self.images_encoded = Counter(
            "galerne_images_encoded", "Images that went through the tower", registry=registry
        )
        self.image_pixels = Counter(
            "galerne_image_pixels", "Their pixels, after resizing", registry=registry
        )
        self.image_batches = Counter(
            "galerne_image_batches", "Batches in which they did", registry=registry
        )
        self.images_waiting = Gauge(
            "galerne_images_waiting", "Images that are not encoded yet", registry=registry
        )
        self.exchange_rows = Gauge(
            "galerne_exchange_rows", "Exchange totals", ("what",), registry=registry
        )
        self.link_up = Gauge(
            "galerne_exchange_link_up", "1 if a shard's link is up", ("shard",), registry=registry
        )

    def count_step(self, plan: StepPlan, deltas: Iterable[TokenDelta], seconds: float) -> None:
        """One step with what it gave out."""
        self.steps.inc()
        self.step_seconds.observe(seconds)
        decodes = sum(entry.is_decode for entry in plan.entries)
        guesses = sum(len(entry.draft) for entry in plan.entries)
        self.tokens.labels("decode").inc(decodes)
        self.tokens.labels("prefill").inc(plan.num_tokens - decodes - guesses)
        self.tokens.labels("draft").inc(guesses)
        for delta in deltas:
            if delta.finish_reason is not None:
                self.finished.labels(delta.finish_reason.value).inc()

    def text(self) -> bytes:
        """Prometheus text."""
        return generate_latest(self.registry)
