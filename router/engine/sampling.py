"""From logits to a token.

The order of things, for every row by itself: a grammar's mask, penalties, bias and minimum length
(``penalties``); temperature; top-k, top-p, min-p (``filters``); Gumbel-max (``draw``). All in
float32 with a fixed order of operations, so a row's token is a function of its logits, parameters,
mask, history, choice and position: of no other row, no thread count and no CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from galerne.errors import GalerneError
from router.engine.draws import PLAIN, Draws, Judged, SampleRow
from router.engine.guide import Mask
from router.engine.penalties import Edits, Logits, PenaltyState, edits_of
from router.engine.request import SamplingParams, TokenLogprobs

__all__ = [
    "LogitsError",
    "SampleRow",
    "Sampled",
    "sample_batch",
    "sample_row",
]


class LogitsError(GalerneError):
    """No token can be drawn: a logit is NaN or +inf, or masks left no token."""

    def __init__(self, position: int, largest: float) -> None:
        super().__init__(position, largest)
        self.position = position
        self.largest = largest

    def __str__(self) -> str:
        return f"no token for position {self.position}: the largest logit is {self.largest}"


class Sampled(NamedTuple):
    """The token at a position, and what was asked for about it."""

    token_id: int
    logprobs: TokenLogprobs | None


def sample_row(
    logits: npt.NDArray[np.float32],
    params: SamplingParams,
    *,
    choice: int,
    position: int,
    num_generated: int,
    penalties: PenaltyState | None,
    eos_token_id: int,
    allowed: Mask | None = None,
    draws: Draws = PLAIN,
) -> Sampled:
    """Choose the token at ``position`` of one choice.

    Args:
        logits: ``[V]`` float32, as the model gave them; not changed.
        params: Sampling parameters, validated. Temperature 0 takes the largest logit.
        choice: Index of the choice among the request's ``n``.
        position: Absolute position of the token to be drawn, prompt included.
        num_generated: Tokens of this choice before it.
        penalties: State of this choice, needed if ``needs_penalties(params)``.
        eos_token_id: End of sequence, masked while ``num_generated < min_tokens``.
        allowed: ``[V]`` of what may be drawn; None: every token.
        draws: Who draws; changes no bit.

    Returns:
        The token; its log probabilities, of ``logits`` as given, if the parameters ask for them.

    Raises:
        LogitsError: A logit is NaN or +inf, or masks left no token.
        ValueError: ``penalties`` is missing although needed, or ``logits`` is not float32.
    """
    row = SampleRow(
        params=params,
        choice=choice,
        position=position,
        num_generated=num_generated,
        penalties=penalties,
        allowed=allowed,
    )
    (found,) = sample_batch(logits[None], [row], eos_token_id=eos_token_id, draws=draws)
    if isinstance(found, LogitsError):
        raise found
    return found


def sample_batch(
    logits: npt.NDArray[np.float32],
    rows: Sequence[SampleRow],
    *,
    eos_token_id: int,
    draws: Draws = PLAIN,
) -> list[Sampled | LogitsError]:
    """``sample_row`` for each row; a row that has no token gets its error, the others a token.

    Args:
        logits: ``[B, V]`` float32.
        rows: What is known of the ``B`` rows.
        eos_token_id: As for ``sample_row``.
        draws: Who draws; changes no bit.

    Raises:
        ValueError: ``rows`` has another length than ``logits``, or lacks penalties; ``logits`` is
            not float32.
    """
    if len(rows) != len(logits):
        raise ValueError(f"{len(logits)} rows of logits for {len(rows)} rows to sample")
    if logits.dtype != np.float32:
        raise ValueError(f"logits must be float32, got {logits.dtype}")
    edits = [_edits(x, row, eos_token_id) for x, row in zip(logits, rows, strict=True)]
    drawn = draws.draw(list(logits), edits, rows)
    is_sound = np.isfinite([one.largest for one in drawn])
    asked = [i for i, row in enumerate(rows) if is_sound[i] and row.params.logprobs is not None]
    judged = [Judged(logits[i], drawn[i].token_id, rows[i].params.logprobs or 0) for i in asked]
    logprobs = dict(zip(asked, draws.judge(judged), strict=True))
    return [
        Sampled(one.token_id, logprobs.get(i))
        if is_sound[i]
        else LogitsError(rows[i].position, one.largest)
        for i, one in enumerate(drawn)
    ]


def _edits(logits: Logits, row: SampleRow, eos_token_id: int) -> Edits | None:
    return edits_of(
        logits,
        row.params,
        num_generated=row.num_generated,
        penalties=row.penalties,
        eos_token_id=eos_token_id,
        allowed=row.allowed,
    )
