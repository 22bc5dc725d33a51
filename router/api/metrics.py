"""What a frontend counts and times."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from galerne.clock import Clock, MonotonicClock
from galerne.errors import GalerneError, OverloadedError
from galerne.metric_set import OTHER, BoundedLabels, MetricSet
from router.api.access import Lease, current_client
from router.api.events import Accepted, EndReason, Event, Finished, TokensDelta, Usage

if TYPE_CHECKING:  # loads OpenTelemetry
    from router.tracing.frontend import FrontendTrace

logger = logging.getLogger(__name__)

_TTFT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_INTER_TOKEN_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_TOKEN_BUCKETS = (16, 64, 256, 1024, 4096, 16384, 65536, 262144)
_DURATION_BUCKETS_S = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

_GIVEN_UP = ("disconnected", "CANCELLED", "DEADLINE_EXCEEDED")  # outcomes, perhaps before a token

MAX_CLIENTS = 100  # shown by name
MAX_MODELS = 64
_MAX_LIMITS = 16


class FrontendMetrics:
    """Metrics of one frontend in a registry of its own, so that several share a process."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock if clock is not None else MonotonicClock()
        made = self.set = MetricSet(has_process=True)
        self._clients = BoundedLabels(MAX_CLIENTS)
        self._models = BoundedLabels(MAX_MODELS)
        self._limits = BoundedLabels(_MAX_LIMITS)
        self._create_times(made)
        self._create_tokens(made)
        self._create_accounts(made)
        self.ready = made.gauge(
            "galerne_ready", "1 if requests could be served a moment ago, as /ready says."
        )
        self.http_responses = made.counter(
            "galerne_http_responses_total",
            "Answers by route, as the app names it, and status.",
            "route",
            "code",
        )
        self.streams_moved = made.counter(
            "galerne_streams_moved_total",
            "Streams that went on at another gateway, or at a restarted one.",
        )
        self.streams_parked = made.gauge(
            "galerne_streams_parked",
            "Resumable streams without a client, running or ended, kept for their grace.",
        )
        self.streams_resumed = made.counter(
            "galerne_streams_resumed_total", "Resumable streams that a client came back for."
        )

    def _create_times(self, made: MetricSet) -> None:
        self.requests = made.counter(
            "galerne_requests_total",
            "Requests by how they ended: a finish reason, disconnected, or a gRPC status.",
            "api",
            "outcome",
        )
        self.running = made.gauge("galerne_requests_running", "Requests of this frontend now.")
        self.ttft_s = made.histogram(
            "galerne_time_to_first_token_seconds",
            "From the request's arrival to its first token.",
            _TTFT_BUCKETS_S,
            "api",
        )
        self.inter_token_s = made.histogram(
            "galerne_inter_token_seconds",
            "Between the deltas of a choice, divided by their tokens.",
            _INTER_TOKEN_BUCKETS_S,
            "api",
        )
        self.duration_s = made.histogram(
            "galerne_request_duration_seconds",
            "From a request's arrival to its end.",
            _DURATION_BUCKETS_S,
            "api",
        )

    def _create_tokens(self, made: MetricSet) -> None:
        self.prompt_tokens = made.counter(
            "galerne_prompt_tokens_total", "Prompt tokens of ended requests."
        )
        self.cached_tokens = made.counter(
            "galerne_prompt_tokens_cached_total",
            "Prompt tokens of ended requests that came from the prefix cache.",
        )
        self.completion_tokens = made.counter(
            "galerne_completion_tokens_total", "Generated tokens of ended requests."
        )
        self.prompt_sizes = made.histogram(
            "galerne_request_prompt_tokens", "Prompt tokens of an ended request.", _TOKEN_BUCKETS
        )
        self.completion_sizes = made.histogram(
            "galerne_request_completion_tokens",
            "Generated tokens of an ended request, all choices together.",
            _TOKEN_BUCKETS,
        )

    def _create_accounts(self, made: MetricSet) -> None:
        self.limited = made.counter(
            "galerne_requests_limited_total",
            "Requests refused for now (429), by the limit: of a key, the frontend or a gateway.",
            "limit",
        )
        for limit in ("frontend", "gateway"):  # from zero on: alerts watch for the first
            self.limited.labels(self._limits.of(limit))
        self._key_refusals = made.counter(
            "galerne_key_refusals_total",
            "Calls refused at the door: no key, wrong key, not an admin key.",
            "reason",
        )
        for reason in ("no_key", "wrong_key", "not_an_admin_key"):
            self._key_refusals.labels(reason)
        self.client_requests = made.counter(
            "galerne_client_requests_total",
            f"Ended requests by name of the key; beyond {MAX_CLIENTS} names: {OTHER}.",
            "client",
        )
        self.client_tokens = made.counter(
            "galerne_client_tokens_total",
            "Tokens of ended requests by name of the key: prompt or completion.",
            "client",
            "kind",
        )
        self.model_requests = made.counter(
            "galerne_model_requests_total",
            f"Requests let in, by model or adapter; beyond {MAX_MODELS} names: {OTHER}.",
            "model",
        )

    def key_refused(self, reason: str) -> None:
        """A call was not let in."""
        self._key_refusals.labels(reason.replace(" ", "_")).inc()

    def let_in(self, model: str) -> None:
        """A request for a model that is served."""
        self.model_requests.labels(self._models.of(model)).inc()

    def note_limit(self, error: GalerneError) -> None:
        """A request was refused."""
        if error.status == OverloadedError.status:
            what = error.what if isinstance(error, OverloadedError) else "gateway"
            self.limited.labels(self._limits.of(what.replace(" ", "_"))).inc()

    def used(self, client: str, usage: Usage) -> None:
        """What an ended request took."""
        self.prompt_tokens.inc(usage.prompt_tokens)
        self.cached_tokens.inc(usage.cached_tokens)
        self.completion_tokens.inc(usage.completion_tokens)
        self.prompt_sizes.observe(usage.prompt_tokens)
        self.completion_sizes.observe(usage.completion_tokens)
        label = self._clients.of(client)
        self.client_tokens.labels(label, "prompt").inc(usage.prompt_tokens)
        self.client_tokens.labels(label, "completion").inc(usage.completion_tokens)

    def ended(self, client: str, api: str, outcome: str, seconds: float) -> None:
        """A request has ended."""
        self.running.dec()
        self.requests.labels(api, outcome).inc()
        self.duration_s.labels(api).observe(seconds)
        self.client_requests.labels(self._clients.of(client)).inc()

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
        self.trace: FrontendTrace | None = None  # None: nothing is traced
        self.request_id = ""  # once it was admitted
        self.num_prompt = 0  # tokens of an admitted prompt that are not charged yet
        self.is_detached = False  # the request outlives its client; its task closes this
        self._metrics = metrics
        self._api = api
        self._inter_token_s = metrics.inter_token_s.labels(api)
        self._client = current_client().name
        self._arrived_s = metrics.clock.now_s()
        self._last_s_by_choice: dict[int, float] = {}
        metrics.running.inc()

    def part(self, name: str) -> AbstractContextManager[None]:
        """A part of what the frontend does itself."""
        return _UNTRACED if self.trace is None else self.trace.part(name)

    def fail(self, error: BaseException) -> None:
        """The request ends with what was raised."""
        if self.outcome != EndReason.ERROR.value:  # closing the stream is then no news
            self.outcome = _outcome_of(error)
            if isinstance(error, GalerneError):
                self._metrics.note_limit(error)

    def see(self, event: Event) -> None:
        """Count what an event says."""
        if self.lease is not None:
            self._charge(self.lease, event)
        if self.trace is not None:
            self.trace.see(event)
        match event:
            case TokensDelta(choice=choice, token_ids=ids) if ids and not self._is_replay:
                self._see_tokens(choice, len(ids))
            case Finished(reason=reason):
                self.outcome = reason.value
            case Usage():
                self._metrics.used(self._client, event)
            case Accepted():
                self.outcome = "disconnected"  # unless an end comes

    def close(self) -> None:
        """The request has ended."""
        metrics = self._metrics
        if self.lease is not None:
            if self.outcome in _GIVEN_UP:  # a gateway has computed at it
                self._charge_prompt(self.lease)
            self.lease.release(self.outcome)
        seconds = metrics.clock.now_s() - self._arrived_s
        told = (self.request_id, self._api, self.outcome, seconds)
        logger.info("request_ended request=%s api=%s outcome=%s seconds=%.3f", *told)
        if self.trace is not None:
            self.trace.close(self.outcome)
        metrics.ended(self._client, self._api, self.outcome, seconds)

    def _charge(self, lease: Lease, event: Event) -> None:
        match event:
            case Accepted():
                self._charge_prompt(lease)
            case TokensDelta(token_ids=ids):
                lease.charge_answer(len(ids))

    def _charge_prompt(self, lease: Lease) -> None:
        """Once."""
        lease.charge_prompt(self.num_prompt)
        self.num_prompt = 0

    def _see_tokens(self, choice: int, num_tokens: int) -> None:
        now_s = self._metrics.clock.now_s()
        last_s = self._last_s_by_choice.get(choice)
        if last_s is not None:
            self._inter_token_s.observe((now_s - last_s) / num_tokens)
        elif not self._last_s_by_choice:
            self._metrics.ttft_s.labels(self._api).observe(now_s - self._arrived_s)
        self._last_s_by_choice[choice] = now_s


_UNTRACED = nullcontext()


def _outcome_of(error: BaseException) -> str:
    match error:
        case GalerneError():
            return error.status
        case GeneratorExit() | asyncio.CancelledError():
            return "disconnected"
        case _:
            return "INTERNAL"
