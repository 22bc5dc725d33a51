"""What an engine counts, in a registry of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from galerne.metric_set import MetricSet
from router.engine.gateway_port import GatewayLoad
from router.engine.plan import StepPlan
from router.engine.queue_times import QueueTimes
from router.engine.request import TokenDelta

_STEP_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_QUEUE_BOUNDS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class EngineMetrics:
    """Counters of one engine."""

    def __init__(self, load: Callable[[], GatewayLoad]) -> None:
        """``load`` is read whenever the page is."""
        made = self.set = MetricSet(has_process=True)
        self.part_seconds: dict[str, float] = {}
        self._show_steps(made)
        self._show_images(made)
        self._show_load(made, load)
        self.queue = QueueTimes(
            made.histogram(
                "galerne_engine_queue_seconds",
                "From a choice's arrival until its first chunk is in a step.",
                _QUEUE_BOUNDS_S,
            )
        )
        self.drafted = made.counter(
            "galerne_engine_draft_tokens_total", "Guesses that were verified.", "source"
        )
        self.accepted = made.counter(
            "galerne_engine_accepted_draft_tokens_total",
            "Guesses that were what was drawn.",
            "source",
        )
        self.acceptance = made.gauge(
            "galerne_engine_draft_acceptance_ratio",
            "Running share of first guesses that were right.",
            "source",
        )
        self.num_draft_tokens = made.gauge(
            "galerne_engine_num_draft_tokens",
            "Guesses per sequence in the newest step; 0: they do not pay.",
        )

    def _show_steps(self, made: MetricSet) -> None:
        self.steps = made.counter("galerne_engine_steps_total", "Steps of the model.")
        self.loops = made.counter(
            "galerne_engine_loop_turns_total", "Progress of the engine's loop."
        )
        self.tokens = made.counter(
            "galerne_engine_tokens_total", "Tokens computed: decode, prefill or draft.", "phase"
        )
        self.step_seconds = made.histogram(
            "galerne_engine_step_seconds",
            "One step, from its plan to its tokens' emission.",
            _STEP_BOUNDS_S,
        )
        self.failed_steps = made.counter(
            "galerne_engine_failed_steps_total", "Steps that ended their requests with an error."
        )
        self.dropped_steps = made.counter(
            "galerne_engine_dropped_steps_total",
            "Steps that were begun anew, for their topology was retired.",
        )
        self.finished = made.counter(
            "galerne_engine_finished_total", "Choices that ended, by finish reason.", "reason"
        )
        made.show_counter(
            "galerne_engine_part_seconds_total",
            "Time by part of a step; model holds those within the model.",
            lambda: [((part,), seconds) for part, seconds in list(self.part_seconds.items())],
            "part",
        )

    def _show_images(self, made: MetricSet) -> None:
        self.image_lookups = made.counter(
            "galerne_image_cache_lookups_total",
            "Images of requests, by whether their features were there or being made (hit).",
            "result",
        )
        self.image_cache_bytes = made.gauge(
            "galerne_image_cache_bytes", "Features of images, those of running requests included."
        )
        self.images_encoded = made.counter(
            "galerne_images_encoded_total", "Images that went through the tower."
        )
        self.image_pixels = made.counter(
            "galerne_image_pixels_total", "Their pixels, after resizing."
        )
        self.image_batches = made.counter(
            "galerne_image_batches_total", "Batches in which they did."
        )
        self.images_waiting = made.gauge(
            "galerne_images_waiting", "Images that are not encoded yet."
        )

    def _show_load(self, made: MetricSet, load: Callable[[], GatewayLoad]) -> None:
        gauge, counter = made.show_gauge, made.show_counter
        gauge("galerne_engine_running", "Choices that run.", lambda: load().running)
        gauge("galerne_engine_waiting", "Choices that wait to be run.", lambda: load().waiting)
        gauge(
            "galerne_engine_waiting_limit",
            "Choices that may wait; more are refused.",
            lambda: load().max_waiting,
        )
        gauge(
            "galerne_engine_kv_blocks_used",
            "KV blocks in use; what the prefix cache could give up is not.",
            lambda: load().kv_blocks_used,
        )
        gauge("galerne_engine_kv_blocks", "KV blocks that there are.", lambda: load().kv_blocks)
        counter(
            "galerne_engine_preemptions_total",
            "Choices that lost their blocks, and are computed again.",
            lambda: load().preemptions,
        )
        counter(
            "galerne_engine_prefix_query_tokens_total",
            "Prompt tokens looked up in the prefix cache.",
            lambda: load().prefix_query_tokens,
        )
        counter(
            "galerne_engine_prefix_hit_tokens_total",
            "Prompt tokens found there.",
            lambda: load().prefix_hit_tokens,
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
        return self.set.text()
