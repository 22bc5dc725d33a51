"""What a frontend counts and times."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from galerne.clock import Clock, MonotonicClock
from galerne.errors import GalerneError
from router.api.access import Lease
from router.api.events import Accepted, EndReason, Event, Finished, TokensDelta, Usage

_TTFT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_INTER_TOKEN_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_DURATION_BUCKETS_S = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class FrontendMetrics:
    """Metrics of one frontend in a registry of its own, so that several share a process."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock if clock is not None else MonotonicClock()
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "galerne_requests",
            "Requests by how they ended: a finish reason, disconnected, or a gRPC status.",
            ["api", "outcome"],
            registry=self.registry,
        )
        self.running = Gauge(
            "galerne_requests_running", "Requests of this frontend now.", registry=self.registry
        )
        self.streams_moved = Counter(
            "galerne_streams_moved",
            "Streams that went on at another gateway, or at a restarted one.",
            registry=self.registry,
        )
        self.streams_parked = Gauge(
            "galerne_streams_parked",
            "Resumable streams without a client, running or ended, kept for their grace.",
            registry=self.registry,
        )
        self.streams_resumed = Counter(
            "galerne_streams_resumed",
            "Resumable streams that a client came back for.",
            registry=self.registry,
        )
        self.ttft_s = Histogram(
            "galerne_time_to_first_token_seconds",
            "From the request's arrival to its first token.",
            ["api"],
            buckets=_TTFT_BUCKETS_S,
            registry=self.registry,
        )
        self.inter_token_s = Histogram(
            "galerne_inter_token_seconds",
            "Between the deltas of a choice, divided by their tokens.",
            ["api"],
            buckets=_INTER_TOKEN_BUCKETS_S,
            registry=self.registry,
        )
        self.duration_s = Histogram(
            "galerne_request_duration_seconds",
            "From a request's arrival to its end.",
            ["api"],
            buckets=_DURATION_BUCKETS_S,
            registry=self.registry,
        )
        self.prompt_tokens = Counter(
            "galerne_prompt_tokens", "Prompt tokens of ended requests.", registry=self.registry
        )
        self.cached_tokens = Counter(
            "galerne_prompt_tokens_cached",
            "Prompt tokens of ended requests that came from the prefix cache.",
            registry=self.registry,
        )
        self.completion_tokens = Counter(
            "galerne_completion_tokens",
            "Generated tokens of ended requests.",
            registry=self.registry,
        )

    @contextmanager
    def observe(self, api: str) -> Iterator[RequestMeter]:
        """Follow one request of ``api`` (generate or chat) until the block is left."""
        meter = RequestMeter(self, api)
        try:
            yield meter
        except BaseException as error:
            if not meter.is_detached:
                meter.fail(error)
            raise
        finally:
            if not meter.is_detached:
                meter.close()


class RequestMeter:
    """Times one request from its arrival."""

    def __init__(self, metrics: FrontendMetrics, api: str, *, is_replay: bool = False) -> None:
        """``is_replay``: its tokens come faster than they were made."""
        self._is_replay = is_replay
        self.outcome = "INTERNAL"
        self.lease: Lease | None = None  # of the client's limits; None: counted elsewhere
        self.is_detached = False  # the request outlives its client; its task closes this
        self._metrics = metrics
        self._api = api
        self._inter_token_s = metrics.inter_token_s.labels(api)
        self._arrived_s = metrics.clock.now_s()
        self._last_s_by_choice: dict[int, float] = {}
        metrics.running.inc()

    def fail(self, error: BaseException) -> None:
        """The request ends with what was raised."""
        if self.outcome != EndReason.ERROR.value:  # closing the stream is then no news
            self.outcome = _outcome_of(error)

    def see(self, event: Event) -> None:
        """Count what an event says."""
        if self.lease is not None:
            _charge(self.lease, event)
        match event:
            case TokensDelta(choice=choice, token_ids=ids) if ids and not self._is_replay:
                self._see_tokens(choice, len(ids))
            case Finished(reason=reason):
                self.outcome = reason.value
            case Usage():
                self._metrics.prompt_tokens.inc(event.prompt_tokens)
                self._metrics.cached_tokens.inc(event.cached_tokens)
                self._metrics.completion_tokens.inc(event.completion_tokens)
            case Accepted():
                self.outcome = "disconnected"  # unless an end comes

    def close(self) -> None:
        """The request has ended."""
        metrics = self._metrics
        if self.lease is not None:
            self.lease.release(self.outcome)
        metrics.running.dec()
        metrics.requests.labels(self._api, self.outcome).inc()
        metrics.duration_s.labels(self._api).observe(metrics.clock.now_s() - self._arrived_s)

    def _see_tokens(self, choice: int, num_tokens: int) -> None:
        now_s = self._metrics.clock.now_s()
        last_s = self._last_s_by_choice.get(choice)
        if last_s is not None:
            self._inter_token_s.observe((now_s - last_s) / num_tokens)
        elif not self._last_s_by_choice:
            self._metrics.ttft_s.labels(self._api).observe(now_s - self._arrived_s)
        self._last_s_by_choice[choice] = now_s


def _charge(lease: Lease, event: Event) -> None:
    match event:
        case Accepted(prompt_token_ids=ids):
            lease.charge_prompt(len(ids))
        case TokensDelta(token_ids=ids):
            lease.charge_answer(len(ids))


def _outcome_of(error: BaseException) -> str:
    match error:
        case GalerneError():
            return error.status
        case GeneratorExit() | asyncio.CancelledError():
            return "disconnected"
        case _:
            return "INTERNAL"
