"""The compute thread of a shard: frames in, results out, queued frames of a layer merged."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from galerne.clock import Clock
from galerne.errors import GalerneError
from galerne.frame import FrameHeader, FrameKind, Section, encode
from galerne.hello import encode_refusal
from shards.bank import ExpertBank
from shards.merge import merge, split
from shards.metrics import ShardMetrics
from shards.wire import WIRE_DTYPE, RequestRows, tensor_bytes

logger = logging.getLogger(__name__)


class Job(NamedTuple):
    """One request frame and where its answer goes (called on the compute thread)."""

    header: FrameHeader
    rows: RequestRows
    reply: Callable[[list[bytes]], None]


class ExpertWorker:
    """Owns the thread that runs the kernels; torch releases the GIL inside them."""

    def __init__(
        self, bank: ExpertBank, metrics: ShardMetrics, clock: Clock, num_threads: int
    ) -> None:
        """``num_threads``: torch threads of the compute thread; 1 where shards share cores."""
        self._bank = bank
        self._metrics = metrics
        self._clock = clock
        self._num_threads = num_threads
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="expert-worker", daemon=True)
        self.is_alive = self._thread.is_alive

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a frame."""
        self._jobs.put(job)

    def stop(self, timeout_s: float = 5.0) -> None:
        """Finish what is queued, then end."""
        self._jobs.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        torch.set_num_threads(self._num_threads)
        while True:
            jobs = self._take_all()
            if jobs is None:
                return
            by_key: dict[tuple[int, int], list[Job]] = {}
            for job in jobs:
                by_key.setdefault((job.header.layer, job.header.epoch), []).append(job)
            for (layer, _), same in by_key.items():
                self._compute(layer, same)

    def _take_all(self) -> list[Job] | None:
        """Wait for a job, then take all that are queued; None at the end."""
        jobs = [self._jobs.get()]
        while not self._jobs.empty():
            jobs.append(self._jobs.get())
        found = [job for job in jobs if job is not None]
        if len(found) < len(jobs):
            self._jobs.put(None)
            return found or None
        return found

    def _compute(self, layer: int, jobs: Sequence[Job]) -> None:
        started = self._clock.now_s()
        try:
            merged = merge([job.rows for job in jobs])
            rows = merged.rows
            results = self._bank.run(
                layer, rows.tokens, rows.expert_ids, rows.num_rows_by_group, rows.row_token
            )
        except Exception as error:  # border of the thread: one bad frame must not end it
            if len(jobs) > 1:  # nor fail the frames that it was merged with
                for job in jobs:
                    self._compute(layer, [job])
                return
            if not isinstance(error, GalerneError):
                logger.exception("expert_compute_failed layer=%d", layer)
                error = GalerneError(f"{type(error).__name__}: {error}")
            refuse(jobs[0], error)
            return
        self._metrics.computed(layer, rows, len(jobs), self._clock.now_s() - started)
        for job, part in zip(jobs, split(merged, results), strict=True):
            job.reply(_reply(job.header, part))


def refuse(job: Job, error: GalerneError) -> None:
    """Answer a frame with a refusal."""
    job.reply([encode_refusal(job.header, str(error), is_retryable=error.is_retryable)])


def _reply(request: FrameHeader, rows: torch.Tensor) -> list[bytes]:
    header = FrameHeader(
        kind=FrameKind.REPLY,
        gateway=request.gateway,
        incarnation=request.incarnation,
        epoch=request.epoch,
        step=request.step,
        frame=request.frame,
        layer=request.layer,
        micro_batch=request.micro_batch,
        attempt=request.attempt,
        dtype=WIRE_DTYPE[rows.dtype],
        num_rows=rows.shape[0],
        hidden_size=rows.shape[1],
    )
    return encode(header, [(Section.ROWS, tensor_bytes(rows))])
