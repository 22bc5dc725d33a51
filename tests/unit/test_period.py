"""What a period between two changes says, from the differences that gateways report."""

from dataclasses import replace

import pytest

from cluster.control.period import Period
from cluster.planning.load import NO_GUESSING, Guessing, Load
from cluster.planning.observed import ObservedWindow
from galerne.histogram import LogHistogram
from helpers.planning import LOCAL
from router.engine.load_counter import LoadTotals

LATELY = Load(requests_per_s=1.0, prompt_tokens=1.0, output_tokens=1.0, arrival_cv2=3.0)


def histogram(value, count):
    made = LogHistogram()
    made.add(value, count)
    return made


def told(num=10, steps=300):
    """``num`` requests of 50 + 20 tokens: 0.1 s to the first one, 10 ms to each other."""
    return LoadTotals(
        arrivals=num,
        admitted=num,
        prompt_tokens=50 * num,
        ended=num,
        output_tokens=20 * num,
        ttft_s=histogram(0.1, num),
        inter_token_s=histogram(0.01, 19 * num),
        steps=steps,
        decoded=19 * num,
        decode_rows=19 * num,
        seconds_by_part={"model": steps * 0.004, "head": steps * 0.001},
    )


def test_a_period_is_measured_as_requests_saw_it():
    period = Period(100.0, settle_s=10.0)
    for now_s in (105.0, 112.0, 120.0):
        period.add(told(), now_s)
    measured, (settled_s, num_settled) = period.measured(130.0, LATELY)
    assert measured.seconds == 30.0
    assert measured.requests_per_s == pytest.approx(1.0)
    assert (measured.load.prompt_tokens, measured.load.output_tokens) == (50.0, 20.0)
    assert measured.load.arrival_cv2 == 3.0  # counts alone do not tell
    assert measured.completion_s == pytest.approx(0.1 + 19 * 0.01)
    assert measured.ttft_p95_s == pytest.approx(0.1, rel=0.02)
    assert (settled_s, num_settled) == (pytest.approx(0.29), 20)  # not what came at once


def test_a_period_without_answers_says_so():
    measured, settled = Period(0.0, 1.0).measured(10.0, LATELY)
    assert measured.requests_per_s == measured.completion_s == 0.0
    assert measured.ttft_p95_s is None
    assert settled == (None, 0)


def test_steps_are_taken_once_there_are_enough_and_settled():
    period = Period(0.0, settle_s=10.0)
    period.add(told(steps=1000), 5.0)  # of the time before
    period.add(told(steps=150), 12.0)
    assert period.take_steps(LOCAL, 12.0) is None
    period.add(told(steps=150), 20.0)
    steps = period.take_steps(LOCAL, 20.0)
    assert steps.num_steps == 300
    assert steps.work.num_decoding == pytest.approx(380 / 300)
    assert steps.work.num_prefill == pytest.approx(1000 / 300)
    assert steps.work.context == 60.0
    assert steps.seconds_by_part["head"] == pytest.approx(0.3)
    assert period.take_steps(LOCAL, 21.0) is None


def test_images_and_guesses_are_part_of_the_load_and_guesses_of_the_steps():
    new = replace(told(), decoded=100, decode_rows=300)
    new = replace(new, seconds_by_part={"model": 1.2, "vision": 3.0, "draft": 0.2})
    period = Period(0.0, settle_s=10.0)
    period.add(new, 20.0)
    measured, _ = period.measured(30.0, LATELY)
    assert measured.load.image_s == pytest.approx(0.3)
    assert measured.load.guessing == Guessing(rows=3.0, tokens=1.9, seconds=0.002)
    work = period.take_steps(LOCAL, 30.0).work
    assert work.guessing == measured.load.guessing
    assert work.num_decoding == pytest.approx(100 / 300)
    assert work.num_decoded == pytest.approx(1.0)


def test_a_window_tells_images_and_guesses_and_keeps_them_while_nobody_asks():
    window = ObservedWindow(60.0)
    window.counted(10.0, replace(told(), seconds_by_part={"vision": 3.0, "draft": 0.2}))
    plain = window.observe(20.0).load
    assert (plain.image_s, plain.guessing) == (pytest.approx(0.3), NO_GUESSING)
    new = replace(told(), decoded=100, decode_rows=300, seconds_by_part={"draft": 0.2})
    window.counted(30.0, new)
    guessed = window.observe(40.0).load
    assert guessed.image_s == pytest.approx(0.15)
    assert guessed.guessing.rows == pytest.approx(490 / 290)
    assert window.observe(1000.0).load.guessing == guessed.guessing
