"""Guesses change how fast tokens come, never which: streams with speculation on, off, toggled."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.adapters import opened, with_adapters
from helpers.eagle_heads import random_head
from helpers.fixture_models import BLOCK_SIZE, checkpoint, runner
from helpers.gateways import engine, request
from helpers.guessing import Toggled, always, eagle, knowing, ngram
from helpers.verified_chunks import assert_rows_are_of_single_steps
from router.engine.request import FinishReason
from router.model.runner import SequenceChunk
from shards.kernels.native.families import FAMILY_VARIABLE, TORCH
from shards.kernels.native.library import native_kernels

LOOP = tuple([40, 41, 42, 43, 44] * 8)


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A head of random weights: wrong nearly always, which no token may show."""
    return random_head(tmp_path_factory.mktemp("head"), checkpoint().config)


def said(deltas):
    """All that a client can see of a choice, however it was cut into deltas."""
    return {
        "tokens": [t for d in deltas for t in d.token_ids],
        "offsets": [d.offset + i for d in deltas for i in range(len(d.token_ids))],
        "logprobs": [p for d in deltas for p in d.logprobs],
        "prompt_logprobs": [p for d in deltas for p in d.prompt_logprobs],
        "reason": deltas[-1].finish_reason,
        "stop": deltas[-1].stop_token_id,
    }


def run(requests, *, disturb=lambda made: None, **options):
    """What every choice of the requests said, and the engine's drafting."""
    with engine(checkpoint(), **options) as (made, collector):
        for r in requests:
            made.submit(r).result(60)
        disturb(made)
        found = {
            (r.request_id, choice): said(collector.wait(r.request_id, choice))
            for r in requests
            for choice in range(r.sampling.n)
        }
    return found, made.drafting


samplings = st.fixed_dictionaries(
    {"temperature": st.sampled_from([0.0, 0.7, 1.3]), "max_tokens": st.integers(1, 24)},
    optional={
        "seed": st.integers(0, 99),
        "n": st.integers(1, 3),
        "top_p": st.just(0.9),
        "top_k": st.just(20),
        "presence_penalty": st.just(0.9),
        "frequency_penalty": st.just(1.1),
        "repetition_penalty": st.just(1.4),
        "min_tokens": st.just(1),
        "logit_bias": st.just({7: 2.0}),
        "logprobs": st.integers(0, 2),
        "prompt_logprobs": st.just(1),
        "stop_token_ids": st.just(tuple(range(60, 110))),
        "speculative": st.just(False),
    },
)
prompts = st.one_of(
    st.lists(st.integers(20, 200), min_size=1, max_size=40).map(tuple), st.just(LOOP)
)
asked = st.lists(st.tuples(prompts, samplings), min_size=1, max_size=5)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(asked, st.integers(0, 9), st.integers(1, 5), st.sampled_from([0.0, 0.2]), st.booleans())
def test_streams_are_the_same_with_guesses_without_and_switched_in_mid_request(
    asked, seed, most, wrong, is_narrow
):
    requests = [request(f"r{i}", p, **fields) for i, (p, fields) in enumerate(asked)]
    shape = {"num_blocks": 14, "max_model_len": 120} if is_narrow else {}
    shape |= {"max_chunk_tokens": 7, "max_batched_tokens": 20, "max_num_seqs": 6}
    want, _ = run(requests)
    answers = {key: heard["tokens"] for key, heard in want.items()}

    def toggled(model):
        inner = knowing(answers, always(most), wrong=wrong, seed=seed)(model)
        return Toggled(inner, seed)

    knows = knowing(answers, always(most), wrong=wrong, seed=seed)
    assert run(requests, drafting=knows, **shape)[0] == want
    assert run(requests, drafting=toggled, **shape)[0] == want


MIX = [
    request("greedy", LOOP, max_tokens=60),
    request("seeded", LOOP, max_tokens=60, temperature=0.9, seed=5, n=3, logprobs=2),
    request("bound", LOOP, max_tokens=60, repetition_penalty=1.2, frequency_penalty=0.4),
    request("plain", range(30, 60), max_tokens=60, temperature=1.0, seed=8),
]


@pytest.fixture(scope="module")
def mix():
    return run(MIX)[0]


def test_a_knowing_source_saves_steps_and_the_counts_say_so(mix):
    answers = {key: heard["tokens"] for key, heard in mix.items()}
    with engine(checkpoint(), drafting=knowing(answers, always(), wrong=0.0)) as (made, collector):
        made.submit(MIX[0]).result(60)
        deltas = collector.wait("greedy")
        drafting, text = made.drafting, made.metrics_text().decode()
    assert len(deltas) == 13  # one with the prompt, then five at a time, the last four
    assert drafting.num_accepted == drafting.num_drafted == 47
    assert 'galerne_engine_draft_tokens_total{source="knowing"} 47.0' in text
    assert 'galerne_engine_accepted_draft_tokens_total{source="knowing"} 47.0' in text


def test_ngrams_change_nothing(mix):
    found, drafting = run(MIX, drafting=ngram(always()))
    assert found == mix
    assert drafting.num_drafted > 0


def test_a_head_that_is_mostly_wrong_changes_nothing(mix, head):
    found, drafting = run(MIX, drafting=eagle(head, always()))
    assert drafting.is_on  # it did not fail
    assert drafting.num_drafted > 4 * 60
    assert found == mix


def test_a_head_changes_nothing_through_small_chunks_and_preemption(mix, head):
    def preempt(made):
        for r in MIX:
            made.preempt(r.request_id).result(60)

    options = {"max_chunk_tokens": 7, "max_batched_tokens": 16, "num_blocks": 24}
    options["max_model_len"] = 150
    found, drafting = run(MIX, drafting=eagle(head, always(3)), disturb=preempt, **options)
    assert drafting.is_on
    assert drafting.num_drafted > 0
    assert found == mix


def test_what_was_accepted_can_be_found_in_the_prefix_cache(mix):
    """Blocks filled by guesses hold what blocks filled one by one hold."""
    answers = {key: heard["tokens"] for key, heard in mix.items()}
    longer = request("again", (*LOOP, *answers["greedy", 0][:50]), max_tokens=9)
    want = run([longer])[0]["again", 0]["tokens"]
    with engine(checkpoint(), drafting=knowing(answers, always(), wrong=0.3)) as (made, collector):
        made.submit(MIX[0]).result(60)
        collector.wait("greedy")
        made.drafting.is_on = False
        made.submit(longer).result(60)
        deltas = collector.wait("again")
    assert deltas[0].num_cached_tokens == (len(LOOP) + 50 - 1) // BLOCK_SIZE * BLOCK_SIZE
    assert said(deltas)["tokens"] == want


def test_a_stop_token_within_accepted_guesses_is_the_last_token(mix):
    answers = {key: heard["tokens"] for key, heard in mix.items()}
    tokens = answers["plain", 0]
    stop = tokens[10]
    stopped = replace(MIX[3], sampling=replace(MIX[3].sampling, stop_token_ids=(stop,)))
    found, _ = run([stopped], drafting=knowing(answers, always(5), wrong=0.0))
    assert found["plain", 0]["tokens"] == tokens[: tokens.index(stop) + 1]
    assert found["plain", 0]["reason"] is FinishReason.STOP
    assert found["plain", 0]["stop"] == stop


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """The mix with two adapters for some, all in one batch; how to load them; what they say."""
    root, config = tmp_path_factory.mktemp("adapters"), checkpoint().config
    adapters = [opened(root / str(seed), config, seed=seed) for seed in (1, 2)]
    ids = ["", adapters[0].id, adapters[1].id, adapters[0].id]
    requests = [replace(r, adapter=i) for r, i in zip(MIX, ids, strict=True)]

    def load(inner):
        with_adapters(inner.model, adapters)
        return inner

    return requests, load, run(requests, wrap=load)[0]


@pytest.mark.parametrize("way", ["knowing", "toggled", "ngram", "eagle"])
def test_requests_with_adapters_say_the_same_with_guesses(mix, head, adapted, way):
    requests, load, want = adapted
    assert want["greedy", 0] == mix["greedy", 0]
    assert all(want[r.request_id, 0] != mix[r.request_id, 0] for r in requests[1:])
    knows = knowing({k: heard["tokens"] for k, heard in want.items()}, always(), wrong=0.2)
    drafting = {
        "knowing": knows,
        "toggled": lambda model: Toggled(knows(model), 3),
        "ngram": ngram(always()),
        "eagle": eagle(head, always()),
    }[way]
    found, made = run(requests, wrap=load, drafting=drafting)
    assert found == want
    assert made.num_drafted > 0
    assert made.num_accepted > 0 or way in ("ngram", "eagle")


def test_a_source_that_fails_costs_no_request_anything(mix):
    def broken(model):
        made = ngram(always())(model)
        made._source.draft = lambda sequences, most: 1 / 0
        return made

    found, drafting = run(MIX, drafting=broken)
    assert found == mix
    assert not drafting.is_on


@pytest.mark.parametrize("family", ["native", "torch"])
def test_rows_of_a_verified_chunk_have_the_bits_of_single_steps(family, monkeypatch):
    """At every length of a chunk and every place in a key block, neighbours or not."""
    if family == "torch":
        monkeypatch.setenv(FAMILY_VARIABLE, TORCH)
    native_kernels.cache_clear()
    try:
        compare_chunks()
    finally:
        monkeypatch.undo()
        native_kernels.cache_clear()


def compare_chunks():
    ids = np.random.default_rng(1).integers(20, 200, 150).tolist()
    model = runner(checkpoint(), torch.bfloat16)
    blocks, others = list(range(1, 11)), list(range(11, 21))
    for held in (blocks, others):
        model.run(0, [SequenceChunk(ids, 0, 100, held, 1)])
    counts = (1, 2, 3, 4, 5, 6, 7, 8, 2, 3, 5)
    assert_rows_are_of_single_steps(model, ids, 100, counts, blocks, others)
