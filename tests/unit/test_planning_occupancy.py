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


def slowly(rate, output, step_s, fraction, chunk_fraction, chunk_extra_s):
    """(gap, found, waits), by adding up one by one."""
    weights = [1.0]
    for n, seconds in enumerate(step_s[:-1], 1):
        weights.append(weights[-1] * rate * output * seconds / n)
    last = rate * output * step_s[-1] / len(step_s)
    weights.append(weights[-1] * last / max(1 - last, 1e-9))
    shares = [weight / sum(weights) for weight in weights]
    rates = [n * share / s for n, (share, s) in enumerate(zip(shares[1:], step_s, strict=True), 1)]
    gaps = []
    for own, seconds in zip(rates, step_s, strict=True):
        gaps.append((seconds, own / sum(rates) * (1 - chunk_fraction)))
        gaps.append((seconds + chunk_extra_s, own / sum(rates) * chunk_fraction))

    def quantile(pairs):
        passed = 0.0
        for value, probability in pairs:
            passed += probability
            if passed >= fraction:
                return value
        return pairs[-1][0]

    return quantile(sorted(gaps)), quantile(list(enumerate(shares))), shares[-1]


@given(SHARES, st.integers(1, 40), st.floats(0.1, 0.99), st.floats(0, 1), st.floats(0, 5))
def test_it_is_what_adding_up_one_by_one_gives(share, slots, fraction, chunks, extra_s):
    def decode_s(n):
        return 1.0 + 0.25 * n

    step_s = [decode_s(n) for n in range(1, slots + 1)]
    rate = share * slots / step_s[-1]
    found = occupancy(rate, 1.0, slots, decode_s)
    # At the edge between two values rounding decides.
    gaps, counts, waits = zip(
        *(slowly(rate, 1.0, step_s, fraction + d, chunks, extra_s) for d in (-1e-9, 1e-9)),
        strict=True,
    )
    assert found.waits == pytest.approx(waits[0])
    assert found.gap_s(fraction, chunks, extra_s) in [pytest.approx(gap_s) for gap_s in gaps]
    assert found.found(fraction) in counts
