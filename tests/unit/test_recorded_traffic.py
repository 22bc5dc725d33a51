"""What ``serve --record`` keeps is a workload: who came when, and how much there was to compute."""

from dataclasses import replace

import pytest

from cluster.simulator.recorded import recorded_arrivals
from galerne.errors import ConfigError
from helpers.gateways import request
from helpers.recorded import PROMPT, planned, record, sampled
from router.engine.request import ResumedChoice
from router.gateway import record_events as events


def relative(directory):
    found = recorded_arrivals(directory)
    return [(round(a.at_s - found[0].at_s, 3), *a[1:]) for a in found]


def test_arrivals_have_the_time_the_prompt_that_no_cache_held_and_the_tokens_that_came(tmp_path):
    record(
        tmp_path,
        (1.0, events.Added(request("a", PROMPT))),
        (1.1, planned("a")),
        (1.2, sampled("a", 0)),
        (3.5, events.Added(request("b", PROMPT))),
        (3.5, planned("b", start=32)),
        (3.6, sampled("a", 1, num=2)),
        (3.7, sampled("b", 0)),
        (3.8, planned("b", start=0)),  # it was preempted: its prompt is no new one
    )
    assert relative(tmp_path) == [(0.0, 40, 3), (2.5, 8, 1)]


def test_records_of_several_gateways_share_one_clock(tmp_path):
    one = (events.Added(request("a", PROMPT)), planned("a"), sampled("a", 0))
    two = (events.Added(request("b", PROMPT)), planned("b"), sampled("b", 0, num=4))
    record(tmp_path, *((9.0, event) for event in one))
    record(tmp_path, *((1.0, event) for event in two), gateway="gateway-1", second=5)
    assert relative(tmp_path) == [(0.0, 40, 4), (3.0, 40, 1)]


def test_a_request_that_went_on_at_another_gateway_came_once(tmp_path):
    asked = request("a", PROMPT)
    rest = replace(asked, resumed=(ResumedChoice((1, 2)),))
    record(
        tmp_path,
        *((2.0, event) for event in (events.Added(rest), planned("a"), sampled("a", 2, num=5))),
    )
    began = (events.Added(asked), planned("a"), sampled("a", 0, num=2))
    record(tmp_path, *((1.0, event) for event in began), gateway="gateway-1")
    assert relative(tmp_path) == [(0.0, 40, 7)]


def test_every_choice_is_an_answer_and_who_got_no_token_is_none(tmp_path):
    record(
        tmp_path,
        (1.0, events.Added(request("two", PROMPT, n=2, temperature=1.0))),
        (1.0, events.Added(request("gone", PROMPT))),
        (1.1, sampled("two", 0, num=3)),
        (1.1, sampled("two", 0, num=6, choice=1)),
        (1.2, events.Aborted("gone", None, (0,))),
    )
    assert [a.output_tokens for a in recorded_arrivals(tmp_path)] == [3, 6]


def test_the_same_id_again_is_another_request(tmp_path):
    once = [events.Added(request("a", PROMPT)), planned("a"), sampled("a", 0)]
    record(tmp_path, *((float(i), event) for i, event in enumerate(once * 2)))
    assert relative(tmp_path) == [(0.0, 40, 1), (3.0, 40, 1)]


def test_a_directory_without_traffic_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no record"):
        recorded_arrivals(tmp_path)
    record(tmp_path, (1.0, events.Added(request("a", PROMPT))))
    with pytest.raises(ConfigError, match="no request was answered"):
        recorded_arrivals(tmp_path)
