"""Log probabilities in OpenAI's shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from router.chat.detokenize import IncrementalDetokenizer
from router.chat.tokenizer import Tokenizer
from router.engine.request import TokenLogprob, TokenLogprobs

_LEAST = -9999.0  # stands for minus infinity, which JSON has not; OpenAI's number


def chat_logprobs(tokenizer: Tokenizer, positions: Sequence[TokenLogprobs]) -> dict[str, Any]:
    """``logprobs`` of a chat's choice: one entry per token, special ones included."""

    def entry(token: TokenLogprob) -> dict[str, Any]:
        data = tokenizer.token_bytes(token.token_id, keep_special=True)
        text = data.decode("utf-8", errors="replace")
        return {"token": text, "logprob": _finite(token.logprob), "bytes": list(data)}

    content = [{**entry(p.chosen), "top_logprobs": [entry(t) for t in p.top]} for p in positions]
    return {"content": content, "refusal": None}


def prompt_logprobs(
    tokenizer: Tokenizer, positions: Sequence[TokenLogprobs | None]
) -> list[dict[str, Any] | None]:
    """vLLM's ``prompt_logprobs``: nothing for the first token, then token id -> its entry."""

    def entries(position: TokenLogprobs) -> dict[str, Any]:
        return {
            str(token.token_id): {
                "logprob": _finite(token.logprob),
                "decoded_token": token_text(tokenizer, token.token_id),
            }
            for token in (position.chosen, *position.top)
        }

    return [None, *(None if p is None else entries(p) for p in positions)]


class CompletionLogprobs:
    """``logprobs`` of a completion, piece by piece; offsets count characters of its text."""

    def __init__(self, tokenizer: Tokenizer, *, has_top: bool, start: int = 0) -> None:
        """``start``: characters of an echoed prompt that no ``add`` has seen."""
        self._tokenizer = tokenizer
        self._has_top = has_top
        self._offset = start
        self._detokenizer = IncrementalDetokenizer(tokenizer)

    def add(
        self, token_ids: Sequence[int], positions: Sequence[TokenLogprobs | None]
    ) -> dict[str, Any]:
        """``logprobs`` of the next tokens; None for a token that nothing precedes."""
        offsets = []
        for token_id in token_ids:
            offsets.append(self._offset)
            self._offset += len(self._detokenizer.push((token_id,)))
        return {
            "tokens": [token_text(self._tokenizer, token_id) for token_id in token_ids],
            "token_logprobs": [None if p is None else _finite(p.chosen.logprob) for p in positions],
            "top_logprobs": [self._top(p) for p in positions] if self._has_top else None,
            "text_offset": offsets,
        }

    def _top(self, position: TokenLogprobs | None) -> dict[str, float] | None:
        if position is None:
            return None
        tokens = (*position.top, position.chosen)
        return {token_text(self._tokenizer, t.token_id): _finite(t.logprob) for t in tokens}


def token_text(tokenizer: Tokenizer, token_id: int) -> str:
    """Text of a token; part of a character as OpenAI writes it, so that no two are the same."""
    data = tokenizer.token_bytes(token_id, keep_special=True)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _finite(logprob: float) -> float:
    return max(float(logprob), _LEAST)
