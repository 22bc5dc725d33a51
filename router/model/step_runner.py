"""Between the engine's plans and a model runner's chunks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from galerne.errors import InvalidRequestError
from router.engine.metrics import EngineMetrics
from router.engine.plan import StepPlan
from router.engine.preparing import NoImages, Preparer
from router.engine.request import GenerationRequest
from router.engine.stepper import Stepper
from router.model.image_encoder import ImageEncoder
from router.model.runner import ModelRunner, PagedRunner, SequenceChunk
from shards.adapters.adapter import key_of


class StepRunner:
    """Runs plans on a model runner and reports its counters."""

    def __init__(self, model: ModelRunner, num_threads: int = 1) -> None:
        """``num_threads``: torch threads of the engine's thread."""
        self.model = model
        self._num_threads = num_threads
        self._reported: dict[str, float] = {}
        self.leaving: set[str] = set()  # ids of adapters that take no new requests

    def on_thread_start(self) -> None:
        """Torch's number of threads is a property of the calling thread."""
        torch.set_num_threads(self._num_threads)

    def run_plan(self, step: int, plan: StepPlan) -> npt.NDArray[np.float32]:
        """See ``step_runner_port.StepRunner.run_plan``."""
        chunks = [
            SequenceChunk(
                token_ids=[*entry.sequence.token_ids, *entry.draft]
                if entry.draft
                else entry.sequence.token_ids,
                start=entry.start,
                num_tokens=entry.num_tokens,
                block_ids=entry.sequence.blocks,
                num_logits=Stepper.num_logits(entry),
                images=entry.sequence.request.images,
                adapter=key_of(entry.sequence.request.adapter),
            )
            for entry in plan.entries
        ]
        return self.model.run(step, chunks)

    @property
    def preparer(self) -> Preparer:
        """See ``step_runner_port.StepRunner.preparer``."""
        return self.model.images or NoImages()

    def check(self, request: GenerationRequest) -> None:
        """See ``step_runner_port.StepRunner.check``."""
        if request.adapter in self.leaving and not request.resumed:
            raise InvalidRequestError("model", f"adapter {request.adapter} is being unloaded")
        self.model.check_adapter(request.adapter)

    def poll(self) -> None:
        """See ``ModelRunner.poll``."""
        self.model.poll()

    def unready_reason(self) -> str | None:
        """See ``ModelRunner.unready_reason``."""
        return self.model.unready_reason()

    def report(self, metrics: EngineMetrics) -> None:
        """Bring part times and what images have cost up to date."""
        if self.model.images is not None:
            self._report_images(self.model.images, metrics)
        if isinstance(self.model, PagedRunner):
            metrics.part_seconds.update(self.model.timer.snapshot())

    def _report_images(self, images: ImageEncoder, metrics: EngineMetrics) -> None:
        counters = images.counters
        for result, count in (("hit", counters.hits), ("miss", counters.misses)):
            metrics.image_lookups.labels(result).inc(self._since_report(f"image {result}", count))
        metrics.images_encoded.inc(self._since_report("images", counters.images))
        metrics.image_pixels.inc(self._since_report("image pixels", counters.pixels))
        metrics.image_batches.inc(self._since_report("image batches", counters.batches))
        metrics.images_waiting.set(images.num_to_encode)
        metrics.image_cache_bytes.set(images.cache.num_bytes)

    def _since_report(self, name: str, total: float) -> float:
        """What a total has grown by."""
        grown = total - self._reported.get(name, 0.0)
        self._reported[name] = total
        return grown

    def close(self) -> None:
        """Close the model runner."""
        self.model.close()
