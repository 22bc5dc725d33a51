"""What penalties, biases and minimum lengths make of logits."""

import numpy as np

from helpers.reference_sampling import make_penalties
from router.engine.penalties import adjust_logits
from router.engine.request import SamplingParams

EOS = 2


def adjust(logits, params, *, prompt=(), output=(), num_generated=9) -> list[float]:
    return adjust_logits(
        np.array(logits, dtype=np.float32),
        params,
        num_generated=num_generated,
        penalties=make_penalties(len(logits), list(prompt), list(output)),
        eos_token_id=EOS,
    ).tolist()


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
    assert live.seen_ids().tolist() == replayed.seen_ids().tolist() == [1, 2, 3, 5]
    ids = replayed.output_ids()
    assert ids.tolist() == [3, 5]
    assert replayed.output_counts(ids).tolist() == live.output_counts(ids).tolist() == [2, 1]
