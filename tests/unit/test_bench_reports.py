"""What the measuring tools make of what they saw."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.simulator.workload import Lengths
from tests.bench import regret_report
from tests.bench.auto_report import Phase, changes
from tests.bench.load_result import Answer, LoadResult, spread
from tests.bench.marked import marked, with_marked
from tests.bench.report import short_table
from tests.bench.topology_watch import Shape
from tests.bench.workloads import gamma

PHASES = [Phase("quiet", 1, 0, 100), Phase("burst", 9, 100, 200)]


def shapes(*times_and_names):
    return [Shape(1000.0 + at_s, name) for at_s, name in times_and_names]


def answer(number, due_s, gaps_s, ttft_s=0.5, error=""):
    return Answer(
        number,
        prompt_tokens=4,
        output_tokens=1 + len(gaps_s),
        due_s=due_s,
        ttft_s=ttft_s,
        gaps_s=gaps_s,
        completion_s=ttft_s + sum(gaps_s),
        error=error,
    )


def test_a_change_back_within_a_phase_is_one_and_a_change_back_in_the_next_phase_is_none():
    seen = shapes((-5, "a"), (10, "b"), (20, "a"), (120, "b"))
    made, back = changes(seen, 1000.0, PHASES)
    assert [change[2:] for change in made] == [("a", "b"), ("b", "a"), ("a", "b")]
    assert [change[2:] for change in back] == [("b", "a")]


def test_what_changed_before_the_load_began_does_not_count():
    made, back = changes(shapes((-9, "a"), (-5, "b"), (150, "a")), 1000.0, PHASES)
    assert [change[1:] for change in made] == [("burst", "b", "a")]
    assert not back


def test_rates_count_what_ended_within_the_time_and_latencies_who_was_due_in_it():
    result = LoadResult(
        [answer(0, 0.0, [1.0, 1.0]), answer(1, 1.0, [4.0]), answer(2, 5.0, [], error="lost")],
        began_unix_s=0.0,
        client_cpu_s=0.0,
    )
    found = result.summary(0.0, 4.0)
    assert (found["requests"], found["failed"]) == (2, 0)
    assert found["requests_per_s"] == 1 / 4  # the second ends at 5.5 s
    assert found["tokens_per_s"] == 4 / 4  # three of the first, one of the second
    assert found["completion_s"]["mean"] == pytest.approx((2.5 + 4.5) / 2)
    assert result.summary()["failed"] == 1


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_quantiles_lie_between_the_least_and_the_most_and_rise(values):
    found = spread(values)
    ordered = [min(values), found["p50"], found["p95"], found["p99"], found["max"]]
    assert ordered == sorted(ordered)


def test_regret_is_against_the_best_static_shape_of_each_load_that_answered_all():
    def row(completion_s, failed=0):
        return {"completion_s": completion_s, "requests_per_s": 1 / completion_s, "failed": failed}

    static = {
        "a": {"low": row(1.0), "high": row(8.0)},
        "b": {"low": row(2.0), "high": row(4.0)},
        "c": {"low": row(0.5, failed=3), "high": row(9.0)},
    }
    auto = {"low": row(1.1) | {"choice": "a"}, "high": row(4.0) | {"choice": "b"}}
    found = regret_report.judge(static, auto)
    assert found["low"]["best"] == "a"
    assert found["low"]["regret_cost"] == pytest.approx(0.1)
    assert found["high"]["regret_cost"] == 0
    assert regret_report.constant_regret({n: static[n] for n in "ab"}) == {"a": 1.0, "b": 1.0}


def test_gamma_arrivals_have_their_rate_and_their_variation():
    arrivals = list(gamma(10, 4.0, Lengths(prompt_mean=8, output_mean=8), 2000, seed=1))
    gaps = [b.at_s - a.at_s for a, b in itertools.pairwise(arrivals)]
    mean = sum(gaps) / len(gaps)
    cv2 = sum((gap - mean) ** 2 for gap in gaps) / len(gaps) / mean**2
    assert 1 / mean == pytest.approx(10, rel=0.1)
    assert cv2 == pytest.approx(4, rel=0.15)


def test_what_is_written_between_marks_takes_the_place_of_what_was_there_and_of_nothing_else():
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n"
    new = with_marked(text, "x", "new\nrows")
    assert new == "a\n<!-- x -->\nnew\nrows\n<!-- /x -->\nb\n"
    assert with_marked(new, "x", "new\nrows") == new
    assert marked(new, "x") == "new\nrows\n"


@pytest.mark.parametrize(
    "text", ["", "<!-- x -->\n", "<!-- /x -->\n<!-- x -->\n", "<!-- x -->\n<!-- /x -->\n" * 2]
)
def test_nothing_is_written_where_the_marks_are_not_there_once(text):
    with pytest.raises(ValueError, match="<!-- x -->"):
        with_marked(text, "x", "new")


def test_the_short_table_has_our_engine_in_its_widths_and_no_peers():
    rows = [
        ("1 stream", "galerne, experts in the gateway", "9 [8-10]", "0.90x"),
        ("1 stream", "galerne, int8 experts and dense", "12 [8-14]", "1.20x"),
        ("1 stream", "galerne, int4 experts and dense", "15 [8-16]", "1.50x"),
        ("1 stream", "llama.cpp BF16", "10 [9-11]", "1.00x"),
    ]
    assert (
        short_table(rows).splitlines()[-1] == "| 1 stream | 9 (0.90x) | 12 (1.20x) | 15 (1.50x) |"
    )
