"""Requests and deltas survive the wire; the choice of a gateway is stable and level."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from galerne.ids import GatewayId
from router.engine.gateway_port import ModelFacts
from router.engine.request import (
    FinishReason,
    GenerationRequest,
    Hold,
    ImageInput,
    ResumedChoice,
    SamplingParams,
    TokenDelta,
    TokenLogprob,
    TokenLogprobs,
)
from router.engine.rules import AnswerRules, GrammarStart
from router.gateway.choose import SLACK, choose_gateway
from router.gateway.codec import (
    decode_delta,
    decode_facts,
    decode_request,
    encode_delta,
    encode_facts,
    encode_request,
)

floats = st.floats(-2, 2, width=32)
ids = st.integers(0, 131_071)
params = st.builds(
    SamplingParams,
    temperature=st.floats(0, 10, width=32),
    top_p=st.floats(0.125, 1, width=32),
    top_k=st.integers(0, 1000),
    presence_penalty=floats,
    seed=st.integers(-(2**63), 2**63 - 1),
    logit_bias=st.dictionaries(ids, floats, max_size=3),
    max_tokens=st.integers(1, 1000),
    stop=st.lists(st.text(min_size=1, max_size=5), max_size=2).map(tuple),
    stop_token_ids=st.lists(ids, max_size=3).map(tuple),
    n=st.integers(1, 4),
    logprobs=st.none() | st.integers(0, 20),
    prompt_logprobs=st.none() | st.integers(0, 20),
    speculative=st.booleans(),
)

rules = st.builds(
    AnswerRules,
    grammar=st.text(max_size=9),
    start=st.sampled_from(GrammarStart),
    may_think=st.booleans(),
    is_thinking=st.booleans(),
    has_tools=st.booleans(),
    max_thinking_tokens=st.none() | st.integers(0, 99),
)


def delta_of(token_ids):
    return TokenDelta(
        request_id="r", choice=1, offset=0, token_ids=token_ids, logprobs=[], prompt_logprobs=[]
    )


@given(
    params,
    st.lists(ids, min_size=1, max_size=20).map(tuple),
    st.text(max_size=4),
    st.none() | rules,
)
def test_a_request_survives_the_wire(sampling, prompt, salt, rules):
    image = ImageInput(
        pixels=np.arange(3 * 28 * 56, dtype=np.float32).reshape(3, 28, 56),
        offset=1,
        grid_width=2,
        grid_height=1,
        content_hash=b"h" * 32,
    )
    request = GenerationRequest(
        request_id="r",
        prompt_token_ids=prompt,
        sampling=sampling,
        images=(image,),
        cache_salt=salt,
        resumed=(ResumedChoice((), is_ended=True), ResumedChoice(prompt)),
        hold=Hold(1.5, b"owner", b"context", (delta_of(prompt),)),
        rules=rules,
        priority=-3,
    )
    again = decode_request(encode_request(request))
    assert again.sampling == sampling
    assert (again.prompt_token_ids, again.cache_salt, again.priority) == (prompt, salt, -3)
    assert (again.resumed, again.hold) == (request.resumed, request.hold)
    assert again.rules == rules
    assert np.array_equal(again.images[0].pixels, image.pixels)
    assert again.images[0].content_hash == image.content_hash


@given(st.sampled_from([None, *FinishReason]), st.lists(ids, max_size=4), st.none() | ids)
def test_a_delta_survives_the_wire(reason, tokens, stop):
    logprobs = TokenLogprobs(TokenLogprob(3, -0.5), (TokenLogprob(3, -0.5), TokenLogprob(4, -1.0)))
    delta = TokenDelta(
        request_id="r",
        choice=1,
        offset=7,
        token_ids=tuple(tokens),
        logprobs=[logprobs],
        prompt_logprobs=[None, logprobs],
        num_cached_tokens=5,
        finish_reason=reason,
        stop_token_id=stop,
    )
    assert decode_delta("r", encode_delta(delta)) == delta


def test_model_facts_survive_the_wire():
    facts = ModelFacts(
        name="m",
        fingerprint="f",
        numerics_profile="p",
        max_model_len=9,
        vocab_size=8,
        num_layers=7,
        num_experts=6,
        num_experts_per_tok=5,
        eos_token_id=2,
        takes_images=True,
    )
    assert decode_facts(encode_facts(facts)) == facts


loads = st.dictionaries(st.sampled_from("abcdef").map(GatewayId), st.integers(0, 9), min_size=1)


@settings(max_examples=200)
@given(loads, st.lists(ids, max_size=80))
def test_a_request_goes_near_the_least_load_and_a_prefix_to_one_gateway(in_flight, prompt):
    chosen = choose_gateway(in_flight, prompt, "")
    assert in_flight[chosen] <= min(in_flight.values()) + SLACK
    longer = [*prompt[:64], *([1] * (64 - len(prompt[:64]))), 5, 6]
    assert choose_gateway(in_flight, longer, "") == choose_gateway(in_flight, longer[:64], "")


@given(loads, st.lists(ids, max_size=8))
def test_a_gateway_that_leaves_moves_only_its_own_prefixes(in_flight, prompt):
    level = dict.fromkeys(in_flight, 0)
    chosen = choose_gateway(level, prompt, "")
    for gone in level:
        rest = {g: 0 for g in level if g != gone}
        if rest and gone != chosen:
            assert choose_gateway(rest, prompt, "") == chosen
