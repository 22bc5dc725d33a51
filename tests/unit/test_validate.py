from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galerne.errors import InvalidRequestError
from router.engine.request import SamplingParams
from router.engine.validate import check_prompt, check_sampling

VOCAB = 1000
NAN, INF = float("nan"), float("inf")


def check(*, prompt_len: int = 10, max_model_len: int = 4096, **fields) -> None:
    params = SamplingParams(**fields)
    check_sampling(params, vocab_size=VOCAB, max_model_len=max_model_len, prompt_len=prompt_len)


ACCEPTED = [
    {},
    {"temperature": 0.0},
    {"temperature": 10.0},
    {"top_p": 1e-6},
    {"top_k": 10**6},
    {"min_p": 1.0},
    {"presence_penalty": -2.0, "frequency_penalty": 2.0},
    {"repetition_penalty": 10.0},
    {"repetition_penalty": 0.01},
    {"logit_bias": {i: 100.0 for i in range(300)}},
    {"logit_bias": {VOCAB - 1: -100.0}},
    {"max_tokens": 5, "min_tokens": 5},
    {"max_tokens": 4086},
    {"stop": tuple("x" * 256 for _ in range(16))},
    {"stop_token_ids": tuple(range(64))},
    {"n": 16},
    {"logprobs": 0, "prompt_logprobs": 20},
    {"seed": -(2**63)},
    {"seed": 2**63 - 1},
]

REFUSED = [
    ({"temperature": -0.1}, "temperature", "[0, 10], got -0.1"),
    ({"temperature": 10.1}, "temperature", "[0, 10]"),
    ({"temperature": NAN}, "temperature", "got nan"),
    ({"temperature": INF}, "temperature", "got inf"),
    ({"top_p": 0.0}, "top_p", "(0, 1], got 0.0"),
    ({"top_p": 1.01}, "top_p", "(0, 1]"),
    ({"top_p": NAN}, "top_p", "(0, 1]"),
    ({"top_k": -1}, "top_k", "at least 0"),
    ({"top_k": 2**31}, "top_k", "[0, 2147483647], got 2147483648"),
    ({"min_p": -0.1}, "min_p", "[0, 1]"),
    ({"min_p": 1.1}, "min_p", "[0, 1]"),
    ({"presence_penalty": 2.1}, "presence_penalty", "[-2, 2]"),
    ({"frequency_penalty": -2.1}, "frequency_penalty", "[-2, 2]"),
    ({"repetition_penalty": 0.0}, "repetition_penalty", "[0.01, 10]"),
    ({"repetition_penalty": 10.5}, "repetition_penalty", "[0.01, 10]"),
    ({"logit_bias": {VOCAB: 1.0}}, "logit_bias", "[0, 999] as a token id, got 1000"),
    ({"logit_bias": {-1: 1.0}}, "logit_bias", "[0, 999]"),
    ({"logit_bias": {5: 100.5}}, "logit_bias[5]", "[-100, 100]"),
    ({"logit_bias": {5: NAN}}, "logit_bias[5]", "[-100, 100]"),
    ({"logit_bias": dict.fromkeys(range(301), 0.0)}, "logit_bias", "[0, 300] entries, got 301"),
    ({"max_tokens": 0}, "max_tokens", "at least 1, got 0"),
    ({"min_tokens": -1}, "min_tokens", "[0, 16]"),
    ({"min_tokens": 17}, "min_tokens", "[0, 16] (max_tokens), got 17"),
    ({"max_tokens": 4087}, "max_tokens", "prompt of 10 tokens and max_tokens 4087 are 4097"),
    ({"max_tokens": 4087}, "max_tokens", "above the model's 4096"),
    ({"stop": ("x",) * 17}, "stop", "[0, 16] strings, got 17"),
    ({"stop": ("x", "")}, "stop[1]", "[1, 256] characters, got 0"),
    ({"stop": ("x" * 257,)}, "stop[0]", "[1, 256] characters, got 257"),
    ({"stop_token_ids": (1, VOCAB)}, "stop_token_ids[1]", "[0, 999]"),
    ({"stop_token_ids": tuple(range(65))}, "stop_token_ids", "[0, 64] entries, got 65"),
    ({"n": 0}, "n", "[1, 16]"),
    ({"n": 17}, "n", "[1, 16]"),
    ({"logprobs": 21}, "logprobs", "[0, 20]"),
    ({"logprobs": -1}, "logprobs", "[0, 20]"),
    ({"prompt_logprobs": 21}, "prompt_logprobs", "[0, 20]"),
    ({"seed": 2**63}, "seed", "got 9223372036854775808"),
    ({"seed": -(2**63) - 1}, "seed", "got -9223372036854775809"),
]


@pytest.mark.parametrize("fields", ACCEPTED, ids=str)
def test_parameters_at_their_limits_are_accepted(fields):
    check(**fields)


@pytest.mark.parametrize(("fields", "field", "problem"), REFUSED)
def test_parameters_beyond_their_limits_are_refused_by_field_and_limit(fields, field, problem):
    with pytest.raises(InvalidRequestError, match=re.escape(problem)) as caught:
        check(**fields)
    assert caught.value.field == field


def test_an_empty_prompt_is_refused():
    with pytest.raises(InvalidRequestError) as caught:
        check(prompt_len=0)
    assert caught.value.field == "prompt"
    with pytest.raises(InvalidRequestError, match="prompt: must hold at least 1 token"):
        check_prompt([], VOCAB)


@given(st.lists(st.integers(0, VOCAB - 1), min_size=1), st.sampled_from([-1, VOCAB]), st.data())
def test_a_prompt_is_refused_at_its_first_token_outside_the_vocabulary(tokens, bad, data):
    check_prompt(tokens, VOCAB)
    position = data.draw(st.integers(0, len(tokens)))
    damaged = [*tokens[:position], bad, *tokens[position:], bad]
    with pytest.raises(InvalidRequestError, match=f"got {bad}$") as caught:
        check_prompt(damaged, VOCAB)
    assert caught.value.field == f"prompt[{position}]"


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 5000))
def test_prompt_and_output_must_fit_the_model_together(prompt_len, max_tokens, max_model_len):
    lengths = {
        "prompt_len": prompt_len,
        "max_tokens": max_tokens,
        "max_model_len": max_model_len,
    }
    if prompt_len + max_tokens <= max_model_len:
        check(**lengths)
        return
    with pytest.raises(InvalidRequestError) as caught:
        check(**lengths)
    assert all(str(number) in caught.value.problem for number in lengths.values())
