"""A gateway's tracer that the test tells what an engine would, on a clock of the test's."""

import threading
from types import SimpleNamespace

from router.engine.plan import StepEntry, StepPlan
from router.engine.request import GenerationRequest, ResumedChoice, SamplingParams, TokenDelta
from router.engine.sequence import Sequence
from router.tracing.gateway import GatewayTracer
from router.tracing.settings import TracingSettings
from router.tracing.tracer import WallClock

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


def delta(request_id, num_tokens, finish_reason=None, *, choice=0, error=""):
    return TokenDelta(
        request_id=request_id,
        choice=choice,
        offset=0,
        token_ids=(5,) * num_tokens,
        finish_reason=finish_reason,
        error=error,
    )


class Told:
    """As a context: ends the tracer's thread."""

    def __init__(self, **settings):
        told = TracingSettings(**{"endpoint": "file:///not/used", "slow_s": 2.0} | settings)
        self._written = []
        self.writer = SimpleNamespace(
            settings=told,
            wall=WallClock(),
            write=lambda span, parent: span is None or self._written.append(span),
            close=lambda: None,
        )
        self.now_s, self.num_steps, self.num_watched = 100.0, 0, 0
        self._watch = None
        self.tracer = GatewayTracer(self.writer, "gateway-0", 2, lambda: self.now_s)
        self.tracer.watch = self._watched

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.tracer.close()

    def _watched(self, watch):
        self._watch = watch
        self.num_watched += watch is not None

    @staticmethod
    def headers(*, is_sampled=False):
        return (("traceparent", f"00-{TRACE_ID}-00f067aa0ba902b7-0{int(is_sampled)}"),)

    @staticmethod
    def request(name, num_choices, resumed=()):
        sampling = SamplingParams(n=num_choices)
        return GenerationRequest(
            request_id=name, prompt_token_ids=(1, 2, 3), sampling=sampling, resumed=resumed
        )

    def arrive(self, name, *, num_choices=1, is_sampled=False, is_resumed=False, waits_s=0.0):
        """It comes, and the engine has it; ``waits_s`` pass."""
        resumed = (ResumedChoice((7, 8)),) * num_choices if is_resumed else ()
        asked = self.request(name, num_choices, resumed)
        trace = self.tracer.join(asked, self.headers(is_sampled=is_sampled))
        self.now_s += 0.001
        self.tracer.added(asked)
        self.now_s += waits_s
        return trace

    def step(self, entries, deltas=(), *, seconds=0.01, error="", preempted=(), attempt=0):
        """One step of choices (request, number)."""
        plan = StepPlan(
            entries=tuple(StepEntry(self._sequence(*e), 0, 1, True) for e in entries),
            preempted=tuple(self._sequence(*e) for e in preempted),
            num_tokens=len(entries),
            num_samples=len(deltas),
        )
        self.tracer.planned(self.num_steps, plan)
        if self._watch is not None:
            self._watch.frame_sent(1, "shard-0", 0, attempt, 3, self.now_s)
        self.now_s += seconds
        if error:
            self.tracer.failed(error, deltas, has_logits=False)
        else:
            self.tracer.sampled(deltas)
            self.num_steps += 1
        assert self._watch is None, "between steps nobody watches"

    def _sequence(self, name, choice):
        asked = self.request(name, choice + 1)
        tokens = list(asked.prompt_token_ids)
        fields = {"arrival": 0, "token_ids": tokens, "num_prompt": 3, "max_num_tokens": 99}
        return Sequence(request=asked, choice=choice, **fields)

    def settle(self):
        """The writer has nothing left to do."""
        done = threading.Event()
        marker = SimpleNamespace(spans=lambda *_: done.set(), caller=None)
        marker.request = SimpleNamespace(request_id="marker")
        self.tracer._pending.put(marker)
        assert done.wait(60)

    def spans(self):
        """What was written."""
        self.settle()
        return self._written

    def only_span(self):
        (span,) = self.spans()
        return span
