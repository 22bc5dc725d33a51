"""Guesses by an Eagle head: it follows every step, and runs on alone from where the step ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from router.engine.draws import PLAIN, Draws
from router.engine.plan import StepPlan
from router.engine.request import SamplingParams
from router.engine.sampling import Sampled, SampleRow, sample_batch
from router.engine.sequence import Sequence as Record
from router.model.batch import Chunk
from router.model.device_sizes import NUM_SCRATCH
from router.model.eagle import EagleHead
from router.model.runner import PagedRunner


@dataclass(slots=True, eq=False)
class _Followed:
    """How far the head has come with one sequence."""

    num_rows: int  # positions whose rows are in the head's cache
    state: torch.Tensor  # [H] of the last of them
    params: SamplingParams  # what guesses are drawn by


class EagleSource:
    """Implements ``DraftSource``.

    Guesses are drawn with the noise of the position they guess at, so that a head that agrees with
    the model draws what the model draws (design, section 5). Penalties, the minimum length and
    images are left out of the guessing.
    """

    name = "eagle"
    follows = True

    def __init__(
        self, runner: PagedRunner, head: EagleHead, eos_token_id: int, draws: Draws = PLAIN
    ) -> None:
        self._runner = runner
        self._head = head
        self._eos_token_id = eos_token_id
        self._draws = draws
        self._followed: dict[Record, _Followed | None] = {}  # None: there is a gap

    def reach(self, sequence: Record, most: int) -> int:
        """See ``DraftSource``."""
        at = self._followed.get(sequence)
        return most if at is not None and at.num_rows == sequence.num_computed else 0

    def draft(self, sequences: Sequence[Record], most: int) -> Mapping[Record, tuple[int, ...]]:
        """See ``DraftSource``."""
        going = [s for s in sequences if self._followed.get(s) is not None][:NUM_SCRATCH]
        guesses: dict[Record, list[int]] = {sequence: [] for sequence in going}
        states = torch.stack([self._at(sequence).state for sequence in going])
        for depth in range(most):
            if depth:
                chunks = [self._next_chunk(s, guesses[s], i) for i, s in enumerate(going)]
                states = self._head.run(chunks, states)
            self._guess(guesses, self._head.logits(states))
        return {sequence: tuple(tokens) for sequence, tokens in guesses.items()}

    def _guess(self, guesses: dict[Record, list[int]], logits: torch.Tensor) -> None:
        """One more for each."""
        rows = [
            SampleRow(
                params=self._at(sequence).params,
                choice=sequence.choice,
                position=sequence.num_tokens + len(tokens),
                num_generated=sequence.num_generated + len(tokens),
            )
            for sequence, tokens in guesses.items()
        ]
        given = logits.numpy()
        drawn = sample_batch(given, rows, eos_token_id=self._eos_token_id, draws=self._draws)
        for tokens, result in zip(guesses.values(), drawn, strict=True):
            # Any token will do where the head has none: it is refused like any wrong guess.
            tokens.append(result.token_id if isinstance(result, Sampled) else self._eos_token_id)

    def _next_chunk(self, sequence: Record, guesses: Sequence[int], index: int) -> Chunk:
        """The row behind those in the cache; guesses beyond a sequence's blocks go to scratch."""
        start = sequence.num_computed + len(guesses) - 1
        return Chunk((guesses[-1],), start, [*sequence.blocks, self._head.first_scratch + index])

    def follow(self, plan: StepPlan) -> None:
        """See ``DraftSource``."""
        states = self._runner.states
        assert states is not None, "a step has just run"
        self._lost(plan)
        chunks: list[Chunk] = []
        rows: list[torch.Tensor] = []
        sequences: list[Record] = []
        first = 0
        for entry in plan.entries:
            sequence, start = entry.sequence, entry.start
            num_rows = sequence.num_computed - start  # what of the step counts
            if num_rows > 0 and not sequence.is_finished and self._joins(sequence, start):
                next_ids = sequence.token_ids[start + 1 : start + num_rows + 1]
                chunks.append(Chunk(next_ids, start, sequence.blocks))
                rows.append(states[first : first + num_rows])
                sequences.append(sequence)
            first += entry.num_tokens
        if not chunks:
            return
        out = self._head.run(chunks, torch.cat(rows))
        last = -1
        for sequence, chunk in zip(sequences, chunks, strict=True):
            last += len(chunk.token_ids)
            at = self._followed.get(sequence)
            params = _bare(sequence.request.sampling) if at is None else at.params
            self._followed[sequence] = _Followed(sequence.num_computed, out[last].clone(), params)

    def pass_over(self, plan: StepPlan) -> None:
        """See ``DraftSource``."""
        self._lost(plan)
        for entry in plan.entries:
            self._followed[entry.sequence] = None

    def forget_ended(self) -> None:
        """See ``DraftSource``."""
        for sequence in [s for s in self._followed if s.is_finished]:
            del self._followed[sequence]

    def _at(self, sequence: Record) -> _Followed:
        at = self._followed[sequence]
        assert at is not None, "only sequences without a gap are drafted"
        return at

    def _lost(self, plan: StepPlan) -> None:
        """Who lost its blocks is computed anew, and so followed anew."""
        for sequence in plan.preempted:
            self._followed.pop(sequence, None)

    def _joins(self, sequence: Record, start: int) -> bool:
        """Whether a step continues what was followed, or begins a sequence.

        Rows of a prefix that was found in the cache are there if who computed them was followed;
        if not, guesses are worse for it.
        """
        if not sequence.request.sampling.speculative:
            return False
        at = self._followed.get(sequence, _NEW)
        # Earlier than expected: its blocks were lost between two steps, and it is computed anew.
        return at is not None and (at is _NEW or start <= at.num_rows)


_NEW = _Followed(0, torch.empty(0), SamplingParams())


def _bare(params: SamplingParams) -> SamplingParams:
    """What a guess is drawn by: no penalties, which depend on tokens not drawn yet."""
    return replace(
        params,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        repetition_penalty=1.0,
        min_tokens=0,
        logprobs=None,
    )
