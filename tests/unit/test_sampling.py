from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers.all_draws import NATIVE, judge_by_all, sample_batch_by_all, sample_row_by_all
from helpers.reference_sampling import (
    make_penalties,
    reference_kept,
    reference_logprobs,
    reference_sample_row,
)
from router.engine.draw import _rough_noise, draw_token
from router.engine.draws import Judged
from router.engine.filters import kept_ids, ranked
from router.engine.philox import gumbel_from_bits, gumbel_noise, random_bits
from router.engine.request import SamplingParams
from router.engine.sampling import LogitsError, Sampled, SampleRow
from shards.kernels.native.families import families, open_library

EOS = 2


def sample(logits, params=None, **overrides) -> Sampled:
    keywords = {
        "choice": 0,
        "position": 11,
        "num_generated": 3,
        "penalties": None,
        "eos_token_id": EOS,
    }
    keywords |= overrides
    return sample_row_by_all(
        np.asarray(logits, dtype=np.float32), params or SamplingParams(), **keywords
    )


def make_logits(vocab_size: int, seed: int, *, kind: str = "wide") -> np.ndarray:
    """``ties``: few values; ``holes``: some -inf; ``flat``: close; ``wide``: as a model's."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, {"flat": 0.1}.get(kind, 4.0), vocab_size)
    if kind == "ties":
        logits = np.round(logits / 4)
    if kind == "holes":
        logits[rng.random(vocab_size) < 0.7] = -np.inf
        logits[rng.integers(vocab_size)] = 1.5
    return logits.astype(np.float32)


KINDS = st.sampled_from(["ties", "holes", "flat", "wide"])
SIZES = st.one_of(st.integers(EOS + 2, 100), st.integers(500, 3000))
TEMPERATURES = st.sampled_from([0.0, 1e-30, 0.01, 0.7, 1.0, 1.7, 10.0])
PARAMS = st.builds(
    SamplingParams,
    temperature=TEMPERATURES,
    top_p=st.sampled_from([1e-9, 0.3, 0.9, 0.999, 1.0 - 1e-9, 1.0]),
    top_k=st.sampled_from([0, 1, 2, 17, 400, 100_000]),
    min_p=st.sampled_from([0.0, 1e-300, 0.02, 0.5, 1.0]),
    presence_penalty=st.sampled_from([0.0, -0.5, 1.5]),
    frequency_penalty=st.sampled_from([0.0, -0.25, 0.3]),
    repetition_penalty=st.sampled_from([1.0, 0.8, 1.3]),
    seed=st.integers(-(2**63), 2**63 - 1),
    logit_bias=st.dictionaries(st.integers(0, 3), st.sampled_from([-100.0, -1.0, 2.5])),
    min_tokens=st.sampled_from([0, 4]),
    stop_token_ids=st.sampled_from([(), (1,)]),
    ignore_eos=st.booleans(),
    logprobs=st.sampled_from([None, 0, 5]),
)


@pytest.mark.skipif(open_library() is None, reason="no native library here")
def test_every_family_is_compared():
    assert len(NATIVE) == len(families(open_library()))


@settings(max_examples=250, deadline=None)
@given(PARAMS, SIZES, st.integers(0, 2**32), KINDS, st.integers(0, 10**6), st.integers(0, 15))
def test_sampler_agrees_with_the_plain_reference(params, size, seed, kind, position, choice):
    logits = make_logits(size, seed, kind=kind)
    logits[3] = max(logits[3], 0)  # one token that no mask takes
    history = np.random.default_rng(seed + 1).integers(0, min(size, 50), 12).tolist()
    prompt, output = history[:6], history[6:]
    penalties = make_penalties(size, prompt, output)
    shared = {"choice": choice, "position": position, "num_generated": 3, "eos_token_id": EOS}

    found = sample_row_by_all(logits, params, penalties=penalties, **shared)

    assert found == reference_sample_row(logits, params, prompt=prompt, output=output, **shared)


@settings(max_examples=150, deadline=None)
@given(
    PARAMS,
    st.integers(8, 1000),
    st.integers(0, 2**32),
    st.sets(st.integers(0, EOS + 1)),
    st.booleans(),
)
def test_sampler_under_a_mask_agrees_with_the_plain_reference(params, size, seed, few, has_others):
    allowed = np.zeros(size, dtype=np.bool_)
    allowed[list(few)] = True
    allowed[EOS + 2 :: 3] = has_others
    allowed[EOS] |= not allowed.any()
    logits = make_logits(size, seed)
    prompt, output = [4, 5], [6, EOS]
    shared = {"choice": 1, "position": 9, "num_generated": 3, "eos_token_id": EOS}

    found = sample_row_by_all(
        logits, params, penalties=make_penalties(size, prompt, output), allowed=allowed, **shared
    )

    assert allowed[found.token_id]
    ids = np.flatnonzero(allowed).tolist()
    assert found == reference_sample_row(
        logits, params, prompt=prompt, output=output, allowed=ids, **shared
    )


@pytest.mark.parametrize("params", [{"min_tokens": 9}, {"ignore_eos": True}])
def test_grammar_that_allows_nothing_but_the_end_ends(params):
    allowed = np.arange(8) == EOS
    end = sample(np.zeros(8), SamplingParams(temperature=0, **params), allowed=allowed)
    assert end.token_id == EOS
    allowed = np.isin(np.arange(8), [EOS, 5])
    held_back = sample(np.zeros(8), SamplingParams(temperature=0, **params), allowed=allowed)
    assert held_back.token_id == 5


@settings(max_examples=150, deadline=None)
@given(PARAMS, SIZES, st.integers(0, 2**32), KINDS)
@example(SamplingParams(top_p=0.9), 3000, 0, "flat")
def test_filters_keep_what_full_sorts_keep(params, size, seed, kind):
    scores = make_logits(size, seed, kind=kind)
    scores -= scores.max()
    kept = kept_ids(scores, params)
    found = list(range(size)) if kept is None else kept.tolist()
    assert found == sorted(reference_kept(scores, params))


@settings(max_examples=100)
@given(
    st.lists(st.sampled_from([-np.inf, -3.0, -1e-40, -0.0, 0.0, 1e-40, 2.0]), min_size=1),
    st.integers(1, 30),
)
def test_ranking_is_by_falling_score_then_rising_id(scores, limit):
    ranking = ranked(np.array(scores, dtype=np.float32), np.arange(len(scores)), limit=limit)
    expected = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    assert ranking.tolist() == expected[:limit]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**40), SIZES, KINDS, st.sampled_from([0.01, 1.0, 10.0, 1e4]))
def test_screened_draw_is_the_argmax_over_exact_noise(seed, size, kind, temperature):
    scores = make_logits(size, seed, kind=kind) / np.float32(temperature)
    scores -= scores.max()
    keys = scores + gumbel_noise(seed, 0, 5, range(size))
    token = draw_token(scores, range(size), seed=seed, choice=0, position=5)
    assert token == int(np.argmax(keys))


def test_screened_draw_decides_near_ties_by_exact_noise():
    noise = gumbel_noise(3, 0, 5, range(2000))
    scores = noise.min() - noise  # every token ends within a rounding of every other
    token = draw_token(scores, range(2000), seed=3, choice=0, position=5)
    assert token == int(np.argmax(scores + noise))


@pytest.mark.parametrize(("top_p", "kept"), [(0.25, [0]), (0.26, [0, 1]), (0.5, [0, 1])])
def test_top_p_stops_at_the_token_that_reaches_it_and_breaks_ties_by_id(top_p, kept):
    found = kept_ids(np.zeros(4, dtype=np.float32), SamplingParams(top_p=top_p))
    assert found.tolist() == kept


def test_rough_noise_is_within_its_slack_over_all_magnitudes():
    edges = np.array([0, 1, 2**22 - 1, 2**22, 2**31, 2**32 - 2**22, 2**32 - 2, 2**32 - 1])
    bits = np.concatenate([edges.astype(np.uint32), random_bits(1, 0, 0, range(200_000))])
    bits[100_000:] |= np.uint32(0xFFC00000)  # the region where float32 cannot tell u from 1
    assert np.abs(_rough_noise(bits) - gumbel_from_bits(bits)).max() < 0.001


def test_draws_follow_the_softmax():
    logits = np.array([2.0, 1.0, 0.5, 0.0, -1.0, -3.0], dtype=np.float32)
    num_draws, temperature = 12_000, 0.8
    params = SamplingParams(temperature=temperature, seed=42)
    counts = np.zeros(logits.size)
    for position in range(num_draws):
        counts[sample(logits, params, position=position).token_id] += 1

    weights = np.exp(logits.astype(np.float64) / temperature)
    expected = weights / weights.sum()
    deviation = np.sqrt(expected * (1 - expected) / num_draws)
    # Fixed seed; four standard errors leave 1 in 2,600 to six honest draws by chance.
    assert np.all(np.abs(counts / num_draws - expected) < 4 * deviation)


def test_draws_over_a_large_vocabulary_follow_the_softmax():
    logits = make_logits(4096, 5, kind="wide")
    weights = np.exp(logits.astype(np.float64))
    expected = weights / weights.sum()
    num_draws = 1500
    drawn = [sample(logits, SamplingParams(seed=8), position=i).token_id for i in range(num_draws)]
    order = np.argsort(-logits)
    share = expected[order].cumsum()
    for quantile in (0.25, 0.5, 0.9):
        head = order[: int(np.searchsorted(share, quantile)) + 1]
        mass = float(expected[head].sum())
        found = float(np.isin(drawn, head).mean())
        assert abs(found - mass) < 4 * np.sqrt(mass * (1 - mass) / num_draws)


def make_row(**overrides) -> SampleRow:
    fields = {"params": SamplingParams(), "choice": 0, "position": 11, "num_generated": 3}
    return SampleRow(**(fields | overrides))


@settings(max_examples=40, deadline=None)
@given(st.lists(PARAMS, min_size=2, max_size=5), st.integers(0, 2**32), st.randoms())
def test_a_row_does_not_depend_on_its_batch(all_params, seed, random):
    size = 700
    logits = np.stack([make_logits(size, seed + i) for i in range(len(all_params))])
    penalties = make_penalties(size, [5, 6], [7])
    rows = [
        make_row(params=p, choice=i, position=i * 3, penalties=penalties)
        for i, p in enumerate(all_params)
    ]
    alone = [
        sample_batch_by_all(logits[i : i + 1], [rows[i]], eos_token_id=EOS)[0]
        for i in range(len(rows))
    ]
    shuffled = random.sample(range(len(rows)), len(rows))

    together = sample_batch_by_all(logits[shuffled], [rows[i] for i in shuffled], eos_token_id=EOS)

    assert together == [alone[i] for i in shuffled]


def test_a_row_does_not_depend_on_its_place_in_memory():
    logits = make_logits(900, 1)
    strided = np.zeros((900, 3), dtype=np.float32)
    strided[:, 1] = logits
    params = SamplingParams(top_p=0.9, logprobs=5, logit_bias={3: 1.0}, seed=6)
    assert sample(strided[:, 1], params) == sample(logits, params)


def test_greedy_batch_takes_the_lowest_id_of_the_largest_in_every_row():
    logits = np.array([[0, 3, 3, 1], [5, 5, 5, 5], [-2, -3, -4, -1]], dtype=np.float32)
    rows = [make_row(params=SamplingParams(temperature=0, top_p=0.5, logprobs=1))] * 3
    found = sample_batch_by_all(logits, rows, eos_token_id=EOS)
    assert [one.token_id for one in found] == [1, 0, 3]
    assert [one.logprobs for one in found] == [
        reference_logprobs(x, one.token_id, 1) for x, one in zip(logits, found, strict=True)
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"min_tokens": 4, "stop_token_ids": (3,)},
        {"logit_bias": {3: -9.0}},
        {"presence_penalty": 2.0},
    ],
    ids=str,
)
def test_greedy_batch_applies_what_changes_the_logits(fields):
    logits = np.array([[0, 1, 0, 2]], dtype=np.float32)
    params = SamplingParams(temperature=0, **fields)
    row = make_row(params=params, penalties=make_penalties(4, [], [3]))
    assert sample_batch_by_all(logits, [row], eos_token_id=EOS) == [Sampled(1, None)]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_with_broken_logits_fails_alone(temperature, bad):
    logits = np.stack([make_logits(50, 1), make_logits(50, 2)])
    logits[0, 30] = bad
    rows = [make_row(params=SamplingParams(temperature=temperature))] * 2
    broken, whole = sample_batch_by_all(logits, rows, eos_token_id=EOS)
    assert isinstance(broken, LogitsError)
    assert broken.position == 11
    assert whole == sample(logits[1], rows[1].params)


def test_broken_logits_do_not_hide_behind_the_mask():
    logits = make_logits(50, 1)
    logits[EOS] = np.nan
    with pytest.raises(LogitsError):
        sample(logits, SamplingParams(min_tokens=9))


def test_a_row_whose_tokens_are_all_masked_is_an_error():
    logits = np.full(5, -np.inf)
    logits[EOS] = 0
    with pytest.raises(LogitsError, match="position 11: the largest logit is -inf"):
        sample(logits, SamplingParams(min_tokens=9))


def test_the_logits_error_survives_a_pickle():
    error = pickle.loads(pickle.dumps(LogitsError(4, float("inf"))))
    assert (error.position, error.largest) == (4, float("inf"))


def test_rows_and_logits_of_different_length_are_refused():
    with pytest.raises(ValueError, match="1 rows of logits for 2 rows"):
        sample_batch_by_all(np.zeros((1, 5), dtype=np.float32), [make_row()] * 2, eos_token_id=EOS)


def test_logits_of_another_type_are_refused():
    with pytest.raises(ValueError, match="float64"):
        sample_row_by_all(
            np.zeros(5),
            SamplingParams(),
            choice=0,
            position=0,
            num_generated=0,
            penalties=None,
            eos_token_id=EOS,
        )


def test_missing_penalty_state_is_refused():
    with pytest.raises(ValueError, match="penalties must be given"):
        sample(np.zeros(5), SamplingParams(presence_penalty=1.0))


def test_the_given_logits_are_not_changed():
    logits = make_logits(600, 3)
    before = logits.copy()
    params = SamplingParams(repetition_penalty=1.2, logit_bias={1: 5.0}, min_tokens=9, top_p=0.5)
    sample(logits, params, penalties=make_penalties(600, [1], [2]))
    assert np.array_equal(logits, before)


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(0, 2**32), KINDS)
def test_logprobs_are_a_distribution_in_order(size, seed, kind):
    logits = make_logits(size, seed, kind=kind)
    (found,) = judge_by_all([Judged(logits, 3, size)])
    values = np.array([one.logprob for one in found.top])
    assert np.exp(values).sum() == pytest.approx(1, abs=1e-4)
    assert sorted(found.top, key=lambda one: (-one.logprob, one.token_id)) == list(found.top)
    assert found.chosen in found.top


def test_logprobs_are_of_the_logits_before_penalties_temperature_and_filters():
    logits = make_logits(100, 4)
    params = SamplingParams(temperature=0.3, top_k=3, logit_bias={7: 20.0}, logprobs=4)
    found = sample(logits, params)
    assert found.token_id == 7
    exact = logits - np.log(np.exp(logits.astype(np.float64)).sum())
    assert found.logprobs.chosen.logprob == pytest.approx(exact[7], abs=1e-5)
    assert [one.token_id for one in found.logprobs.top] == np.argsort(-logits)[:4].tolist()


def test_no_alternatives_gives_the_chosen_token_alone():
    found = sample(make_logits(100, 4), SamplingParams(logprobs=0))
    assert found.logprobs.chosen.token_id == found.token_id
    assert found.logprobs.top == ()


def test_choices_of_one_request_differ_and_a_repeated_one_does_not():
    params = SamplingParams(seed=1)
    logits = make_logits(1000, 9, kind="flat")
    tokens = [sample(logits, params, choice=i).token_id for i in (0, 1, 2, 3, 0)]
    assert len(set(tokens)) == 4
    assert tokens[0] == tokens[-1]


@given(st.integers(0, 100))
def test_top_k_of_one_is_greedy_at_any_temperature(seed):
    logits = make_logits(200, seed, kind="ties")
    hot = SamplingParams(temperature=10, top_k=1, seed=seed)
    assert sample(logits, hot) == sample(logits, dataclasses.replace(hot, temperature=0))


@pytest.mark.parametrize("kind", ["wide", "flat", "ties", "holes"])
@pytest.mark.parametrize(
    "filters", [{}, {"top_p": 0.95}, {"top_k": 50}, {"top_k": 50, "top_p": 0.8}, {"min_p": 0.05}]
)
def test_a_whole_vocabulary_is_drawn_from_alike_by_all(kind, filters):
    logits = make_logits(131072, 7, kind=kind)
    params = SamplingParams(temperature=0.7, logprobs=20, seed=11, **filters)
    for position in (0, 2**33):
        found = sample(logits, params, position=position)
        assert found.logprobs.chosen.token_id == found.token_id


def test_many_rows_on_threads_are_those_of_one_after_the_other():
    logits = np.stack([make_logits(9000, i) for i in range(33)])
    rows = [make_row(params=SamplingParams(seed=i), position=i) for i in range(33)]
    together = sample_batch_by_all(logits, rows, eos_token_id=EOS)
    assert together == [
        sample(x, row.params, position=i)
        for i, (x, row) in enumerate(zip(logits, rows, strict=True))
    ]
