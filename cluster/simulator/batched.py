"""A gateway many steps at a time, for millions of requests.

While nobody comes, nobody ends and no prompt is computed, all steps are alike but for their
context, which grows by one. So they are advanced at once: the time of m steps is m times the time
of the middle one (exact where a step's time is linear in its context, as the cost model's is).

What is approximated, against ``ExactGateway``; ``test_simulator_batched.py`` measures both:

* KV blocks: a request reserves its prompt and its output when it is admitted; the real scheduler
  takes blocks as a sequence grows, and preempts the latest when they run out.
* The steps advanced at once report their inter-token times as their mean.
"""

from __future__ import annotations

import heapq
import math
from collections import deque

from cluster.planning.step import StepWork
from cluster.simulator.timing import GatewayModel, Listener, Peers


class _Request:
    """A request on its way; ordered by nothing."""

    __slots__ = ("arrived_s", "output", "pending", "prompt")

    def __init__(self, arrived_s: float, prompt: int, output: int) -> None:
        self.arrived_s = arrived_s
        self.prompt = prompt
        self.output = output
        self.pending = prompt  # prompt tokens that are not computed

    @property
    def reserved(self) -> int:
        """Tokens of the cache that it is given."""
        return self.prompt + self.output - 1  # the last token is never computed


class _Chunks:
    """The prompts' part of a step."""

    __slots__ = ("done", "num_keys", "num_tokens")

    def __init__(self) -> None:
        self.num_tokens = 0
        self.num_keys = 0.0  # that all their queries see
        self.done: list[_Request] = []  # whose prompts end with it


class BatchedGateway:
    """The scheduler's rules in aggregate: first come, first served, chunked prefill, caps."""

    def __init__(
        self, model: GatewayModel, listener: Listener, peers: Peers, start_s: float = 0.0
    ) -> None:
        self.time_s = start_s
        self._model = model
        self._listener = listener
        self._peers = peers
        self._waiting: deque[_Request] = deque()
        self._prefilling: deque[_Request] = deque()
        self._decoding: list[tuple[int, int, _Request]] = []  # heap by the step that ends it
        self._num_steps = 0
        self._num_started = 0
        self._context = 0  # of all that decode, in tokens, as of the next step
        self._reserved = 0

    @property
    def num_waiting(self) -> int:
        """Requests that hold no blocks."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Requests that hold blocks."""
        return len(self._prefilling) + len(self._decoding)

    def add(self, at_s: float, prompt_tokens: int, output_tokens: int) -> None:
        """Queue a request; it is seen when the step that runs has ended.

        Raises:
            ValueError: It can never be served with this cache.
        """
        request = _Request(at_s, prompt_tokens, output_tokens)
        if request.reserved > self._model.kv_tokens:
            room = self._model.kv_tokens
            raise ValueError(f"{request.reserved} tokens, but the KV cache holds {room}")
        self.time_s = max(self.time_s, at_s)  # idle until now
        self._waiting.append(request)

    def advance(self, until_s: float) -> None:
        """Begin every step that begins before ``until_s``."""
        while self.time_s < until_s:
            if self._prefilling or self._can_admit():
                self._mixed_step()
            elif self._decoding:
                self._decode_steps(until_s)
            else:
                self.time_s = until_s

    def reconfigure(self, model: GatewayModel) -> None:
        """Other limits and times from the next step on."""
        self._model = model

    def _decode_steps(self, until_s: float) -> None:
        """As many alike as there are before ``until_s`` and before the first one ends."""
        num = len(self._decoding)
        most = self._decoding[0][0] - self._num_steps
        mean = self._context / num
        first_s = self._seconds(StepWork(num_decoding=num, context=mean))
        count = most
        if first_s * most > until_s - self.time_s:
            count = max(1, math.ceil((until_s - self.time_s) / first_s))
        middle = StepWork(num_decoding=num, context=mean + (count - 1) / 2)
        self._pass(count, count * self._seconds(middle))

    def _seconds(self, work: StepWork) -> float:
        return self._model.step_seconds(work, self._peers.besides(self))

    def _can_admit(self) -> bool:
        """Whether the next waiting one fits; else only an end makes room for it."""
        if not self._waiting or self.num_running >= self._model.max_num_seqs:
            return False
        has_budget = self.num_running < self._model.max_batched_tokens
        return has_budget and self._has_blocks_for(self._waiting[0])

    def _has_blocks_for(self, request: _Request) -> bool:
        return self._reserved + request.reserved <= self._model.kv_tokens

    def _mixed_step(self) -> None:
        """One step with chunks of prompts beside the decoding ones."""
        model, num = self._model, len(self._decoding)
        # One token at least for each, also after the limits were lowered.
        budget = max(model.max_batched_tokens, self.num_running) - num
        chunks = _Chunks()
        for place, request in enumerate(self._prefilling):
            num_behind = len(self._prefilling) - place - 1
            self._chunk(request, budget - chunks.num_tokens - num_behind, chunks)
        before = len(self._prefilling)
        self._admit(budget, chunks)
        num_begun = len(self._prefilling) - before
        work = StepWork(
            num_decoding=num,
            context=self._context / num if num else 0.0,
            num_prefill=chunks.num_tokens,
            prefill_context=chunks.num_keys / chunks.num_tokens if chunks.num_tokens else 0.0,
        )
        self._pass(1, self._seconds(work) + num_begun * model.request_s)
        for request in chunks.done:
            self._prefilling.remove(request)
            self._start(request)

    def _admit(self, budget: int, chunks: _Chunks) -> None:
        """Start waiting ones in order until one does not fit."""
        while self._waiting and chunks.num_tokens < budget:
            request = self._waiting[0]
            is_full = self.num_running >= self._model.max_num_seqs
            if is_full or not self._has_blocks_for(request):
                return
            self._waiting.popleft()
            self._reserved += request.reserved
            self._prefilling.append(request)
            self._chunk(request, budget - chunks.num_tokens, chunks)

    def _chunk(self, request: _Request, budget: int, chunks: _Chunks) -> None:
        count = min(request.pending, budget, self._model.max_chunk_tokens)
        start = request.prompt - request.pending
        chunks.num_tokens += count
        chunks.num_keys += count * (start + (count + 1) / 2)
        request.pending -= count
        if not request.pending:
            chunks.done.append(request)

    def _pass(self, num_steps: int, seconds: float) -> None:
        """Let steps pass for all that decode; end those whose last one it was."""
        num = len(self._decoding)
        self._num_steps += num_steps
        self.time_s += seconds
        if num:
            self._context += num * num_steps
            self._listener.inter_token(self.time_s, seconds / num_steps, num * num_steps)
        while self._decoding and self._decoding[0][0] <= self._num_steps:
            request = heapq.heappop(self._decoding)[2]
            self._context -= request.prompt + request.output
            self._end(request)

    def _start(self, request: _Request) -> None:
        """The prompt is computed, and with it the first token."""
        ttft_s = self.time_s - request.arrived_s + self._model.frontend_s
        self._listener.first_token(self.time_s, ttft_s)
        if request.output == 1:
            self._end(request)
            return
        self._num_started += 1  # keeps equal ends in order
        end = self._num_steps + request.output - 1
        heapq.heappush(self._decoding, (end, self._num_started, request))
        self._context += request.prompt + 1

    def _end(self, request: _Request) -> None:
        self._reserved -= request.reserved
        at_s = self.time_s + self._model.frontend_s
        self._listener.completed(at_s, request.arrived_s, request.output)
