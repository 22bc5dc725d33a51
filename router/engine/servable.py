"""Whether a request can ever be served: a pure check at the queue's door."""

from __future__ import annotations

from galerne.errors import InvalidRequestError
from router.engine.request import GenerationRequest
from router.engine.scheduler_config import SchedulerConfig


def check_servable(request: GenerationRequest, config: SchedulerConfig, num_blocks: int) -> int:
    """The most tokens that a choice of the request may reach, prompt included.

    Args:
        request: As admitted by the frontend.
        config: Limits of the scheduler.
        num_blocks: Usable blocks of the KV cache.

    Raises:
        InvalidRequestError: It can never run here; names the field.
    """
    num_prompt = len(request.prompt_token_ids)
    if not 1 <= request.sampling.n <= config.max_waiting:
        raise InvalidRequestError("n", f"must be in [1, {config.max_waiting}]")
    if not 1 <= num_prompt < config.max_model_len:
        allowed = f"[1, {config.max_model_len - 1}]"
        raise InvalidRequestError(
            "prompt_token_ids", f"must have a length in {allowed}, not {num_prompt}"
        )
    room = num_blocks * config.block_size
    if num_prompt > room:
        problem = f"{num_prompt} tokens, but the KV cache holds {room}"
        raise InvalidRequestError("prompt_token_ids", problem)
    max_num_tokens = min(num_prompt + request.sampling.max_tokens, config.max_model_len)
    if max_num_tokens - 1 > room:  # the last token is sampled but never computed
        problem = f"at most {room + 1 - num_prompt} beside this prompt in the KV cache"
        raise InvalidRequestError("max_tokens", problem)
    return max_num_tokens
