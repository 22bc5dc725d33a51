"""Grammars over the embedded tokenizer, and random models that follow them."""

from functools import cache

import numpy as np

from helpers.api_servers import embedded
from router.chat.encode import ChatFormat, ChatInput
from router.engine.guide import Guide
from router.engine.request import SamplingParams
from router.engine.rules import AnswerRules
from router.engine.sampling import sample_row
from router.guidance.compiler import GrammarCompiler
from router.guidance.vocabulary import build_vocabulary

THINK, END_THINK, CALLS, ARGS, EOS = 34, 35, 9, 32, 2
NUM_LOGITS = 8192 + 8  # some models have more rows than their tokenizers have ids


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 10},
        "size": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
    },
    "required": ["name", "size"],
    "additionalProperties": False,
}


@cache
def compiler():
    return GrammarCompiler(lambda: build_vocabulary(embedded(), NUM_LOGITS))


def guide_of(grammar="", **rules):
    matcher = compiler().matcher(grammar) if grammar else None
    rules = AnswerRules(grammar=grammar, **rules)
    return Guide(rules, compiler().vocabulary.marks, matcher)


def follows(grammar, token_ids):
    """Whether an answer of these ids, with its end, is one of the grammar."""
    guide = guide_of(grammar)
    for token_id in [*token_ids, EOS]:
        if not guide.allowed()[token_id]:
            return False
        guide.advance(token_id)
    return guide.is_ended


def text_follows(grammar, text):
    return follows(grammar, embedded().encode_text(text, add_bos=False))


def babble(guide, seed, max_tokens=600, temperature=3.0, **sampling):
    """What a model of random logits says under a guide, with the end token if it comes to it."""
    rng = np.random.default_rng(seed)
    params = SamplingParams(temperature=temperature, seed=seed, **sampling)
    said = []
    while len(said) < max_tokens and not guide.is_ended:
        drawn = sample_row(
            rng.standard_normal(NUM_LOGITS, dtype=np.float32),
            params,
            choice=0,
            position=len(said),
            num_generated=len(said),
            penalties=None,
            eos_token_id=EOS,
            allowed=guide.allowed(),
        )
        guide.advance(drawn.token_id)
        said.append(drawn.token_id)
    return said


def text_of(token_ids):
    return embedded().decode(token_ids)


def chat_ids(effort):
    chat = ChatInput(messages=[{"role": "user", "content": "Hello"}], reasoning_effort=effort)
    return ChatFormat(embedded()).encode(chat).token_ids
