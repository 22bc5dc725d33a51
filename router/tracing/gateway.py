"""Requests at a gateway: heard of as the engine tells of itself, written when they have ended.

The gateway speaks for its shards too. Their answers tell how long a frame waited and was computed,
in fields that an answer had unused: so frames stay as large as they were, shards keep nothing, and
who decides what is kept is who knows how the request went.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from opentelemetry.trace import SpanContext

from galerne.ids import Epoch
from galerne.logs import trace_ids
from router.engine.plan import StepEntry, StepPlan
from router.engine.recording import NullRecorder
from router.engine.request import FinishReason, GenerationRequest, TokenDelta
from router.profiling import StepWatch
from router.tracing.choice import ChoiceTrace
from router.tracing.context import as_parent, context_of
from router.tracing.keep import Course, keep_reason
from router.tracing.spans import SpanData, SpanEvent, within
from router.tracing.step_detail import StepBuffer, StepDetail
from router.tracing.tracer import Tracer

logger = logging.getLogger(__name__)

MAX_PENDING = 64  # requests whose spans are not made yet; more are dropped
_CLOSE_TIMEOUT_S = 10.0


@dataclass(slots=True, eq=False)
class GatewayTrace:
    """One request."""

    request: GenerationRequest
    caller: SpanContext
    arrived_s: float
    tells_log: bool = False  # the log of this process knows its id from here, not from a frontend
    added_s: float | None = None  # when the engine had it
    choices: dict[int, ChoiceTrace] = field(default_factory=dict)
    num_open: int = 0
    kept: str = ""  # why, once it has ended

    def spans(self, gateway: str, num_layers: int) -> SpanData:
        """All of it; times that were noted on other threads are cut to their parents'."""
        ends = [c.ended_s for c in self.choices.values() if c.ended_s is not None]
        added_s = self.arrived_s if self.added_s is None else self.added_s
        end_s = max([added_s, *ends])
        parts = [SpanData("admit", self.arrived_s, added_s)]
        events: list[SpanEvent] = []
        for choice in self.choices.values():
            parts += choice.spans(num_layers)
            events += choice.events
        request = self.request
        whole = SpanData(
            "serve",
            self.arrived_s,
            end_s,
            {
                "galerne.request": request.request_id,
                "galerne.gateway": gateway,
                "galerne.kept": self.kept,
                "galerne.resumed_tokens": sum(len(r.token_ids) for r in request.resumed),
                "galerne.longest_wait_s": max(
                    (c.longest_wait_s for c in self.choices.values()), default=0.0
                ),
                "gen_ai.usage.input_tokens": len(request.prompt_token_ids),
                "gen_ai.usage.output_tokens": sum(c.num_tokens for c in self.choices.values()),
            },
            parts,
            events,
            is_server=True,
            error=next((c.error for c in self.choices.values() if c.error), ""),
        )
        return within(whole, self.arrived_s, end_s)


class GatewayTracer(NullRecorder):
    """Implements ``StepRecorder``. ``join`` and ``leave`` are called on the service's loop."""

    def __init__(
        self,
        tracer: Tracer,
        gateway: str,
        num_layers: int,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tracer, self._gateway, self._num_layers = tracer, gateway, num_layers
        self._now_s = now_s
        self.buffer = StepBuffer(tracer.settings.buffer_steps)
        self.watch: Callable[[StepWatch | None], None] = lambda watch: None
        self._joined: dict[str, GatewayTrace] = {}  # on their way to the engine
        self._open: dict[str, GatewayTrace] = {}  # that the engine has
        self._step: StepDetail | None = None
        self._in_step: list[tuple[GatewayTrace, ChoiceTrace, StepEntry]] = []
        self._pending: queue.SimpleQueue[GatewayTrace | None] = queue.SimpleQueue()
        self.num_dropped = 0
        self._writer = threading.Thread(target=self._write_all, name="traces", daemon=True)
        self._writer.start()

    # -- called on the service's loop --------------------------------------------------------

    def join(
        self, request: GenerationRequest, metadata: Iterable[tuple[str, str | bytes]] | None
    ) -> GatewayTrace | None:
        """A request has come; None if its frontend traces nothing."""
        caller = context_of(metadata or ())
        if caller is None:
            return None
        self._tracer.wall.renew()
        tells_log = request.request_id not in trace_ids
        trace = GatewayTrace(request, caller, self._now_s(), tells_log)
        self._joined[request.request_id] = trace
        trace_ids.setdefault(request.request_id, f"{caller.trace_id:032x}")
        return trace

    def leave(self, trace: GatewayTrace) -> None:
        """Its stream has ended; one that the engine has is followed to its own end."""
        request_id = trace.request.request_id
        if self._joined.get(request_id) is trace:
            del self._joined[request_id]
            _forget(trace)

    # -- called on the engine's thread -------------------------------------------------------

    def added(self, request: GenerationRequest) -> None:
        """See ``StepRecorder``."""
        trace = self._joined.pop(request.request_id, None)
        if trace is None:
            return
        now = trace.added_s = self._now_s()
        for choice in request.open_choices:
            trace.choices[choice] = ChoiceTrace(choice, now, waits_since_s=trace.arrived_s)
        trace.num_open = len(trace.choices)
        if trace.choices:  # else there is no end to wait for
            self._open[request.request_id] = trace

    def planned(self, step: int, plan: StepPlan) -> None:
        """See ``StepRecorder``."""
        self._in_step.clear()
        if not self._open:
            return
        now = self._now_s()
        for sequence in plan.preempted:
            found = self._find(sequence.request_id, sequence.choice)
            if found is not None:
                found[1].note("preempted", now)
        for entry in plan.entries:
            found = self._find(entry.sequence.request_id, entry.sequence.choice)
            if found is not None:
                self._in_step.append((*found, entry))
        if self._in_step:
            self._step = StepDetail(step, now, len(plan.entries), plan.num_tokens)
            self.watch(self._step)

    def sampled(self, deltas: Sequence[TokenDelta]) -> None:
        """See ``StepRecorder``."""
        self._end_step(deltas)

    def failed(self, reason: str, deltas: Sequence[TokenDelta], *, has_logits: bool) -> None:
        """See ``StepRecorder``."""
        del has_logits
        self._end_step(deltas, reason)

    def aborted(self, request_id: str, choice: int | None, ended: Sequence[int]) -> None:
        """See ``StepRecorder``."""
        now = self._now_s()
        for number in ended:
            found = self._find(request_id, number)
            if found is not None:
                self._end(*found, now, FinishReason.ABORT.value)

    def epoch_committed(self, epoch: Epoch, config: object) -> None:
        """See ``StepRecorder``: what runs notes it."""
        now = self._now_s()
        for trace in self._open.values():
            for choice in trace.choices.values():
                choice.note("topology changed", now, {"galerne.epoch": int(epoch)})

    def close(self) -> None:
        """Write what has ended."""
        self._pending.put(None)
        self._writer.join(_CLOSE_TIMEOUT_S)
        self._tracer.close()

    def _end_step(self, deltas: Sequence[TokenDelta], error: str = "") -> None:
        step, self._step = self._step, None
        if step is None:
            return
        self.watch(None)
        step.end_s, step.error = self._now_s(), error
        for _, choice, entry in self._in_step:
            choice.stepped(entry, step, self.buffer)
            if error:
                choice.note("step failed", step.end_s, {"galerne.step": step.step})
        for delta in deltas:
            found = self._find(delta.request_id, delta.choice)
            if found is None:
                continue
            found[1].got(len(delta.token_ids), step.end_s)
            if delta.finish_reason is not None:
                self._end(*found, step.end_s, delta.finish_reason.value, delta.error)

    def _find(self, request_id: str, choice: int) -> tuple[GatewayTrace, ChoiceTrace] | None:
        trace = self._open.get(request_id)
        found = None if trace is None else trace.choices.get(choice)
        return None if trace is None or found is None else (trace, found)

    def _end(
        self, trace: GatewayTrace, choice: ChoiceTrace, at_s: float, outcome: str, error: str = ""
    ) -> None:
        if choice.ended_s is not None:
            return
        choice.end(at_s, outcome, error)
        trace.num_open -= 1
        if trace.num_open:
            return
        request_id = trace.request.request_id
        del self._open[request_id]
        _forget(trace)
        for ended in trace.choices.values():
            ended.release(self.buffer)
        trace.kept = self._judge(trace)
        if not trace.kept:
            return
        if self._pending.qsize() >= MAX_PENDING:
            self.num_dropped += 1
            logger.warning("trace_dropped request=%s dropped=%d", request_id, self.num_dropped)
            return
        self._pending.put(trace)

    def _judge(self, trace: GatewayTrace) -> str:
        choices = trace.choices.values()
        course = Course(
            is_sampled=trace.caller.trace_flags.sampled,
            is_failed=any(choice.outcome == FinishReason.ERROR.value for choice in choices),
            is_retried=bool(trace.request.resumed) or any(c.is_retried for c in choices),
            longest_wait_s=max(choice.longest_wait_s for choice in choices),
        )
        return keep_reason(course, self._tracer.settings.slow_s)

    # -- called on the writer's thread -------------------------------------------------------

    def _write_all(self) -> None:
        while (trace := self._pending.get()) is not None:
            try:
                span = trace.spans(self._gateway, self._num_layers)
                self._tracer.write(span, as_parent(trace.caller))
            except Exception:  # the border of a thread: the next one may go
                logger.exception("trace_lost request=%s", trace.request.request_id)


def _forget(trace: GatewayTrace) -> None:
    if trace.tells_log:
        trace_ids.pop(trace.request.request_id, None)
