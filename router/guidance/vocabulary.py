"""The tokens of a model, as grammars see them."""

from __future__ import annotations

from dataclasses import dataclass

import llguidance
import numpy as np
from mistral_common.guidance.tokenizer import from_mistral_tokenizer

from router.chat.tokenizer import Tokenizer
from router.engine.guide import Marks


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer's tokens, and how many logits the model gives for them."""

    tokens: llguidance.LLTokenizer
    marks: Marks


def build_vocabulary(tokenizer: Tokenizer, num_logits: int) -> Vocabulary:
    """Takes a moment for a large tokenizer: not for a thread that others wait for.

    Logits beyond the tokenizer's ids stand for no text, so no grammar allows them.
    """
    special = tokenizer.special
    is_text = np.zeros(num_logits, dtype=np.bool_)
    for token_id in range(min(num_logits, tokenizer.vocab_size)):
        is_text[token_id] = not tokenizer.is_special(token_id)
    marks = Marks(
        begin_think=special.begin_think,
        end_think=special.end_think,
        tool_calls=special.tool_calls,
        eos=tokenizer.eos_id,
        is_text=is_text,
    )
    return Vocabulary(from_mistral_tokenizer(tokenizer.mistral), marks)
