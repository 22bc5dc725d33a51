"""When guesses pay: pure decisions against slow references, and the ways there."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galerne.errors import ConfigError
from router.engine.speculation.acceptance import Acceptance, Tally, expected_tokens
from router.engine.speculation.costs import CostByRows
from router.engine.speculation.decide import Decision, allot, decide
from router.engine.speculation.ngram import NgramIndex
from router.engine.speculation.policy import Known, Policy, SpeculationConfig

shares = st.floats(0.0, 1.0)
rates = st.lists(shares, min_size=1, max_size=4).map(tuple)


def affine(fixed_s, row_s):
    return lambda rows: fixed_s + row_s * rows


def free(count):
    del count
    return 0.0


@given(rates)
def test_expected_tokens_are_the_mean_over_all_outcomes(rates):
    mean = 0.0
    for outcome in product([True, False], repeat=len(rates)):
        chance = 1.0
        for rate, is_right in zip(rates, outcome, strict=True):
            chance *= rate if is_right else 1 - rate
        mean += chance * (1 + (*outcome, False).index(False))
    assert expected_tokens(rates, len(rates)) == pytest.approx(mean)


@given(st.integers(1, 64), rates, st.floats(1e-4, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 0.1))
def test_the_decision_is_the_fastest_of_all_depths(num, rates, fixed_s, row_s, draft_s):
    step_s = affine(fixed_s, row_s)

    def speed(count):
        spent = step_s(num * (1 + count)) + (draft_s * count if count else 0.0)
        return num * expected_tokens(rates, count) / spent

    got = decide(num, 1.0, rates, step_s, lambda count: draft_s * count, 0.0)
    assert speed(got.num_draft_tokens) == pytest.approx(max(map(speed, range(len(rates) + 1))))
    assert got.gain == pytest.approx(max(0.0, speed(got.num_draft_tokens) / speed(0) - 1))


def test_memory_bound_steps_want_guesses_and_compute_bound_ones_do_not():
    likely = (0.8,) * 4
    assert decide(1, 1.0, likely, affine(10, 0.1), free, 0.03).num_draft_tokens == 4
    assert decide(16, 1.0, likely, affine(0, 1), free, 0.03) == Decision(0, 0.0)


def test_a_gain_below_the_least_one_is_noise():
    step_s = affine(1.0, 0.0)
    assert decide(1, 1.0, (0.02,), step_s, free, 0.03).num_draft_tokens == 0
    assert decide(1, 1.0, (0.04,), step_s, free, 0.03).num_draft_tokens == 1


def test_what_drafting_costs_counts():
    step_s, likely = affine(1.0, 0.0), (0.9,) * 4
    assert decide(1, 1.0, likely, step_s, lambda count: 0.9 * count, 0.03).num_draft_tokens == 0
    assert decide(1, 1.0, likely, step_s, lambda count: 0.4 * count, 0.03).num_draft_tokens > 0


def test_what_was_never_measured_is_tried():
    assert decide(4, 1.0, (0.1, 0.1), lambda rows: None, free, 0.03).num_draft_tokens == 2


drafts = st.lists(st.tuples(st.integers(0, 3), st.tuples(shares, shares, shares)), max_size=4)


@given(drafts, st.integers(1, 6), st.lists(st.floats(0.0, 1.0), min_size=20, max_size=20))
def test_no_other_allotment_is_faster(drafts, num_others, steps_s):
    """By trying all of them, for any step times that do not fall."""
    seconds = [0.1 + sum(steps_s[:rows]) for rows in range(len(steps_s))]
    lengths, of_each = [n for n, _ in drafts], [r for _, r in drafts]
    num_rows = len(drafts) + num_others

    def speed(counts):
        gained = sum(expected_tokens(r, c) - 1 for r, c in zip(of_each, counts, strict=True))
        return (num_rows + gained) / seconds[min(num_rows + sum(counts), len(seconds) - 1)]

    got = allot(lengths, of_each, num_rows, lambda n: seconds[min(n, len(seconds) - 1)])
    assert all(c <= n for c, n in zip(got, lengths, strict=True))
    best = max(speed(counts) for counts in product(*(range(n + 1) for n in lengths)))
    assert speed(got) == pytest.approx(best)


@given(st.lists(st.tuples(st.integers(1, 200), st.floats(0.001, 1.0)), min_size=1), st.data())
def test_estimated_times_lie_among_the_measured_and_never_fall(measured, data):
    costs = CostByRows()
    assert costs.seconds(1) is None
    for rows, seconds in measured:
        costs.observe(rows, seconds)
    fewer = data.draw(st.integers(1, 300))
    more = data.draw(st.integers(fewer, 300))
    assert costs.seconds(fewer) <= costs.seconds(more) * (1 + 1e-9)
    times = [seconds for _, seconds in measured]
    assert min(times) * (1 - 1e-9) <= costs.seconds(fewer) <= max(times) * (1 + 1e-9)


def test_a_time_is_known_where_it_was_measured_and_on_the_line_between():
    costs = CostByRows()
    costs.observe(2, 1.0)
    costs.observe(6, 3.0)
    assert [costs.seconds(n) for n in (1, 2, 4, 6, 9)] == [1.0, 1.0, 2.0, 3.0, 3.0]


def test_of_times_that_contradict_each_other_the_later_one_is_right():
    costs = CostByRows()
    for rows, seconds in ((1, 3.0), (5, 1.0)):
        costs.observe(rows, seconds)
    assert costs.seconds(1) == 1.0
    costs.observe(1, 2.0)
    costs.observe(1, 2.0)
    costs.observe(1, 2.0)
    assert costs.seconds(5) == costs.seconds(1) > 1.0


def test_a_place_is_measured_after_some_steps_and_the_least_of_them_counts():
    costs = CostByRows()
    for seconds in (9.0, 1.0, 5.0):
        assert not costs.is_measured(3)
        costs.observe(3, seconds)
    assert costs.is_measured(3)
    assert costs.seconds(3) == 1.0
    assert not costs.is_measured(2)


def test_what_was_measured_long_ago_counts_no_more_once_it_is_measured_again():
    costs = CostByRows()
    for rows, seconds, times in ((5, 9.0, 100), (1, 1.0, 300), (5, 2.0, 1)):
        for _ in range(times):
            costs.observe(rows, seconds)
    assert costs.seconds(5) == 2.0


def test_one_hiccup_hardly_moves_a_mean():
    costs = CostByRows()
    for _ in range(50):
        costs.observe(4, 0.01)
    costs.observe(4, 10.0)
    assert costs.seconds(4) < 0.012


def test_acceptance_follows_what_came_back_by_place():
    acceptance = Acceptance(3)
    for _ in range(2000):
        acceptance.verified(3, 1, Tally())
    first, second, third = acceptance.rates
    assert first > 0.99
    assert second < 0.01
    assert third == pytest.approx(0.6)  # was never reached


def test_what_is_doubted_is_outweighed_by_what_comes_next():
    acceptance = Acceptance(1)
    for _ in range(1000):
        acceptance.verified(1, 0, Tally())
    acceptance.doubt()
    assert acceptance.rates[0] < 0.01
    for _ in range(24):
        acceptance.verified(1, 1, Tally())
    assert acceptance.rates[0] > 0.7


def test_a_sequence_of_its_own_is_known_by_its_own():
    acceptance, good, bad = Acceptance(2), Tally(), Tally()
    for _ in range(100):
        acceptance.verified(2, 2, good)
        acceptance.verified(2, 0, bad)
    assert acceptance.rates_of(bad)[0] < acceptance.rates[0] < acceptance.rates_of(good)[0]


def slow_following(tokens, most):
    for size in (4, 3, 2):
        for end in range(len(tokens) - 1, size - 1, -1):
            if size < len(tokens) and tokens[end - size : end] == tokens[-size:]:
                period = len(tokens) - end
                return tuple(tokens[end + i % period] for i in range(most))
    return ()


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(1, 6), st.integers(1, 40))
def test_the_index_finds_what_a_search_from_the_end_finds(tokens, most, known):
    """However often it was asked on the way."""
    index = NgramIndex(0)
    for length in range(min(known, len(tokens)), len(tokens) + 1):
        got = index.following(tokens[:length], most)
    assert got == slow_following(tokens, most)


def steps(policy, count, num=1, rates=(0.0, 0.0)):
    """Depths of so many, of which all are measured."""
    depths = []
    for _ in range(count):
        known = Known(num, 1.0, rates, affine(1.0, 0.1), free, bool, num * (policy.depth > 0))
        depths.append(policy.step(known))
    return depths


def test_guesses_that_do_not_pay_are_tried_again_now_and_then():
    policy = Policy(SpeculationConfig(num_draft_tokens=2), follows=False)
    depths = steps(policy, 500)
    assert 0 < sum(d > 0 for d in depths) < 15
    assert not policy.depth


def test_who_must_follow_goes_on_for_a_while_and_then_rests():
    policy = Policy(SpeculationConfig(num_draft_tokens=2), follows=True)
    steps(policy, 10)
    assert policy.must_follow
    steps(policy, 100)
    assert not policy.must_follow
    steps(policy, 1, num=2, rates=(1.0, 1.0))
    assert policy.must_follow


def test_without_auto_all_that_may_be_is_guessed():
    policy = Policy(SpeculationConfig(num_draft_tokens=3, is_auto=False), follows=False)
    assert set(steps(policy, 50)) == {3}


@pytest.mark.parametrize(
    ("field", "value"), [("num_draft_tokens", 0), ("num_draft_tokens", 9), ("min_gain", 1.0)]
)
def test_a_wrong_limit_is_named(field, value):
    with pytest.raises(ConfigError, match=field):
        SpeculationConfig(**{field: value})
