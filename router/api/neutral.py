"""Fields that clients send and that are not served: harmless values pass, others are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from galerne.errors import InvalidRequestError

# Notes to the operator: they change no answer, so any value passes.
_NOTES = frozenset(
    {
        "user",
        "metadata",
        "store",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
    }
)
# Values under which a field asks for what happens anyway; null always does.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "service_tier": ("auto", "default"),
    "verbosity": ("medium",),
    "safe_prompt": (False,),  # Mistral's, like the next
    "prompt_mode": (),
    "modalities": (["text"],),
    "function_call": ("auto", "none"),
    "functions": ([],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "use_beam_search": (False,),
    "length_penalty": (1.0,),
    "early_stopping": (False,),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True, False),  # none are sent
    "truncate_prompt_tokens": (),
    "allowed_token_ids": (),
    "bad_words": ([],),
    "add_generation_prompt": (True,),
    "add_special_tokens": (True,),
    "echo": (False,),
    "include_reasoning": (True,),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "documents": ([],),
    "best_of": (),  # as many as n, see below
}


def check_unsupported(extra: Mapping[str, Any], num_choices: int) -> None:
    """Refuse what asks for something that would not happen.

    Args:
        extra: Fields of a body that its schema does not have.
        num_choices: The body's ``n``.

    Raises:
        InvalidRequestError: Names the first such field.
    """
    for field, value in extra.items():
        if value is None or field in _NOTES:
            continue
        if field == "best_of" and value == num_choices:
            continue
        if field not in _NEUTRAL:
            raise InvalidRequestError(field[:100], "is not a known field")
        if not any(_is_same(value, neutral) for neutral in _NEUTRAL[field]):
            raise InvalidRequestError(field, "is not supported with this value")


def _is_same(value: object, neutral: object) -> bool:
    """Equal, where 1 is not true."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)
