"""One step: what the plan asks of the model, and what becomes of its logits."""

from __future__ import annotations

from collections.abc import Sequence as AbstractSequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from galerne.errors import GalerneError
from router.engine.guide import Guide, GuideError, Mask
from router.engine.logprobs import prompt_logprobs_rows
from router.engine.outcome import ending_of
from router.engine.penalties import PenaltyState, needs_penalties
from router.engine.plan import StepEntry, StepPlan
from router.engine.request import FinishReason, GenerationRequest, TokenDelta, TokenLogprobs
from router.engine.sampling import Sampled, SampleRow, sample_batch
from router.engine.scheduler import Scheduler
from router.engine.sequence import Sequence


class _Row(NamedTuple):
    """A sampled entry and its token, or why it has none."""

    entry: StepEntry
    sampled: Sampled | GalerneError


class Stepper:
    """Keeps what sampling needs beside the scheduler's records."""

    def __init__(self, scheduler: Scheduler, vocab_size: int, eos_token_id: int) -> None:
        self._scheduler = scheduler
        self._vocab_size = vocab_size
        self._eos_token_id = eos_token_id
        self._penalties: dict[Sequence, PenaltyState] = {}
        self._prompt_logprobs: dict[Sequence, list[TokenLogprobs | None]] = {}
        self._guides: dict[Sequence, Guide] = {}
        self._expected: dict[int, AbstractSequence[Guide]] = {}  # by identity of the request

    def expect(self, request: GenerationRequest, guides: AbstractSequence[Guide]) -> None:
        """Keep the guides of a request, one for each open choice, until it has sequences."""
        if guides:
            self._expected[id(request)] = guides

    def guide(self, request: GenerationRequest, sequences: AbstractSequence[Sequence]) -> None:
        """Let the sequences of a request follow its guides; without any it has been refused."""
        self._guides.update(zip(sequences, self._expected.pop(id(request), ()), strict=False))

    @staticmethod
    def num_logits(entry: StepEntry) -> int:
        """Logits wanted of an entry: the last token's, or all for prompt log probabilities."""
        if _wants_prompt_logprobs(entry.sequence) and entry.start < entry.sequence.num_prompt:
            return entry.num_tokens
        return int(entry.samples)

    def finish_step(
        self, plan: StepPlan, logits: npt.NDArray[np.float32], deltas: list[TokenDelta]
    ) -> None:
        """Sample, advance the scheduler, end what has ended; appends the step's deltas."""
        sampling: list[StepEntry] = []
        last_rows = []
        first = 0
        for entry in plan.entries:
            count = self.num_logits(entry)
            if count > int(entry.samples):
                self._collect_prompt_logprobs(entry, logits[first : first + count])
            first += count
            if entry.samples:
                sampling.append(entry)
                last_rows.append(first - 1)
        rows = [self._sample_row(entry) for entry in sampling]
        picked = logits if len(last_rows) == len(logits) else logits[last_rows]
        results = self._sample(picked, rows) if rows else []
        rows_sampled = [_Row(e, r) for e, r in zip(sampling, results, strict=True)]
        self._advance(plan, rows_sampled, deltas)

    def _sample(
        self, logits: npt.NDArray[np.float32], rows: AbstractSequence[SampleRow | GuideError]
    ) -> list[Sampled | GalerneError]:
        """A result for each row; one whose guide has failed costs the others nothing."""
        sound = [row for row in rows if isinstance(row, SampleRow)]
        if len(sound) < len(rows):
            logits = logits[[isinstance(row, SampleRow) for row in rows]]
        sampled = iter(sample_batch(logits, sound, eos_token_id=self._eos_token_id))
        return [next(sampled) if isinstance(row, SampleRow) else row for row in rows]

    def _advance(
        self, plan: StepPlan, rows: AbstractSequence[_Row], deltas: list[TokenDelta]
    ) -> None:
        for entry, sampled in rows:
            if isinstance(sampled, GalerneError):
                deltas.append(self.fail(entry.sequence, str(sampled)))
        tokens = [r.sampled.token_id if isinstance(r.sampled, Sampled) else 0 for r in rows]
        got = {id(sequence) for sequence in self._scheduler.advance(plan, tokens)}
        for entry, sampled in rows:
            if id(entry.sequence) in got and isinstance(sampled, Sampled):
                deltas.append(self._token_delta(entry.sequence, sampled))

    def fail(self, sequence: Sequence, error: str) -> TokenDelta:
        """End a sequence with an error; its last delta."""
        self._scheduler.finish(sequence, FinishReason.ERROR)
        return self.last_delta(sequence, error)

    def last_delta(self, sequence: Sequence, error: str = "") -> TokenDelta:
        """The terminal delta of a sequence that ended without a new token."""
        self._forget(sequence)
        return TokenDelta(
            request_id=sequence.request_id,
            choice=sequence.choice,
            offset=sequence.num_generated,
            token_ids=(),
            finish_reason=sequence.finish_reason,
            error=error,
        )

    def _token_delta(self, sequence: Sequence, sampled: Sampled) -> TokenDelta:
        penalties = self._penalties.get(sequence)
        if penalties is not None:
            penalties.observe(sampled.token_id)
        guide = self._guides.get(sequence)
        if guide is not None:
            guide.advance(sampled.token_id)
        is_grammar_ended = guide is not None and guide.is_ended
        ending = ending_of(sequence, self._eos_token_id, is_grammar_ended=is_grammar_ended)
        is_first = sequence.num_generated == 1
        prompt_logprobs = self._prompt_logprobs.pop(sequence, []) if is_first else []
        if ending is not None:
            self._scheduler.finish(sequence, ending.reason)
            self._forget(sequence)
        return TokenDelta(
            request_id=sequence.request_id,
            choice=sequence.choice,
            offset=sequence.num_generated - 1,
            token_ids=(sampled.token_id,),
            logprobs=() if sampled.logprobs is None else (sampled.logprobs,),
            prompt_logprobs=prompt_logprobs,
            num_cached_tokens=sequence.num_cached,
            finish_reason=None if ending is None else ending.reason,
            stop_token_id=None if ending is None else ending.stop_token_id,
        )

    def _sample_row(self, entry: StepEntry) -> SampleRow | GuideError:
        sequence = entry.sequence
        params = sequence.request.sampling
        try:
            allowed = self._allowed(sequence)
        except GuideError as error:
            return error
        return SampleRow(
            params=params,
            choice=sequence.choice,
            position=sequence.num_tokens,
            num_generated=sequence.num_generated,
            penalties=self._penalty_state(sequence) if needs_penalties(params) else None,
            allowed=allowed,
        )

    def _allowed(self, sequence: Sequence) -> Mask | None:
        guide = self._guides.get(sequence)
        if guide is not None:
            return guide.allowed()
        if sequence.request.rules is not None:
            raise GuideError("the request came without a guide")
        return None

    def _penalty_state(self, sequence: Sequence) -> PenaltyState:
        state = self._penalties.get(sequence)
        if state is None:
            state = self._penalties[sequence] = PenaltyState(self._vocab_size)
            state.observe_prompt(sequence.token_ids[: sequence.num_prompt])
            for token in sequence.token_ids[sequence.num_prompt :]:
                state.observe(token)
        return state

    def _collect_prompt_logprobs(self, entry: StepEntry, logits: npt.NDArray[np.float32]) -> None:
        """Logits of position p judge token p + 1; a recomputed chunk adds nothing twice."""
        sequence = entry.sequence
        collected = self._prompt_logprobs.setdefault(sequence, [None])
        begin = len(collected) - 1 - entry.start
        end = min(entry.num_tokens, sequence.num_prompt - 1 - entry.start)
        if 0 <= begin < end:
            start = entry.start + begin + 1
            next_ids = sequence.token_ids[start : start + end - begin]
            top = sequence.request.sampling.prompt_logprobs or 0
            collected += prompt_logprobs_rows(logits[begin:end], next_ids, top)

    def _forget(self, sequence: Sequence) -> None:
        self._penalties.pop(sequence, None)
        self._guides.pop(sequence, None)
        self._prompt_logprobs.pop(sequence, None)


def _wants_prompt_logprobs(sequence: Sequence) -> bool:
    """Until they have gone out with the first token; choices share the first one's."""
    wants = sequence.request.sampling.prompt_logprobs is not None
    return wants and sequence.choice == 0 and sequence.num_generated == 0
