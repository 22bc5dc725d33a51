"""What is computed over whole vocabularies: drawing tokens, and log probabilities.

``Draws`` is the port, ``PlainDraws`` the definition in numpy; ``native_draws`` gives the same bits
some ten times as fast. With 131,072 tokens a row costs numpy 0.5 to 1 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import numpy as np

from router.engine.draw import draw_token
from router.engine.filters import kept_ids
from router.engine.guide import Mask
from router.engine.logprobs import token_logprobs
from router.engine.penalties import Edits, Logits, PenaltyState
from router.engine.request import SamplingParams, TokenLogprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRow:
    """What the sampler knows of one row of a batch besides its logits."""

    params: SamplingParams
    choice: int
    position: int  # absolute, of the token to be drawn
    num_generated: int  # tokens of this choice before it
    penalties: PenaltyState | None = None  # needed if needs_penalties(params)
    allowed: Mask | None = None  # [V]; None: every token


class Drawn(NamedTuple):
    """The token of a row; any if ``largest`` is not finite."""

    token_id: int
    largest: float  # logit, also if it was masked; NaN if one is; -inf if all are masked


class Judged(NamedTuple):
    """A row of logits whose log probabilities are wanted."""

    logits: Logits  # [V], before penalties and temperature, the largest finite
    token_id: int
    top: int  # how many alternatives, 0 for none


class Draws(Protocol):
    """Rows are independent of each other."""

    def draw(
        self, logits: Sequence[Logits], edits: Sequence[Edits | None], rows: Sequence[SampleRow]
    ) -> list[Drawn]:
        """A token for each of ``B`` rows ``[V]`` with its edits.

        Temperature 0 takes the largest logit, the lowest id of equal ones.
        """
        ...

    def judge(self, rows: Sequence[Judged]) -> list[TokenLogprobs]:
        """``token_logprobs`` of each."""
        ...


class PlainDraws:
    """Implements ``Draws`` row by row."""

    def draw(
        self, logits: Sequence[Logits], edits: Sequence[Edits | None], rows: Sequence[SampleRow]
    ) -> list[Drawn]:
        """See ``Draws``."""
        return [_draw(*of_row) for of_row in zip(logits, edits, rows, strict=True)]

    def judge(self, rows: Sequence[Judged]) -> list[TokenLogprobs]:
        """See ``Draws``."""
        return [token_logprobs(*row) for row in rows]


PLAIN: Final = PlainDraws()


def _draw(given: Logits, edits: Edits | None, row: SampleRow) -> Drawn:
    logits = given if edits is None else edits.on(given)
    token = int(np.argmax(logits))  # the first NaN if there is one
    best = logits[token]
    largest = best if edits is None or not np.isfinite(best) else given.max()
    temperature = np.float32(row.params.temperature)
    if temperature > 0 and np.isfinite(largest):
        with np.errstate(over="ignore"):  # a lost cause may become -inf
            scores = (logits - best) / temperature
        token = _from_scores(scores, row)
    return Drawn(token, float(largest))


def _from_scores(scores: Logits, row: SampleRow) -> int:
    ids = kept_ids(scores, row.params)
    token_ids = range(scores.size) if ids is None else ids
    kept = scores if ids is None else scores[ids]
    seed, choice = row.params.seed, row.choice
    return draw_token(kept, token_ids, seed=seed, choice=choice, position=row.position)
