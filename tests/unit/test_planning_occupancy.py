"""How many run at once, against formulas that are known."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.planning.occupancy import occupancy

SHARES = st.floats(0.05, 0.95)  # of what all slots together carry


@given(SHARES)
def test_step_in_proportion_to_who_runs_is_a_single_server(share):
    """Every token takes as long, however many run: a geometric number (M/M/1)."""
    found = occupancy(share, 1.0, 8, lambda n: n)
    for n, probability in enumerate(found.probabilities):
        assert probability == pytest.approx((1 - share) * share**n)
    assert found.waits == pytest.approx(share**8)


@given(st.floats(0.05, 3.9))
def test_step_of_one_length_is_as_many_servers(load):
    """Erlang's C, for 4 servers."""
    found = occupancy(load, 1.0, 4, lambda n: 1.0)
    terms = [load**n / math.factorial(n) for n in range(5)]
    queued = terms[4] / (1 - load / 4)
    assert found.waits == pytest.approx(queued / (sum(terms[:4]) + queued))


@given(SHARES, SHARES)
def test_more_load_leaves_fewer_slots_and_longer_gaps(one, other):
    few, many = (
        occupancy(share * 16, 1.0, 16, lambda n: 1.0 + 0.1 * n, 0.38)
        for share in sorted((one, other))
    )
    assert few.waits <= many.waits + 1e-12
    for part in (0.5, 0.95):
        assert few.found(part) <= many.found(part)
        assert few.gap_s(part, 0.0, 0.0) <= many.gap_s(part, 0.0, 0.0)


def test_chunk_is_felt_once_more_steps_carry_one_than_the_quantile_leaves_out():
    found = occupancy(0.1, 1.0, 4, lambda n: 1.0)
    assert found.gap_s(0.95, 0.04, 9.0) == 1.0
    assert found.gap_s(0.95, 0.06, 9.0) == 10.0
    assert found.gap_s(0.5, 0.06, 9.0) == 1.0


def test_nobody_is_found_without_load():
    found = occupancy(0.0, 10.0, 4, lambda n: n)
    assert found.found(0.95) == 0
    assert found.gap_s(0.95, 0.0, 0.0) == 1.0
