"""The compute thread of a shard: frames in, results out, queued frames of a layer merged."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

import torch

from galerne.clock import Clock
from galerne.errors import GalerneError
from shards.bank import ExpertBank
from shards.bell import create_bell
from shards.cores import share_cores
from shards.jobs import Job
from shards.merge import merge, split
from shards.metrics import ShardMetrics
from shards.shm.link import SharedLink
from shards.shm.serve import ring_server
from shards.times import ShardTimes
from shards.wire import RequestRows

logger = logging.getLogger(__name__)

_MAX_SLEEP_S = 1.0


class _Pass(NamedTuple):
    """What was computed together, not answered yet."""

    layer: int
    rows: RequestRows  # its tokens may be gone
    jobs: Sequence[Job]
    results: Sequence[torch.Tensor]  # of each
    seconds: float
    waits_s: Sequence[float | None]  # of each job; None: nobody noted when it came


class ExpertWorker:
    """Owns the thread that runs the kernels; these release the GIL."""

    def __init__(
        self,
        bank: ExpertBank,
        metrics: ShardMetrics,
        clock: Clock,
        num_threads: int,
        core: int | None = None,
    ) -> None:
        """``num_threads``: who computes; 1 where shards share cores, and then ``core`` is its own.

        It counts the cores of this process, round and round.
        """
        self._bank = bank
        self._metrics = metrics
        self._clock = clock
        self._num_threads = num_threads
        self._core = core
        self.bell = create_bell()  # rung when there is work
        self._rings = ring_server(bank.layers, num_threads, self.bell, metrics)
        self._queued: deque[Job] = deque()
        self._errands: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._shared: tuple[SharedLink, ...] = ()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="expert-worker", daemon=True)
        self.is_alive = self._thread.is_alive

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a frame."""
        self._queued.append(job)
        self.bell.ring(is_urgent=True)

    def attach(self, link: SharedLink) -> None:
        """Take frames from a link's ring too. Called by one thread, as is ``detach``."""
        self._shared = (*self._shared, link)
        self.bell.ring(is_urgent=True)

    def detach(self, link: SharedLink) -> None:
        """No longer; what it has not given is lost."""
        self._shared = tuple(other for other in self._shared if other is not link)
        self.bell.ring(is_urgent=True)

    def run_between_passes(self, what: Callable[[], None]) -> Future[None]:
        """Call something on the compute thread, where no kernel runs."""
        done: Future[None] = Future()
        self._errands.append((what, done))
        self.bell.ring(is_urgent=True)
        return done

    def stop(self, timeout_s: float = 5.0) -> None:
        """Finish what is queued, then end."""
        self._is_stopping = True
        self.bell.ring(is_urgent=True)
        self._thread.join(timeout_s)
        self.bell.withdraw()

    def _run(self) -> None:
        torch.set_num_threads(self._num_threads)
        if self._core is not None:
            share_cores(self._core)
        while True:
            self._metrics.num_turns += 1
            seen = self.bell.count
            self._run_errands()
            if self._work():
                continue
            if self._is_stopping:
                return
            self._wait(seen)

    def _run_errands(self) -> None:
        while self._errands:
            what, done = self._errands.popleft()
            is_awaited = done.set_running_or_notify_cancel()
            try:
                what()
            except Exception as error:  # goes to the caller; the thread must live on
                logger.exception("errand_failed")
                if is_awaited:
                    done.set_exception(error)
            else:
                if is_awaited:
                    done.set_result(None)

    def _work(self) -> bool:
        """Compute what there is; whether there was something."""
        shared = self._shared
        jobs = [self._queued.popleft() for _ in range(len(self._queued))]
        for link in shared:
            jobs += link.take()
        by_key: dict[tuple[int, int], list[Job]] = {}
        for job in jobs:
            by_key.setdefault((job.header.layer, job.header.epoch), []).append(job)
        passes: list[_Pass] = []
        for (layer, _), same in by_key.items():
            self._answer(passes)
            passes = self._compute(layer, same)
        for link in shared:
            link.free()  # before the last answers: whoever has all of them finds an empty ring
        self._answer(passes)
        return bool(jobs)

    def _wait(self, seen: int) -> None:
        """Until there is work; what the native loop can do by itself is done meanwhile."""
        if self._rings is None:
            self.bell.wait(seen, _MAX_SLEEP_S)
            return
        self._rings.set_links(tuple(link for link in self._shared if not link.is_broken))
        self._rings.run(seen, _MAX_SLEEP_S)

    def _compute(self, layer: int, jobs: Sequence[Job]) -> list[_Pass]:
        started = self._clock.now_s()
        waits_s = [None if job.came_s is None else started - job.came_s for job in jobs]
        try:
            merged = merge([job.rows for job in jobs])
            rows = merged.rows
            results = self._bank.run(
                *(layer, rows.tokens, rows.expert_ids, rows.num_rows_by_group, rows.row_token),
                rows.adapters,
            )
        except Exception as error:  # border of the thread: one bad frame must not end it
            if len(jobs) > 1:  # nor fail the frames that it was merged with
                return [done for job in jobs for done in self._compute(layer, [job])]
            if not isinstance(error, GalerneError):
                logger.exception("expert_compute_failed layer=%d", layer)
                error = GalerneError(f"{type(error).__name__}: {error}")
            jobs[0].link.refuse(jobs[0].header, error)
            return []
        seconds = self._clock.now_s() - started
        return [_Pass(layer, rows, jobs, split(merged, results), seconds, waits_s)]

    def _answer(self, passes: Sequence[_Pass]) -> None:
        for done in passes:
            for job, part, wait_s in zip(done.jobs, done.results, done.waits_s, strict=True):
                try:
                    job.link.answer(job.header, part, ShardTimes(wait_s or 0.0, done.seconds))
                except Exception:  # its gateway asks again when the deadline is over
                    logger.exception("expert_answer_lost layer=%d", done.layer)
            self._metrics.computed(done.layer, done.rows, len(done.jobs), done.seconds)
            for wait_s in done.waits_s:
                if wait_s is not None:
                    self._metrics.waited(wait_s)
