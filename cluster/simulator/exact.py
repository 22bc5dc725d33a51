"""A gateway step by step, with the real scheduler and the real block pool."""

from __future__ import annotations

from cluster.planning.step import StepWork
from cluster.simulator.timing import GatewayModel, Listener, Peers
from router.engine.block_hash import HashContext
from router.engine.block_pool import BlockPool
from router.engine.plan import StepPlan
from router.engine.request import FinishReason, GenerationRequest, SamplingParams
from router.engine.scheduler import Scheduler
from router.engine.scheduler_config import SchedulerConfig
from router.engine.sequence import Sequence

_TOKEN = 0  # which token it is decides nothing here
_MAX_WAITING = 1 << 40  # who waits is measured, not refused
_CONTEXT = HashContext(model_fingerprint="simulated", numerics_profile="", mla_form="absorbed")


class ExactGateway:
    """Every step of ``router.engine.scheduler`` is planned; only its time is made up.

    The prefix cache is off: a load counts prompt tokens that must be computed. Frames are not
    simulated: what a step costs is ``model.step_seconds``.
    """

    def __init__(
        self, model: GatewayModel, listener: Listener, peers: Peers, start_s: float = 0.0
    ) -> None:
        self.time_s = start_s
        self._model = model
        self._listener = listener
        self._peers = peers
        pool = BlockPool(model.kv_tokens // model.block_size + 1, model.block_size)
        self._scheduler = Scheduler(_limits(model), pool, lambda _: _CONTEXT)
        self._arrived_s: dict[Sequence, float] = {}
        self._last_token_s: dict[Sequence, float] = {}
        self._num_added = 0

    @property
    def num_waiting(self) -> int:
        """Requests that hold no blocks."""
        return self._scheduler.num_waiting

    @property
    def num_running(self) -> int:
        """Requests that hold blocks."""
        return self._scheduler.num_running

    def add(self, at_s: float, prompt_tokens: int, output_tokens: int) -> None:
        """Queue a request; it is seen when the step that runs has ended.

        Raises:
            InvalidRequestError: It can never be served with this cache.
        """
        self.time_s = max(self.time_s, at_s)  # idle until now
        self._num_added += 1
        request = GenerationRequest(
            request_id=str(self._num_added),
            prompt_token_ids=(_TOKEN,) * prompt_tokens,
            sampling=SamplingParams(max_tokens=output_tokens, ignore_eos=True),
        )
        for sequence in self._scheduler.add(request):
            self._arrived_s[sequence] = at_s

    def advance(self, until_s: float) -> None:
        """Begin every step that begins before ``until_s``."""
        while self.time_s < until_s and self._scheduler.has_work:
            self._step()
        if not self._scheduler.has_work:
            self.time_s = max(self.time_s, until_s)

    def reconfigure(self, model: GatewayModel) -> None:
        """Other limits and times from the next step on."""
        self._model = model
        self._scheduler.reconfigure(_limits(model))

    def _step(self) -> None:
        plan = self._scheduler.schedule()
        self.time_s += self._seconds(plan)
        extended = self._scheduler.advance(plan, [_TOKEN] * plan.num_samples)
        for sequence in extended:
            self._report_token(sequence)
            if sequence.num_tokens >= sequence.max_num_tokens:
                self._scheduler.finish(sequence, FinishReason.LENGTH)
                self._last_token_s.pop(sequence)
                arrived_s = self._arrived_s.pop(sequence)
                at_s = self.time_s + self._model.frontend_s
                self._listener.completed(at_s, arrived_s, sequence.num_generated)

    def _seconds(self, plan: StepPlan) -> float:
        num_decoding = context = num_prefill = num_begun = 0
        prefill_keys = 0.0
        for sequence, start, num_tokens, samples, _ in plan.entries:
            if num_tokens == 1 and samples and sequence.num_generated:
                num_decoding += 1
                context += start + 1
            else:
                num_prefill += num_tokens
                prefill_keys += num_tokens * (start + (num_tokens + 1) / 2)
                num_begun += start == 0 and not sequence.num_generated
        work = StepWork(
            num_decoding=num_decoding,
            context=context / num_decoding if num_decoding else 0.0,
            num_prefill=num_prefill,
            prefill_context=prefill_keys / num_prefill if num_prefill else 0.0,
        )
        step_s = self._model.step_seconds(work, self._peers.besides(self))
        return step_s + num_begun * self._model.request_s

    def _report_token(self, sequence: Sequence) -> None:
        last_s = self._last_token_s.get(sequence)
        self._last_token_s[sequence] = self.time_s
        if last_s is None:
            ttft_s = self.time_s - self._arrived_s[sequence] + self._model.frontend_s
            self._listener.first_token(self.time_s, ttft_s)
        else:
            self._listener.inter_token(self.time_s, self.time_s - last_s)


def _limits(model: GatewayModel) -> SchedulerConfig:
    return SchedulerConfig(
        max_num_seqs=model.max_num_seqs,
        max_batched_tokens=max(model.max_batched_tokens, model.max_num_seqs),
        max_chunk_tokens=model.max_chunk_tokens,
        block_size=model.block_size,
        max_waiting=_MAX_WAITING,
        max_model_len=model.max_model_len,
        enable_prefix_cache=False,
    )
