"""Counts of rows as colours."""

import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from router.api.heat_map import NUM_LEVELS, heat_map

COUNTS = st.integers(1, 6).flatmap(
    lambda experts: st.lists(
        st.lists(st.integers(0, 10**9) | st.integers(0, 3), min_size=experts, max_size=experts),
        min_size=1,
        max_size=4,
    )
)


def painted(step):
    """(layer, expert) of a step's cells."""
    for x, y, width, back in re.findall(r"M(\d+) (\d+)h(\d+)v1h-(\d+)z", step.path):
        assert width == back
        yield from ((int(y), int(x) + i) for i in range(int(width)))


@given(COUNTS)
def test_every_cell_with_rows_is_painted_once_in_the_colour_of_its_count(rows):
    heat = heat_map(rows)
    if not any(map(sum, rows)):
        assert heat is None
        return
    cells = [(cell, step) for step in heat.steps for cell in painted(step)]
    assert len(cells) == len(dict(cells)) == sum(count > 0 for layer in rows for count in layer)
    for (layer, expert), step in cells:
        assert step.at_least <= rows[layer][expert] <= step.at_most
    assert heat.num_rows == sum(map(sum, rows))
    assert (heat.num_layers, heat.num_experts) == (len(rows), len(rows[0]))


@given(COUNTS)
def test_colours_follow_each_other_up_to_the_largest_count(rows):
    heat = heat_map(rows)
    if heat is None:
        return
    assert heat.steps[0].at_least == 1
    assert heat.steps[-1].at_most == max(map(max, rows))
    assert all(a.at_most + 1 == b.at_least for a, b in pairwise(heat.steps))
    levels = [step.level for step in heat.steps]
    assert levels == sorted(set(levels))
    assert set(levels) <= set(range(1, NUM_LEVELS + 1))


def test_neighbours_of_one_colour_are_one_rectangle():
    heat = heat_map([[8, 8, 8, 0, 8]])
    assert heat.steps[-1].path == "M0 0h3v1h-3zM4 0h1v1h-1z"


def test_the_busiest_experts_come_first_and_know_how_far_they_are_above_their_layer():
    heat = heat_map([[1, 1, 1, 5], [10, 0, 0, 0]])
    first, second = heat.busiest[:2]
    assert (first.layer, first.expert, first.rows, first.times_mean) == (1, 0, 10, 4.0)
    assert (second.layer, second.expert, second.rows, second.times_mean) == (0, 3, 5, 2.5)
    assert len(heat.busiest) == 5
