"""What a gateway counts of its load is what was asked of it and what it answered."""

import threading
from contextlib import contextmanager
from dataclasses import replace

import pytest

from helpers.gateway_process import gateway_settings
from helpers.gateways import request
from helpers.waiting import wait_until
from router.engine.request import ResumedChoice
from router.gateway.host import GatewayHost

LONG = tuple(range(20, 150))
NUM_CACHED = 128  # of LONG's 130: whole blocks
ENDLESS = 16000  # tokens: more than a test waits for


def start():
    return GatewayHost(gateway_settings(max_model_len=ENDLESS + 100), None)


@pytest.fixture
def host():
    made = start()
    yield made
    made.stop()


@contextmanager
def held(host):
    """The engine stands still meanwhile."""
    go_on = threading.Event()
    host.engine.between_steps(lambda: go_on.wait(30))
    try:
        yield
    finally:
        go_on.set()


def ended(host, num):
    """The totals, once so many choices have ended."""
    wait_until(lambda: host.load_totals().ended >= num, 60)
    return host.load_totals()


def test_n_requests_are_n_arrivals_with_their_tokens_and_times(host):
    lengths = (3, 5, 9, 1)
    for i, length in enumerate(lengths):
        host.engine.submit(request(f"r{i}", (i + 1, 6, 7), max_tokens=length)).result(60)
    seen = ended(host, 4)
    assert (seen.arrivals, sum(seen.arrivals_by_second.values())) == (4, 4)
    assert (seen.admitted, seen.prompt_tokens) == (4, 12)
    assert (seen.output_tokens, seen.output_squares) == (18, 9 + 25 + 81 + 1)
    assert (seen.ttft_s.count, seen.inter_token_s.count) == (4, 14)
    assert (seen.waiting, seen.running) == (0, 0)
    assert 0 < seen.ttft_s.total <= 4 * seen.age_s
    assert seen.steps == host.engine.num_steps
    assert seen.seconds_by_part["model"] > 0


def test_arrivals_count_while_they_wait_and_their_wait_is_in_the_time_to_the_first_token(host):
    with held(host):
        for i in range(3):
            host.engine.submit(request(f"w{i}", max_tokens=2))
        seen = host.load_totals()
        assert (seen.arrivals, seen.waiting, seen.admitted, seen.ended) == (3, 3, 0, 0)
        arrived_s = seen.age_s
        threading.Event().wait(0.3)
        waited_s = host.load_totals().age_s - arrived_s
    assert ended(host, 3).ttft_s.total >= 3 * waited_s


def test_choices_are_counted_each_and_share_the_prompt_that_is_computed_once(host):
    host.engine.submit(request("n", LONG, n=3, max_tokens=4)).result(60)
    seen = ended(host, 3)
    assert (seen.arrivals, seen.admitted) == (3, 3)
    assert seen.prompt_tokens == 3 * len(LONG) - 2 * NUM_CACHED
    assert (seen.output_tokens, seen.output_squares) == (12, 48)


def test_what_the_prefix_cache_holds_is_no_prompt_token_and_preemption_adds_none(host):
    host.engine.submit(request("cold", LONG, max_tokens=1)).result(60)
    assert ended(host, 1).prompt_tokens == len(LONG)
    host.engine.submit(request("warm", LONG, max_tokens=ENDLESS)).result(60)
    wait_until(lambda: host.load_totals().ttft_s.count == 2, 60)
    assert host.engine.preempt("warm").result(60) == 1
    num_gaps = host.load_totals().inter_token_s.count
    wait_until(lambda: host.load_totals().inter_token_s.count > num_gaps, 60)
    assert host.engine.abort("warm").result(60)
    seen = host.load_totals()
    assert seen.prompt_tokens == 2 * len(LONG) - NUM_CACHED
    assert (seen.admitted, seen.ended, seen.ttft_s.count) == (2, 2, 2)
    assert seen.output_tokens == seen.inter_token_s.count + 2


def test_aborted_ones_end_with_the_tokens_that_they_had(host):
    with held(host):
        host.engine.submit(request("never-ran"))
        aborted = host.engine.abort("never-ran")
    assert aborted.result(60)
    seen = host.load_totals()
    assert (seen.arrivals, seen.admitted, seen.ended, seen.output_tokens) == (1, 0, 1, 0)
    host.engine.submit(request("ran", max_tokens=ENDLESS)).result(60)
    wait_until(lambda: host.load_totals().inter_token_s.count >= 3, 60)
    assert host.engine.abort("ran").result(60)
    seen = host.load_totals()
    assert (seen.ended, seen.running, seen.ttft_s.count) == (2, 0, 1)
    assert seen.output_tokens == seen.inter_token_s.count + 1


def test_one_that_cannot_run_here_ends_without_a_token(host):
    error = host.engine.submit(request("too-long", range(ENDLESS + 100))).exception(10)
    assert error is not None
    seen = host.load_totals()
    assert (seen.arrivals, seen.ended, seen.output_tokens, seen.waiting) == (1, 1, 0, 0)


def test_a_stream_that_moved_here_is_no_arrival_and_ends_with_all_its_tokens(host):
    moved = replace(request("moved", max_tokens=10), resumed=(ResumedChoice((9, 9, 9, 9)),))
    host.engine.submit(moved).result(60)
    seen = ended(host, 1)
    assert (seen.arrivals, seen.admitted, seen.prompt_tokens) == (0, 0, 0)
    assert (seen.output_tokens, seen.output_squares) == (10, 100)
    assert (seen.ttft_s.count, seen.inter_token_s.count) == (0, 5)  # 6 tokens came from here


def test_what_a_gateway_that_stops_gives_up_has_not_ended():
    host = start()
    host.engine.submit(request("moves", max_tokens=ENDLESS)).result(60)
    wait_until(lambda: host.load_totals().ttft_s.count == 1, 60)
    host.stop()
    assert host.load_totals().ended == 0
