"""What gateways count reaches the autoscaler whole, however their reports travel."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.control.members import GONE_AFTER_S, Heartbeat
from cluster.control.traffic import FORGET_AFTER_S, TrafficBook
from galerne.histogram import LogHistogram
from router.engine.load_counter import LoadTotals

START_S = 1000.0
SUMS = (
    "arrivals", "admitted", "prompt_tokens", "ended", "output_tokens", "output_squares", "steps",
)  # fmt: skip


def told(load, pid=1, part="gateway-0"):
    return Heartbeat(part=part, address="h:1", pid=pid, node="n", load=load)


def histogram(*samples):
    made = LogHistogram()
    for sample in samples:
        made.add(sample)
    return made


def arrivals(num, age_s, **fields):
    """A report of an engine at which all came in its first second."""
    return LoadTotals(age_s=age_s, arrivals=num, arrivals_by_second={0: num}, **fields)


@st.composite
def engines(draw):
    """Reports of one process, one every second from its birth, of a few requests each."""
    reports, now = [], LoadTotals()
    for second in range(draw(st.integers(1, 8))):
        lengths = draw(st.lists(st.integers(0, 40), max_size=4))
        num, ends = len(lengths), lengths[: draw(st.integers(0, len(lengths)))]
        gaps = draw(st.lists(st.floats(1e-3, 1.0), max_size=4))
        by_second = {**now.arrivals_by_second, second: num}
        now = LoadTotals(
            age_s=second + 1.0,
            arrivals=now.arrivals + num,
            arrivals_by_second={s: by_second[s] for s in sorted(by_second)[-3:]},
            admitted=now.admitted + num,
            prompt_tokens=now.prompt_tokens + 3 * sum(lengths),
            ended=now.ended + len(ends),
            output_tokens=now.output_tokens + sum(ends),
            output_squares=now.output_squares + sum(e * e for e in ends),
            ttft_s=merged(now.ttft_s, histogram(*gaps[:1])),
            inter_token_s=merged(now.inter_token_s, histogram(*gaps)),
            steps=now.steps + draw(st.integers(0, 9)),
            seconds_by_part={"model": second / 4},
        )
        reports.append(now)
    return reports


def merged(*parts):
    made = LogHistogram()
    for part in parts:
        made.merge(part)
    return made


@given(st.lists(engines(), min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_sums_are_those_of_the_last_reports_whatever_is_lost_doubled_or_late(processes, chance):
    """Some processes are of one part, that is: restarts."""
    sent = [
        told(report, pid, f"gateway-{pid % 2}")
        for pid, reports in enumerate(processes)
        for report in [*(r for r in reports if chance.random() < 0.5), reports[-1]]
        for _ in range(chance.choice((1, 2)))
    ]
    chance.shuffle(sent)
    book = TrafficBook(START_S)
    for index, heartbeat in enumerate(sent):
        book.hear(heartbeat, START_S + 20 + index / 100)
    seen, work = book.observe(START_S + 30), book.period.sums
    ends = [reports[-1] for reports in processes]
    total = {name: sum(getattr(end, name) for end in ends) for name in SUMS}
    assert seen.num_arrivals == total["arrivals"]
    assert seen.load.prompt_tokens * total["admitted"] == pytest.approx(total["prompt_tokens"])
    assert seen.load.output_tokens * total["ended"] == pytest.approx(total["output_tokens"])
    squares = (seen.load.service_cv2 + 1) * seen.load.output_tokens**2 * total["ended"]
    assert squares == pytest.approx(total["output_squares"])
    assert seen.ttft_p95_s == merged(*(end.ttft_s for end in ends)).quantile(0.95)
    assert seen.inter_token_p95_s == merged(*(end.inter_token_s for end in ends)).quantile(0.95)
    assert work.steps == total["steps"]
    seconds = sum(end.seconds_by_part["model"] for end in ends)
    assert work.seconds_by_part["model"] == pytest.approx(seconds)


def test_a_restarted_gateway_counts_from_zero_and_its_old_counts_stay():
    book = TrafficBook(START_S)
    book.hear(told(arrivals(5, age_s=9), pid=1), START_S + 10)
    book.hear(told(arrivals(2, age_s=1), pid=2), START_S + 20)
    assert book.observe(START_S + 30).num_arrivals == 7


def test_only_processes_that_live_have_queues_and_of_a_part_only_the_newest():
    book = TrafficBook(START_S)
    book.hear(told(LoadTotals(age_s=5, waiting=3, running=1), pid=1), START_S + 10)
    book.hear(told(LoadTotals(age_s=5, waiting=7, running=2), part="gateway-1"), START_S + 12)
    seen = book.observe(START_S + 13)
    assert (seen.waiting, seen.running) == (10, 3)
    book.hear(told(LoadTotals(age_s=1, waiting=0, running=4), pid=2), START_S + 14)
    book.hear(told(LoadTotals(age_s=6, waiting=3, running=1), pid=1), START_S + 14)  # late
    seen = book.observe(START_S + 14)
    assert (seen.waiting, seen.running) == (7, 6)
    seen = book.observe(START_S + 14 + GONE_AFTER_S)
    assert (seen.waiting, seen.running) == (0, 0)
    assert book.observe(START_S + 34).idle_s == pytest.approx(20, abs=2.5)


def test_what_a_gateway_counted_before_the_controller_restarted_is_no_burst():
    book = TrafficBook(START_S)
    old = arrivals(9000, age_s=500, waiting=2)
    book.hear(told(old), START_S + 1)
    assert book.observe(START_S + 1).waiting == 2
    assert book.observe(START_S + 5).num_arrivals == 0
    by_second = {499: 3, 500: 1}
    book.hear(told(LoadTotals(age_s=501, arrivals=9004, arrivals_by_second=by_second)), START_S + 2)
    assert book.observe(START_S + 5).num_arrivals == 4


def test_who_comes_back_after_being_forgotten_is_no_burst_either():
    book = TrafficBook(START_S)
    book.hear(told(arrivals(10, age_s=1)), START_S + 1)
    late_s = START_S + 2 + FORGET_AFTER_S
    book.observe(late_s)
    book.hear(told(arrivals(500, age_s=late_s - START_S)), late_s)
    assert book.observe(late_s + 5).num_arrivals == 0


def test_a_shard_says_nothing_of_the_load():
    book = TrafficBook(START_S)
    book.hear(told(None, part="shard-0"), START_S + 1)
    assert book.observe(START_S + 5).num_arrivals == 0


def test_prompt_lengths_are_of_those_that_have_begun_so_a_queue_does_not_shorten_them():
    book = TrafficBook(START_S)
    book.hear(told(arrivals(40, age_s=1, admitted=4, prompt_tokens=400)), START_S + 1)
    assert book.observe(START_S + 5).load.prompt_tokens == 100


@pytest.mark.parametrize("window_s", [60, 90, 240])
def test_late_and_lost_reports_make_no_burst_of_a_steady_load(window_s):
    """Arrivals are put where they came, not where they were heard of."""
    chance = random.Random(4)
    book = TrafficBook(START_S, window_s)
    by_second = {}
    for second in range(300):
        by_second[second] = 20
        load = LoadTotals(
            age_s=second + 1.0, arrivals=20 * (second + 1), arrivals_by_second=dict(by_second)
        )
        if chance.random() < 0.7:
            book.hear(told(load), START_S + second + 1 + chance.random() / 4)
    book.hear(told(load), START_S + 300.1)
    seen = book.observe(START_S + 300.9)
    assert seen.load.arrival_cv2 < 0.01
    assert seen.load.requests_per_s == pytest.approx(20)
    assert seen.recent_requests_per_s == pytest.approx(20)


def test_a_cluster_that_keeps_a_stream_for_its_client_is_not_idle():
    book = TrafficBook(START_S)
    for age_s, parked in ((10.0, 0), (20.0, 1), (30.0, 0)):
        now_s = START_S + age_s
        book.hear(told(LoadTotals(age_s=age_s, parked=parked)), now_s)
        seen = book.observe(now_s)
        assert seen.waiting == seen.running == 0
    assert seen.idle_s < 20  # since it was fetched, and not since the beginning
