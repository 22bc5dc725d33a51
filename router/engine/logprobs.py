"""Log probabilities as the API reports them: of the model's own logits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from router.engine.filters import ranked
from router.engine.fixed_math import fixed_exp, fixed_log, fixed_sum
from router.engine.request import TokenLogprob, TokenLogprobs


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Log probabilities ``[V]`` float32 of logits ``[V]`` float32, the largest finite."""
    with np.errstate(over="ignore"):  # further down than float32 reaches is -inf
        shifted: npt.NDArray[np.float32] = logits - logits.max()
    total = fixed_sum(fixed_exp(shifted))
    shifted -= np.float32(fixed_log(np.array([total], dtype=np.float64))[0])
    return shifted


def token_logprobs(logits: npt.NDArray[np.float32], token_id: int, top: int) -> TokenLogprobs:
    """Log probability of ``token_id`` and the ``top`` best, by (-logprob, id).

    Args:
        logits: ``[V]`` float32, before penalties and temperature, the largest finite.
        token_id: The chosen token.
        top: How many alternatives, 0 for none.
    """
    values = log_softmax(logits)
    best = ranked(values, np.arange(values.size), limit=top) if top else ()
    return TokenLogprobs(
        chosen=TokenLogprob(token_id, float(values[token_id])),
        top=tuple(TokenLogprob(int(i), float(values[i])) for i in best),
    )
