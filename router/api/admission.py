"""From what a client asks to a request that a gateway may run. Pure, but for the seed's draw."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from galerne.adapters import AdapterInfo
from galerne.errors import InvalidRequestError
from router.api.errors import ModelNotFoundError
from router.api.inputs import ChatCompletionInput, GenerateInput, SamplingFields
from router.chat.encode import EncodedPrompt
from router.engine.gateway_port import ModelFacts
from router.engine.request import GenerationRequest, SamplingParams
from router.engine.rules import AnswerRules
from router.engine.validate import check_prompt, check_sampling

MAX_REQUEST_ID_CHARS = 128
MAX_CACHE_SALT_CHARS = 256
MAX_PRIORITY = 2**31 - 1
MAX_TIMEOUT_S = 7 * 24 * 3600.0
_SEED_BITS = 63


def draw_seed() -> int:
    """A seed for a request that came without one: 63 bits of chance."""
    return secrets.randbits(_SEED_BITS)


def find_adapter(name: str, model: ModelFacts, adapters: Sequence[AdapterInfo]) -> str:
    """Id of the adapter that a model's name means; empty: the served model itself.

    Raises:
        ModelNotFoundError: Neither has this name.
    """
    if not name or name == model.name:
        return ""
    for info in adapters:
        if info.name == name:
            return info.id
    raise ModelNotFoundError("model", f"{name[:200]!r} is not served here, {model.name!r} is")


def fill_sampling(
    fields: SamplingFields,
    *,
    prompt_len: int,
    max_model_len: int,
    default_max_tokens: int | None = None,
    prompt_field: str = "prompt",
    new_seed: Callable[[], int] = draw_seed,
) -> SamplingParams:
    """Parameters with every default filled in.

    Args:
        fields: What the client set.
        prompt_len: Tokens of the prompt.
        max_model_len: Most tokens of prompt and output together.
        default_max_tokens: For a request without; at most what the model's length leaves.
        prompt_field: Name of the prompt in the request.
        new_seed: Draws a missing seed.

    Raises:
        InvalidRequestError: The prompt fills the model's length; names ``prompt_field``.
    """
    num_left = max_model_len - prompt_len
    if num_left < 1:
        problem = f"{prompt_len} tokens leave no room in the model's {max_model_len}"
        raise InvalidRequestError(prompt_field, problem)
    filled: SamplingFields = {**fields}
    if "max_tokens" not in filled:
        filled["max_tokens"] = min(default_max_tokens or num_left, num_left)
    if "seed" not in filled:
        filled["seed"] = new_seed()
    if filled.get("top_k") == -1:
        filled["top_k"] = 0
    return SamplingParams(**filled)


def admit(
    call: GenerateInput | ChatCompletionInput,
    prompt: EncodedPrompt,
    model: ModelFacts,
    rules: AnswerRules | None = None,
    adapter: str = "",
) -> GenerationRequest:
    """The request as it goes to a gateway; its answers follow ``rules``; ``adapter`` is an id.

    Raises:
        InvalidRequestError: A field is outside what is allowed; names it.
    """
    check_prompt(prompt.token_ids, model.vocab_size)
    prompt_len = len(prompt.token_ids)
    sampling = fill_sampling(
        call.sampling,
        prompt_len=prompt_len,
        max_model_len=model.max_model_len,
        default_max_tokens=call.default_max_tokens if isinstance(call, GenerateInput) else None,
        prompt_field="prompt" if isinstance(call, GenerateInput) else "messages",
    )
    check_sampling(
        sampling,
        vocab_size=model.vocab_size,
        max_model_len=model.max_model_len,
        prompt_len=prompt_len,
    )
    _check_text("cache_salt", call.cache_salt, 0, MAX_CACHE_SALT_CHARS)
    if not -MAX_PRIORITY <= call.priority <= MAX_PRIORITY:
        problem = f"must be in [{-MAX_PRIORITY}, {MAX_PRIORITY}], got {call.priority}"
        raise InvalidRequestError("priority", problem)
    return GenerationRequest(
        request_id=_request_id(call.request_id),
        prompt_token_ids=prompt.token_ids,
        sampling=sampling,
        images=prompt.images,
        cache_salt=call.cache_salt,
        rules=rules,
        adapter=adapter,
        priority=call.priority,
    )


def timeout_of(call: GenerateInput | ChatCompletionInput, default_s: float | None) -> float | None:
    """Seconds that a request may take; None: no limit.

    Raises:
        InvalidRequestError: It asks for none, or for too many.
    """
    if call.timeout_s is None:
        return default_s
    if not 0 < call.timeout_s <= MAX_TIMEOUT_S:
        problem = f"must be above 0 and at most {MAX_TIMEOUT_S:g} seconds, got {call.timeout_s}"
        raise InvalidRequestError("timeout", problem)
    return call.timeout_s


def _request_id(given: str | None) -> str:
    if given is None:
        return secrets.token_hex(16)
    _check_text("request_id", given, 1, MAX_REQUEST_ID_CHARS)
    return given


def _check_text(field: str, text: str, at_least: int, at_most: int) -> None:
    if not at_least <= len(text) <= at_most:
        problem = f"must have {at_least} to {at_most} characters, got {len(text)}"
        raise InvalidRequestError(field, problem)
    if not text.isprintable():
        raise InvalidRequestError(field, "must hold printable characters only")
