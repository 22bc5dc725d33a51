"""Curves go through what was measured and never fall."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.planning.costs import Curve, Knot

UNITS = st.floats(0.01, 1e4)


@st.composite
def curves(draw):
    units = sorted(draw(st.sets(st.integers(1, 2000), min_size=1, max_size=8)))
    seconds = sorted(draw(st.lists(st.floats(1e-6, 1.0), min_size=len(units), max_size=len(units))))
    return Curve(tuple(map(Knot, units, seconds)))


@given(curves())
def test_curve_goes_through_its_knots(curve):
    for units, seconds in curve.knots:
        assert curve.seconds(units) == pytest.approx(seconds)


@given(curves(), UNITS, UNITS)
def test_more_never_takes_less(curve, one, other):
    less, more = sorted((one, other))
    assert curve.seconds(less) <= curve.seconds(more) * (1 + 1e-12)


def test_ends_go_on_as_they_were():
    curve = Curve((Knot(2, 1.0), Knot(4, 2.0), Knot(8, 3.0)))
    assert curve.seconds(0) == 1.0
    assert curve.seconds(3) == 1.5
    assert curve.seconds(12) == 4.0


@pytest.mark.parametrize(
    "knots",
    [
        (),
        (Knot(1, -1.0),),
        (Knot(1, float("nan")),),
        (Knot(2, 1.0), Knot(1, 2.0)),
        (Knot(1, 2.0), Knot(2, 1.0)),
    ],
)
def test_knots_that_cannot_be_are_refused(knots):
    with pytest.raises(ValueError, match="knots"):
        Curve(knots)
