"""What a request may ask for. Every refusal names the field, its value and the limit."""

from __future__ import annotations

from collections.abc import Sequence

from galerne.errors import InvalidRequestError
from router.engine.request import SamplingParams

MAX_TEMPERATURE = 10.0
MAX_TOP_K = 2**31 - 1  # of the messages to gateways
MAX_PENALTY = 2.0
MIN_REPETITION_PENALTY = 0.01  # a logit over much less is beyond float32
MAX_REPETITION_PENALTY = 10.0
MAX_LOGIT_BIAS = 100.0
MAX_NUM_LOGIT_BIAS = 300
MAX_NUM_STOP = 16
MAX_STOP_CHARS = 256
MAX_NUM_STOP_TOKEN_IDS = 64
MAX_N = 16
MAX_LOGPROBS = 20
_MAX_SEED = 2**63 - 1


def check_prompt(token_ids: Sequence[int], vocab_size: int) -> None:
    """Refuse an empty prompt and ids outside ``[0, vocab_size)``.

    Raises:
        InvalidRequestError: Names ``prompt`` and the first bad position.
    """
    if not token_ids:
        raise InvalidRequestError("prompt", "must hold at least 1 token, got 0")
    if min(token_ids) >= 0 and max(token_ids) < vocab_size:
        return
    position = next(i for i, token in enumerate(token_ids) if not 0 <= token < vocab_size)
    raise InvalidRequestError(
        f"prompt[{position}]", f"must be in [0, {vocab_size - 1}], got {token_ids[position]}"
    )


def check_sampling(
    params: SamplingParams, *, vocab_size: int, max_model_len: int, prompt_len: int
) -> None:
    """Refuse parameters that the engine does not serve.

    Args:
        params: As the API filled them in; ``top_k`` -1 must have become 0 there.
        vocab_size: Token ids are below it.
        max_model_len: Most tokens of prompt and output together.
        prompt_len: Tokens of the prompt.

    Raises:
        InvalidRequestError: Names the first field that is wrong, its value and its limit.
    """
    _check_distribution(params)
    _check_logit_bias(params, vocab_size)
    _check_length(params, max_model_len, prompt_len)
    _check_stop(params, vocab_size)
    _check_range("n", params.n, 1, MAX_N)
    for field in ("logprobs", "prompt_logprobs"):
        value = getattr(params, field)
        if value is not None:
            _check_range(field, value, 0, MAX_LOGPROBS)
    _check_range("seed", params.seed, -_MAX_SEED - 1, _MAX_SEED)


def _check_distribution(params: SamplingParams) -> None:
    _check_range("temperature", params.temperature, 0, MAX_TEMPERATURE)
    _check_range("top_p", params.top_p, 0, 1, above=True)
    if params.top_k < 0:
        raise InvalidRequestError("top_k", f"must be at least 0 (0 keeps all), got {params.top_k}")
    _check_range("top_k", params.top_k, 0, MAX_TOP_K)
    _check_range("min_p", params.min_p, 0, 1)
    _check_range("presence_penalty", params.presence_penalty, -MAX_PENALTY, MAX_PENALTY)
    _check_range("frequency_penalty", params.frequency_penalty, -MAX_PENALTY, MAX_PENALTY)
    repetition = params.repetition_penalty
    _check_range("repetition_penalty", repetition, MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY)


def _check_logit_bias(params: SamplingParams, vocab_size: int) -> None:
    _check_range("logit_bias", len(params.logit_bias), 0, MAX_NUM_LOGIT_BIAS, unit=" entries")
    for token, bias in params.logit_bias.items():
        _check_range("logit_bias", token, 0, vocab_size - 1, unit=" as a token id")
        _check_range(f"logit_bias[{token}]", bias, -MAX_LOGIT_BIAS, MAX_LOGIT_BIAS)


def _check_length(params: SamplingParams, max_model_len: int, prompt_len: int) -> None:
    if prompt_len < 1:
        raise InvalidRequestError("prompt", f"must hold at least 1 token, got {prompt_len}")
    if params.max_tokens < 1:
        raise InvalidRequestError("max_tokens", f"must be at least 1, got {params.max_tokens}")
    _check_range("min_tokens", params.min_tokens, 0, params.max_tokens, unit=" (max_tokens)")
    if prompt_len + params.max_tokens > max_model_len:
        raise InvalidRequestError(
            "max_tokens",
            f"prompt of {prompt_len} tokens and max_tokens {params.max_tokens} are "
            f"{prompt_len + params.max_tokens}, above the model's {max_model_len}",
        )


def _check_stop(params: SamplingParams, vocab_size: int) -> None:
    _check_range("stop", len(params.stop), 0, MAX_NUM_STOP, unit=" strings")
    for index, text in enumerate(params.stop):
        _check_range(f"stop[{index}]", len(text), 1, MAX_STOP_CHARS, unit=" characters")
    count = len(params.stop_token_ids)
    _check_range("stop_token_ids", count, 0, MAX_NUM_STOP_TOKEN_IDS, unit=" entries")
    for index, token in enumerate(params.stop_token_ids):
        _check_range(f"stop_token_ids[{index}]", token, 0, vocab_size - 1)


def _check_range(
    field: str, value: float, low: float, high: float, *, above: bool = False, unit: str = ""
) -> None:
    """Refuse NaN and what is outside [low, high], or (low, high] if ``above``."""
    if low <= value <= high and not (above and value == low):
        return
    bracket = "(" if above else "["
    limits = f"{bracket}{_number(low)}, {_number(high)}]{unit}"
    raise InvalidRequestError(field, f"must be in {limits}, got {value}")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)
