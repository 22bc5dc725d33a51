"""What is needed beside a request to make its answer of tokens, here or at another frontend."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from router.api.chat_choice import ChatChoice
from router.api.choices import Choice, TextChoice
from router.chat.call_id import derived_call_id, new_call_id
from router.chat.tokenizer import Tokenizer
from router.engine.request import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFacts:
    """How tokens become an answer; the parameters of sampling come on top."""

    api: str  # generate or chat
    has_tools: bool = False
    starts_in_reasoning: bool = False
    call_id_key: str = ""  # tool calls get the same ids from it every time; empty: drawn
    page: Mapping[str, Any] = field(default_factory=dict)  # see ``Resumable``

    def encode(self) -> bytes:
        """As a gateway keeps them."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, context: bytes) -> AnswerFacts:
        """The facts as they were."""
        return cls(**json.loads(context))

    def new_choices(self, sampling: SamplingParams, tokenizer: Tokenizer) -> list[Choice]:
        """The request's answers, before their first tokens."""
        if self.api == "generate":
            return [TextChoice(i, sampling, tokenizer) for i in range(sampling.n)]
        return [
            ChatChoice(
                i,
                sampling,
                tokenizer,
                has_tools=self.has_tools,
                starts_in_reasoning=self.starts_in_reasoning,
                call_id=self._call_id(i),
            )
            for i in range(sampling.n)
        ]

    def _call_id(self, choice: int) -> Callable[[int], str]:
        if not self.call_id_key:
            return lambda _index: new_call_id()
        return partial(derived_call_id, self.call_id_key, choice)
