"""How many frontends there are to be: laws of the decision, and Serve's view of it."""

import importlib
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import load_config
from cluster.ingress.frontend_policy import (
    BUSY,
    FRESH_S,
    HIGH_BUSY,
    LAG_S,
    LATE_S,
    LOW_BUSY,
    FrontendLoad,
    loads_of,
    scale_frontends,
    wanted_frontends,
)
from cluster.ingress.frontend_scaling import FrontendScaling, FrontendSettings
from galerne.errors import ConfigError

loads = st.builds(FrontendLoad, st.floats(0, 1.5), st.floats(0, 1))
several = st.lists(loads, min_size=1, max_size=16)
bounds = st.tuples(st.integers(1, 16), st.integers(0, 15)).map(lambda b: (b[0], b[0] + b[1]))


def wanted(current, told, bounds=(1, 64)):
    return wanted_frontends(current, told, at_least=bounds[0], at_most=bounds[1])


@given(several, bounds)
def test_the_number_stays_within_its_bounds(told, bounds):
    assert bounds[0] <= wanted(len(told), told, bounds) <= bounds[1]


@given(st.integers(1, 16), bounds)
def test_nothing_known_changes_nothing(current, bounds):
    assert wanted(current, [], bounds) == min(max(current, bounds[0]), bounds[1])


@given(several, st.data())
def test_more_to_do_never_means_fewer(told, data):
    at = data.draw(st.integers(0, len(told) - 1))
    more = data.draw(st.tuples(st.floats(0, 1), st.floats(0, 1)))
    busier = list(told)
    busier[at] = FrontendLoad(told[at].busy + more[0], told[at].lag_s + more[1])
    assert wanted(len(told), busier) >= wanted(len(told), told)


@given(st.floats(0, 16), st.integers(1, 16), st.lists(st.floats(0, 1), min_size=20, max_size=20))
def test_a_load_that_does_not_change_is_answered_once(total, current, lags):
    """However loops lag meanwhile: it may fall once, at first, and then only grows to a bound."""
    numbers = [current]
    for lag_s in lags:
        told = [FrontendLoad(total / numbers[-1], lag_s)] * numbers[-1]
        numbers.append(wanted(numbers[-1], told))
    assert sorted(numbers[1:]) == numbers[1:]
    assert numbers[-1] <= max(1, math.ceil(total / LOW_BUSY))


@given(st.floats(0.01, 16), st.integers(1, 16))
def test_where_it_settles_nobody_has_too_much_to_do_and_not_all_have_too_little(total, current):
    told = [FrontendLoad(total / current, 0.0)] * current
    settled = wanted(current, told)
    assert total / settled <= HIGH_BUSY + 1e-9
    if settled > 1 and settled != current:
        assert total / (settled - 1) > LOW_BUSY - 1e-9


def test_a_late_loop_counts_as_saturated_only_where_it_is_busy_itself():
    assert wanted(1, [FrontendLoad(0.6, 0.0)]) == 1
    assert wanted(1, [FrontendLoad(0.6, LATE_S)]) == 2
    assert wanted(1, [FrontendLoad(0.1, 10 * LATE_S)]) == 1  # others have the cores
    assert wanted(4, [FrontendLoad(0.02, 0.0)] * 4) == 1


# -- what Serve gives ---------------------------------------------------------------------------


def sample(at_s, value):
    return SimpleNamespace(timestamp=at_s, value=value)


def context(metrics, **changes):
    """What is used of ``ray.serve.config.AutoscalingContext``, of two that run."""
    fields = {
        "target_num_replicas": 2,
        "running_replicas": ["a", "b"],
        "raw_metrics": metrics,
        "capacity_adjusted_min_replicas": 1,
        "capacity_adjusted_max_replicas": 4,
        "last_scale_up_time": None,
        "last_scale_down_time": None,
        "current_time": 1000.0,
        "config": SimpleNamespace(look_back_period_s=30.0),
    }
    return SimpleNamespace(**fields | changes)


def told(busy, at_s=(980.0, 990.0), lag_s=0.0):
    """Metrics of two frontends, each as busy as the other."""
    series = {one: [sample(at, busy) for at in at_s] for one in ("a", "b")}
    late = {one: [sample(at, lag_s) for at in at_s] for one in ("a", "b")}
    return {BUSY: series, LAG_S: late, "running_requests": {}}


@pytest.mark.parametrize(
    ("metrics", "changes", "expected"),
    [
        (told(0.9), {}, 3),
        (told(0.1), {}, 1),
        (told(0.5), {}, 2),
        (told(0.9), {"capacity_adjusted_max_replicas": 2}, 2),
        (told(0.9), {"running_replicas": ["a"]}, 2),  # the other one starts
        (told(0.9), {"running_replicas": ["a", "c"]}, 2),  # it has told nothing yet
        (told(0.1), {"last_scale_up_time": 995.0}, 2),  # since then nothing was told
        (told(0.1, at_s=(900.0, 960.0)), {}, 2),  # too long ago
        ({}, {}, 2),
        ({BUSY: told(0.9)[BUSY]}, {}, 2),
    ],
)
def test_the_policy_decides_by_what_all_have_told_lately(metrics, changes, expected):
    number, state = scale_frontends(context(metrics, **changes))
    assert (number, state) == (expected, {})


def test_what_was_before_the_newest_came_does_not_count():
    busy = {"a": [sample(100, 1.0), sample(110, 1.0), sample(120, 0.4)], "b": [sample(115, 0.4)]}
    lag = {"a": [sample(120, 0.0)], "b": [sample(115, 0.2)]}
    got = loads_of(busy, lag, ["a", "b"], 90.0, 125.0)
    assert got == [FrontendLoad(0.4, 0.0), FrontendLoad(0.4, 0.2)]
    assert loads_of(busy, lag, ["a", "b"], 90.0, 115.0 + FRESH_S + 1) == []


def test_serve_finds_the_policy_and_the_bounds_where_it_looks_for_them():
    scaling = FrontendScaling(at_least=2, at_most=5, first=3, shrink_after_s=7.0)
    told = scaling.deployment_options()["autoscaling_config"]
    assert (told["min_replicas"], told["initial_replicas"], told["max_replicas"]) == (2, 3, 5)
    assert told["downscale_delay_s"] == 7.0
    module, _, function = told["policy"]["policy_function"].partition(":")
    assert getattr(importlib.import_module(module), function) is scale_frontends


# -- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "cores", "expected"),
    [
        ({}, 2, (1, 1)),
        ({}, 16, (1, 2)),
        ({}, 1000, (1, 16)),
        ({"max": 3}, 2, (1, 3)),
        ({"min": 2}, 2, (2, 2)),
    ],
)
def test_on_few_cores_there_is_one_frontend_unless_asked(settings, cores, expected):
    scaling = FrontendSettings(**settings).scaling(cores)
    assert (scaling.at_least, scaling.at_most) == expected
    options = scaling.deployment_options()
    assert options.get("num_replicas") == (expected[0] if scaling.is_fixed else None)
    assert replace(scaling).is_fixed == ("autoscaling_config" not in options)
    assert math.isfinite(options["graceful_shutdown_timeout_s"])


def test_the_flag_goes_into_the_mapping_and_wrong_bounds_are_refused(tmp_path):
    file = tmp_path / "serve.yaml"
    file.write_text("frontends: {min: 2}\n")
    config = load_config(file, {"max_frontends": 4})
    assert (config.frontends.min, config.frontends.max) == (2, 4)
    with pytest.raises(ConfigError, match=r"frontends.*max must be at least min"):
        load_config(file, {"max_frontends": 1})
    with pytest.raises(ConfigError, match=r"frontends\.max=17"):
        load_config(None, {"max_frontends": 17})
