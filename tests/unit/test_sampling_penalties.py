"""What penalties, biases and minimum lengths make of logits."""

import numpy as np
import pytest

from helpers.reference_sampling import make_penalties
from router.engine.penalties import edits_of
from router.engine.request import SamplingParams

EOS = 2


def adjust(logits, params, *, prompt=(), output=(), num_generated=9) -> list[float]:
    given = np.array(logits, dtype=np.float32)
    edits = edits_of(
        given,
        params,
        num_generated=num_generated,
        penalties=make_penalties(len(logits), list(prompt), list(output)),
        eos_token_id=EOS,
    )
    return (given if edits is None else edits.on(given)).tolist()


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits_of_seen_tokens():
    params = SamplingParams(repetition_penalty=2.0)
    found = adjust([4, -4, 0.5, -0.5, 4, -4], params, prompt=[0, 1], output=[2, 3])
    assert found == [2, -8, 0.25, -1, 4, -4]


def test_frequency_and_presence_penalties_count_output_only():
    params = SamplingParams(frequency_penalty=0.5, presence_penalty=0.25)
    found = adjust([1, 1, 1, 1], params, prompt=[0, 0], output=[1, 2, 2, 2])
    assert found == [1, 1 - 0.5 - 0.25, 1 - 1.5 - 0.25, 1]


def test_penalties_and_bias_apply_in_the_documented_order():
    params = SamplingParams(
        repetition_penalty=2.0, frequency_penalty=1.0, presence_penalty=0.5, logit_bias={0: 10.0}
    )
    assert adjust([4, 1, 1], params, output=[0, 0]) == [4 / 2 - 2 - 0.5 + 10, 1, 1]


def test_end_and_stop_tokens_are_masked_until_the_minimum_length():
    params = SamplingParams(min_tokens=3, stop_token_ids=(4,), logit_bias={EOS: 50.0})
    assert adjust([0] * 5, params, num_generated=2) == [0, 0, -np.inf, 0, -np.inf]
    assert adjust([0] * 5, params, num_generated=3) == [0, 0, 50, 0, 0]


def test_penalty_state_is_the_same_when_rebuilt_by_replay():
    live = make_penalties(20, [1, 2], [3, 3])
    live.observe(5)
    replayed = make_penalties(20, [1, 2], [3, 3, 5])
    assert sorted(live.seen_ids()) == sorted(replayed.seen_ids()) == [1, 2, 3, 5]
    for state in (live, replayed):
        values = np.zeros(4, dtype=np.float32)
        state.apply(SamplingParams(frequency_penalty=1.0), np.array([1, 2, 3, 5]), values)
        assert values.tolist() == [0, 0, -2, -1]


def test_tokens_seen_are_kept_however_many_come():
    state = make_penalties(1000, [7], [*range(500, 900), 7, 501])
    assert sorted(state.seen_ids()) == [7, *range(500, 900)]


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match="allowed: 5 tokens expected, got 4"):
        edits_of(
            np.zeros(5, dtype=np.float32),
            SamplingParams(),
            num_generated=0,
            penalties=None,
            eos_token_id=EOS,
            allowed=np.ones(4, dtype=np.bool_),
        )
