"""From logits to a token.

The order of things, for every row by itself: a grammar's mask, penalties, bias and minimum length
(``penalties``); temperature; top-k, top-p, min-p (``filters``); Gumbel-max (``draw``). All in
float32 with a fixed order of operations, so a row's token is a function of its logits, parameters,
mask, history, choice and position: of no other row, no thread count and no CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from galerne.errors import GalerneError
from router.engine.draw import draw_token
from router.engine.filters import kept_ids
from router.engine.guide import Mask
from router.engine.logprobs import prompt_logprobs_rows, token_logprobs
from router.engine.penalties import PenaltyState, adjust_logits, needs_penalties
from router.engine.request import SamplingParams, TokenLogprobs

__all__ = [
    "LogitsError",
    "PenaltyState",
    "SampleRow",
    "Sampled",
    "needs_penalties",
    "prompt_logprobs_rows",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRow:
    """What the sampler knows of one row of a batch besides its logits."""

    params: SamplingParams
    choice: int
    position: int  # absolute, of the token to be drawn
    num_generated: int  # tokens of this choice before it
    penalties: PenaltyState | None = None  # needed if needs_penalties(params)
    allowed: Mask | None = None  # [V]; None: every token


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

    Returns:
        The token; its log probabilities, of ``logits`` as given, if the parameters ask for them.

    Raises:
        LogitsError: A logit is NaN or +inf, or masks left no token.
        ValueError: ``penalties`` is missing although needed, or ``logits`` is not float32.
    """
    if logits.dtype != np.float32:
        raise ValueError(f"logits must be float32, got {logits.dtype}")
    adjusted = adjust_logits(
        logits,
        params,
        num_generated=num_generated,
        penalties=penalties,
        eos_token_id=eos_token_id,
        allowed=allowed,
    )
    token = int(np.argmax(adjusted))  # the lowest id of equal ones; the first NaN if there is one
    _require_finite(adjusted[token], position)
    if adjusted is not logits:
        _require_finite(logits.max(), position)  # a mask may have hidden it
    temperature = np.float32(params.temperature)
    if temperature > 0:
        with np.errstate(over="ignore"):  # a lost cause may become -inf
            scores = (adjusted - adjusted[token]) / temperature
        token = _draw(scores, params, choice, position)
    return _with_logprobs(logits, token, params)


def _draw(
    scores: npt.NDArray[np.float32], params: SamplingParams, choice: int, position: int
) -> int:
    ids = kept_ids(scores, params)
    token_ids = range(scores.size) if ids is None else ids
    kept = scores if ids is None else scores[ids]
    return draw_token(kept, token_ids, seed=params.seed, choice=choice, position=position)


def sample_batch(
    logits: npt.NDArray[np.float32], rows: Sequence[SampleRow], *, eos_token_id: int
) -> list[Sampled | LogitsError]:
    """``sample_row`` for each row; a row that has no token gets its error, the others a token.

    Args:
        logits: ``[B, V]`` float32.
        rows: What is known of the ``B`` rows.
        eos_token_id: As for ``sample_row``.

    Raises:
        ValueError: ``rows`` has another length than ``logits``, or lacks penalties.
    """
    if len(rows) != len(logits):
        raise ValueError(f"{len(logits)} rows of logits for {len(rows)} rows to sample")
    if rows and all(_is_plain_greedy(row) for row in rows):
        best = logits.argmax(axis=1)
        return [_greedy(x, int(b), row) for x, b, row in zip(logits, best, rows, strict=True)]
    return [_sample(x, row, eos_token_id) for x, row in zip(logits, rows, strict=True)]


def _is_plain_greedy(row: SampleRow) -> bool:
    params = row.params
    return (
        params.temperature == 0
        and not needs_penalties(params)
        and not params.logit_bias
        and row.num_generated >= params.min_tokens
        and row.allowed is None
    )


def _greedy(logits: npt.NDArray[np.float32], best: int, row: SampleRow) -> Sampled | LogitsError:
    try:
        _require_finite(logits[best], row.position)
    except LogitsError as error:
        return error
    return _with_logprobs(logits, best, row.params)


def _sample(
    logits: npt.NDArray[np.float32], row: SampleRow, eos_token_id: int
) -> Sampled | LogitsError:
    try:
        return sample_row(
            logits,
            row.params,
            choice=row.choice,
            position=row.position,
            num_generated=row.num_generated,
            penalties=row.penalties,
            eos_token_id=eos_token_id,
            allowed=row.allowed,
        )
    except LogitsError as error:
        return error


def _require_finite(largest: np.float32, position: int) -> None:
    if not np.isfinite(largest):
        raise LogitsError(position, float(largest))


def _with_logprobs(
    logits: npt.NDArray[np.float32], token_id: int, params: SamplingParams
) -> Sampled:
    if params.logprobs is None:
        return Sampled(token_id, None)
    return Sampled(token_id, token_logprobs(logits, token_id, params.logprobs))
