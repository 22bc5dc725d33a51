"""A gateway without a model: the test says which tokens come, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace

from galerne.errors import GalerneError
from router.engine.gateway_port import ClusterFacts, GatewayLoad, ModelFacts
from router.engine.request import FinishReason, GenerationRequest, TokenDelta, TokenLogprobs

EOS = 2


def model_facts(**changes) -> ModelFacts:
    facts = ModelFacts(
        name="fake",
        fingerprint="f00d",
        numerics_profile="fp32-reference",
        max_model_len=4096,
        vocab_size=8192,
        num_layers=2,
        num_experts=8,
        num_experts_per_tok=2,
        eos_token_id=EOS,
        takes_images=False,
    )
    return replace(facts, **changes)


@dataclass
class Answer:
    """What one choice says, token by token; ``per_delta`` of them in each delta."""

    token_ids: Sequence[int]
    reason: FinishReason = FinishReason.STOP  # with an EOS of its own
    logprobs: Sequence[TokenLogprobs] = ()
    per_delta: int = 1


@dataclass(eq=False)
class FakeRun:
    """A submitted request. The test moves it; it knows whether it was aborted before its end."""

    request: GenerationRequest
    num_cached_tokens: int = 0
    prompt_logprobs: Sequence[TokenLogprobs | None] = ()
    aborted: asyncio.Event = field(default_factory=asyncio.Event)
    _queue: asyncio.Queue = field(default_factory=asyncio.Queue)
    _num_sent: dict[int, int] = field(default_factory=dict)
    _open: set[int] = field(default_factory=set)

    def __post_init__(self):
        self._open = set(range(self.request.sampling.n))

    @property
    def is_over(self) -> bool:
        return not self._open or self.aborted.is_set()

    def emit(self, *token_ids, choice=0, reason=None, stop_token_id=None, logprobs=(), error=""):
        if choice not in self._open or self.aborted.is_set():
            raise AssertionError(f"choice {choice} has ended")
        offset = self._num_sent.get(choice, 0)
        self._num_sent[choice] = offset + len(token_ids)
        delta = TokenDelta(
            request_id=self.request.request_id,
            choice=choice,
            offset=offset,
            token_ids=token_ids,
            logprobs=logprobs,
            prompt_logprobs=self.prompt_logprobs,
            num_cached_tokens=self.num_cached_tokens,
            finish_reason=reason,
            stop_token_id=stop_token_id,
            error=error,
        )
        self.prompt_logprobs = ()
        if reason is not None:
            self._open.discard(choice)
        self._queue.put_nowait(delta)

    def end(self, choice=0):
        self.emit(EOS, choice=choice, reason=FinishReason.STOP, stop_token_id=EOS)

    def fail(self, error: Exception):
        self._queue.put_nowait(error)

    def break_off(self):
        self._queue.put_nowait(None)

    def play(self, answers: Sequence[Answer]):
        """All choices at once, taking turns."""
        left = {i: answers[i % len(answers)] for i in sorted(self._open)}
        done = dict.fromkeys(left, 0)
        while left:
            for choice, answer in list(left.items()):
                start = done[choice]
                end = start + answer.per_delta
                ids, logprobs = answer.token_ids[start:end], answer.logprobs[start:end]
                done[choice] = end
                if end < len(answer.token_ids):
                    self.emit(*ids, choice=choice, logprobs=logprobs)
                    continue
                del left[choice]
                if answer.reason is FinishReason.STOP:
                    self.emit(*ids, choice=choice, logprobs=logprobs)
                    self.end(choice)
                else:
                    self.emit(*ids, choice=choice, logprobs=logprobs, reason=answer.reason)

    def abort(self, only=None):
        """End all choices, or only one."""
        for choice in sorted(self._open if only is None else {only} & self._open):
            self.emit(choice=choice, reason=FinishReason.ABORT)
        if only is None:
            self.aborted.set()

    async def deltas(self) -> AsyncGenerator[TokenDelta, None]:
        left = set(range(self.request.sampling.n))
        try:
            while left:
                item = await self._queue.get()
                if isinstance(item, Exception):
                    left.clear()
                    raise item
                if item is None:
                    left.clear()
                    return
                if item.finish_reason is not None:
                    left.discard(item.choice)
                yield item
        finally:
            if left:
                self.aborted.set()


class FakeGateway:
    """Implements ``GatewayPort``. With ``answers`` requests are played as they come, by turns."""

    def __init__(self, *answers: Answer, **changes):
        self._model = model_facts(**changes)
        self.answers = answers
        self.refusal: GalerneError | None = None
        self.unready: str | None = None
        self.load_now = GatewayLoad()
        self.cluster_now = ClusterFacts(mode="latency", epoch=1, gateways=("gateway-0",))
        self.adapters = ()
        self.runs: list[FakeRun] = []
        self.prepare = lambda run: None
        self._arrivals: asyncio.Queue = asyncio.Queue()

    @property
    def model(self) -> ModelFacts:
        return self._model

    async def refresh(self):
        pass

    async def submit(self, request: GenerationRequest):
        if self.refusal is not None:
            raise self.refusal
        run = FakeRun(request)
        self.prepare(run)
        self.runs.append(run)
        self._arrivals.put_nowait(run)
        if self.answers:
            run.play(self.answers)
        deltas = run.deltas()
        try:
            async for delta in deltas:
                yield delta
        finally:
            await deltas.aclose()

    async def next_run(self) -> FakeRun:
        """The next request that arrives."""
        return await asyncio.wait_for(self._arrivals.get(), 60)

    async def abort(
        self, request_id: str, choice: int | None = None, owner: bytes | None = None
    ) -> bool:
        for run in self.runs:
            is_meant = run.request.request_id == request_id and not run.is_over
            if is_meant and owner in (None, run.request.owner):
                run.abort(choice)
                return True
        return False

    async def resume(self, request_id: str, owner: bytes) -> None:
        """It keeps nothing."""

    async def forget(self, request_id: str) -> None:
        await self.abort(request_id)

    async def load(self) -> GatewayLoad:
        return self.load_now

    async def cluster(self) -> ClusterFacts:
        return self.cluster_now

    async def unready_reason(self) -> str | None:
        return self.unready
