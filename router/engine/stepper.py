"""One step: what the plan asks of the model, and what becomes of its logits.

Guesses are verified here: what is drawn behind each token is drawn as without guesses, one position
after the other, for masks, penalties and endings depend on the tokens before; the next position
counts only if the guess at this one is what was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence as AbstractSequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from galerne.errors import GalerneError
from router.engine.draws import PLAIN, Draws, Judged
from router.engine.guide import Guide, GuideError, Mask
from router.engine.outcome import Ending, ending_with
from router.engine.penalties import PenaltyState, needs_penalties
from router.engine.plan import StepEntry, StepPlan, Verified
from router.engine.request import FinishReason, GenerationRequest, TokenDelta, TokenLogprobs
from router.engine.sampling import Sampled, SampleRow, sample_batch
from router.engine.scheduler import Scheduler
from router.engine.sequence import Sequence


@dataclass(slots=True, eq=False)
class _Draw:
    """What a step draws for one entry, position by position."""

    entry: StepEntry
    first_row: int  # of the logits, that of the last known token
    drawn: list[Sampled] = field(default_factory=list)
    ending: Ending | None = None
    error: GalerneError | None = None  # why there is no further token

    @property
    def goes_on(self) -> bool:
        """Whether the row behind the newest token was computed with that token."""
        draft, count = self.entry.draft, len(self.drawn)
        if self.ending is not None or self.error is not None or count > len(draft):
            return False
        return self.drawn[-1].token_id == draft[count - 1]


class Stepper:
    """Keeps what sampling needs beside the scheduler's records."""

    def __init__(
        self, scheduler: Scheduler, vocab_size: int, eos_token_id: int, draws: Draws = PLAIN
    ) -> None:
        self._scheduler = scheduler
        self._draws = draws
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
        """Logits wanted of an entry: the last known token's and all guesses'.

        All of a chunk's for prompt log probabilities.
        """
        if _is_judged(entry):
            return entry.num_tokens
        return 1 + len(entry.draft) if entry.samples else 0

    def finish_step(
        self, plan: StepPlan, logits: npt.NDArray[np.float32], deltas: list[TokenDelta]
    ) -> list[Verified]:
        """Sample, advance the scheduler, end what has ended; appends the step's deltas.

        Returns:
            The entries that sampled.
        """
        draws: list[_Draw] = []
        first = 0
        for entry in plan.entries:
            count = self.num_logits(entry)
            if _is_judged(entry):
                self._collect_prompt_logprobs(entry, logits[first : first + count])
            first += count
            if entry.samples:
                draws.append(_Draw(entry, first - 1 - len(entry.draft)))
        going = draws
        while going:
            self._draw_next(going, logits)
            going = [draw for draw in going if draw.goes_on]
        self._advance(plan, draws, deltas)
        return [Verified(draw.entry, max(0, len(draw.drawn) - 1)) for draw in draws]

    def _draw_next(self, draws: AbstractSequence[_Draw], logits: npt.NDArray[np.float32]) -> None:
        """One more token for each."""
        at = [draw.first_row + len(draw.drawn) for draw in draws]
        picked = logits if len(at) == len(logits) else logits[at]
        rows = [self._sample_row(draw) for draw in draws]
        for draw, result in zip(draws, self._sample(picked, rows), strict=True):
            if isinstance(result, Sampled):
                self._take(draw, result)
            else:
                draw.error = result

    def _take(self, draw: _Draw, sampled: Sampled) -> None:
        """Count a token as emitted: the place for state that the next position depends on."""
        sequence, token_id = draw.entry.sequence, sampled.token_id
        penalties = self._penalties.get(sequence)
        if penalties is not None:
            penalties.observe(token_id)
        guide = self._guides.get(sequence)
        if guide is not None:
            guide.advance(token_id)
        draw.ending = ending_with(
            sequence,
            token_id,
            len(draw.drawn),
            self._eos_token_id,
            is_grammar_ended=guide is not None and guide.is_ended,
        )
        draw.drawn.append(sampled)

    def _sample(
        self, logits: npt.NDArray[np.float32], rows: AbstractSequence[SampleRow | GuideError]
    ) -> list[Sampled | GalerneError]:
        """A result for each row; one whose guide has failed costs the others nothing."""
        sound = [row for row in rows if isinstance(row, SampleRow)]
        if not sound:
            return [row for row in rows if not isinstance(row, SampleRow)]
        if len(sound) < len(rows):
            logits = logits[[isinstance(row, SampleRow) for row in rows]]
        drawn = sample_batch(logits, sound, eos_token_id=self._eos_token_id, draws=self._draws)
        sampled = iter(drawn)
        return [next(sampled) if isinstance(row, SampleRow) else row for row in rows]

    def _advance(
        self, plan: StepPlan, draws: AbstractSequence[_Draw], deltas: list[TokenDelta]
    ) -> None:
        for draw in draws:
            if not draw.drawn:
                deltas.append(self.fail(draw.entry.sequence, str(draw.error)))
        tokens = [draw.drawn[-1].token_id if draw.drawn else 0 for draw in draws]
        num_accepted = [max(0, len(draw.drawn) - 1) for draw in draws]
        got = set(self._scheduler.advance(plan, tokens, num_accepted))
        for draw in draws:
            if draw.entry.sequence not in got:
                continue
            deltas.append(self._token_delta(draw))
            if draw.error is not None:
                deltas.append(self.fail(draw.entry.sequence, str(draw.error)))

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

    def _token_delta(self, draw: _Draw) -> TokenDelta:
        sequence, drawn, ending = draw.entry.sequence, draw.drawn, draw.ending
        offset = sequence.num_generated - len(drawn)
        prompt_logprobs = self._prompt_logprobs.pop(sequence, []) if offset == 0 else []
        if ending is not None:
            self._scheduler.finish(sequence, ending.reason)
            self._forget(sequence)
        return TokenDelta(
            request_id=sequence.request_id,
            choice=sequence.choice,
            offset=offset,
            token_ids=tuple(sampled.token_id for sampled in drawn),
            logprobs=tuple(s.logprobs for s in drawn if s.logprobs is not None),
            prompt_logprobs=prompt_logprobs,
            num_cached_tokens=sequence.num_cached,
            finish_reason=None if ending is None else ending.reason,
            stop_token_id=None if ending is None else ending.stop_token_id,
        )

    def _sample_row(self, draw: _Draw) -> SampleRow | GuideError:
        sequence, num_drawn = draw.entry.sequence, len(draw.drawn)
        params = sequence.request.sampling
        try:
            allowed = self._allowed(sequence)
        except GuideError as error:
            return error
        return SampleRow(
            params=params,
            choice=sequence.choice,
            position=sequence.num_tokens + num_drawn,
            num_generated=sequence.num_generated + num_drawn,
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
            of_rows = zip(logits[begin:end], next_ids, strict=True)
            collected += self._draws.judge([Judged(row, token, top) for row, token in of_rows])

    def _forget(self, sequence: Sequence) -> None:
        self._penalties.pop(sequence, None)
        self._guides.pop(sequence, None)
        self._prompt_logprobs.pop(sequence, None)


def _is_judged(entry: StepEntry) -> bool:
    """Whether the logits of all of a chunk are wanted, for log probabilities of the prompt.

    Until they have gone out with the first token; choices share the first one's.
    """
    sequence = entry.sequence
    wants = sequence.request.sampling.prompt_logprobs is not None
    is_pending = wants and sequence.choice == 0 and sequence.num_generated == 0
    return is_pending and entry.start < sequence.num_prompt
