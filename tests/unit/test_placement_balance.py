"""What a placement is worth: what a loss would cost, how even it is, whether a move pays."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.placement.availability import availability
from cluster.placement.balance import LoadWindow, balancedness, is_worth_moving, moved_experts
from cluster.placement.eplb import balanced_placement
from galerne.topology import Placement, contiguous_placement
from helpers.placements import create_load, create_nodes, relaxed, shards_of

# -- availability ----------------------------------------------------------------------------

CLUSTER = create_nodes([2, 1, 2])
placements = st.lists(
    st.lists(
        st.lists(st.sampled_from(shards_of(CLUSTER)), max_size=4, unique=True).map(tuple),
        min_size=1,
        max_size=5,
    ).map(tuple),
    max_size=3,
).map(lambda layers: Placement(tuple(layers)))


def num_lost(placement, down):
    return sum(set(replicas) <= set(down) for layer in placement.by_layer for replicas in layer)


def pairs_that_lose(placement, domains):
    pairs = [[*first, *second] for first, second in combinations(domains, 2)]
    return sum(num_lost(placement, down) > 0 for down in pairs) / len(pairs)


@relaxed
@given(placements)
def test_availability_is_what_taking_down_every_shard_and_node_shows(placement):
    found = availability(placement, CLUSTER)
    shards = [[shard] for shard in shards_of(CLUSTER)]
    nodes = list(CLUSTER.values())
    assert found.lost_with_any_one_shard == max(num_lost(placement, down) for down in shards)
    assert found.lost_with_any_one_node == max(num_lost(placement, down) for down in nodes)
    assert found.any_two_shards_probability == pytest.approx(pairs_that_lose(placement, shards))
    assert found.any_two_nodes_probability == pytest.approx(pairs_that_lose(placement, nodes))


@pytest.mark.parametrize("min_replicas", [2, 3])
def test_as_many_nodes_as_copies_but_one_may_be_lost(min_replicas):
    nodes = create_nodes([2, 2, 2])
    load = create_load(3, 4, 16)
    found = availability(balanced_placement(load, nodes, 54, min_replicas), nodes)
    assert found.lost_with_any_one_node == found.lost_with_any_one_shard == 0
    assert (found.any_two_nodes_probability == 0) == (min_replicas == 3)


def test_a_node_without_shards_changes_nothing():
    nodes = create_nodes([2, 1])
    with_empty = {"empty": [], **nodes, "last": []}
    load = create_load(5, 2, 6)
    placement = balanced_placement(load, nodes, 12, 2)
    assert balanced_placement(load, with_empty, 12, 2) == placement
    assert availability(placement, with_empty) == availability(placement, nodes)


def test_availability_reads_as_one_sentence():
    nodes = create_nodes([1, 1, 1])
    placement = Placement(((("a0", "b0"), ("a0", "b0", "c0")),))
    assert availability(placement, nodes).text == (
        "any one node lost: 0 experts without a live copy; any two: 33 % of pairs lose some"
    )
    one_node = {"a": ["a0", "b0", "c0"]}
    placement = Placement(((("a0",), ("b0", "c0")),))
    assert availability(placement, one_node).text == (
        "any one shard lost: 1 expert without a live copy; any two: 100 % of pairs lose some"
    )


def test_a_replica_outside_the_cluster_is_refused():
    with pytest.raises(ValueError, match="z9"):
        availability(Placement(((("z9",),),)), CLUSTER)
    with pytest.raises(ValueError, match="z9"):
        balancedness(np.ones((1, 1)), Placement(((("z9",),),)), ["a0"])


# -- balance ---------------------------------------------------------------------------------


def test_balancedness_is_the_mean_over_layers_of_mean_to_largest_shard_load():
    placement = Placement(((("a",), ("b",)), (("a", "b"), ("b",)), (("a",), ("a",))))
    load = np.array([[3.0, 1.0], [4.0, 2.0], [0.0, 0.0]])
    # 2 of 3, then 3 of 4, then nothing to do.
    assert balancedness(load, placement, ["a", "b"]) == pytest.approx((2 / 3 + 3 / 4 + 1) / 3)
    assert balancedness(load[:1], Placement(placement.by_layer[:1]), "abcd") == pytest.approx(1 / 3)


@relaxed
@given(st.integers(1, 50), st.floats(0.001, 1e9))
def test_balancedness_of_equal_loads_is_exactly_one(num_shards, rows):
    shards = [str(i) for i in range(num_shards)]
    placement = contiguous_placement(1, num_shards, shards)
    found = balancedness(np.full((1, num_shards), rows), placement, shards)
    assert found == pytest.approx(1)
    assert found <= 1


@pytest.mark.parametrize("shape", [(2, 2), (1, 3)])
def test_a_load_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"placement of 1|not 2"):
        balancedness(np.ones(shape), Placement(((("a",), ("a",)),)), ["a"])


def test_a_window_is_newest_less_oldest_of_the_last_snapshots():
    window = LoadWindow(3)
    counters = np.array([[5, 0]])
    window.add(counters)
    assert window.load() is None
    counters += [[1, 2]]  # in place: the window must have its own copy
    window.add(counters)
    assert window.load().tolist() == [[1, 2]]
    window.add([[10, 2]])
    assert window.load().tolist() == [[5, 2]]
    window.add([[11, 3]])
    assert window.load().tolist() == [[5, 1]]


def test_a_window_counts_on_when_counters_restart_at_zero():
    window = LoadWindow(3)
    for counters in ([[100, 100]], [[110, 100]], [[4, 107]]):  # 107: all since the restart
        window.add(counters)
    assert window.load().tolist() == [[14, 107]]
    window.add([[5, 107]])
    assert window.load().tolist() == [[5, 107]]


@relaxed
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=20), st.integers(2, 5))
def test_a_window_is_the_rows_of_its_time_whatever_restarts(steps, num_snapshots):
    window = LoadWindow(num_snapshots)
    counters, rows_by_step = np.array([[1000, 1000]]), []
    window.add(counters)
    for number, (row_count, restarts) in enumerate(steps):
        # The second counter falls at every restart, so that each can be seen.
        rows = np.array([[row_count, 100 - number if restarts else 1000]])
        counters = rows if restarts else counters + rows
        rows_by_step.append(rows)
        window.add(counters)
    kept = rows_by_step[1 - num_snapshots :]
    if kept:
        assert window.load().tolist() == np.sum(kept, axis=0).tolist()
    else:
        assert window.load() is None


def test_a_window_refuses_another_shape_and_less_than_two_snapshots():
    window = LoadWindow(2)
    window.add(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"\(2, 4\) after \(2, 3\)"):
        window.add(np.ones((2, 4)))
    with pytest.raises(ValueError, match="2 snapshots, got 1"):
        LoadWindow(1)


# -- is it worth it --------------------------------------------------------------------------


def create_verdict(**overrides):
    """Half of 0.4 s per second is saved for 100 s: 20 s, for 8 s of loading."""
    arguments = {
        "old_balancedness": 0.4,
        "new_balancedness": 0.8,
        "step_expert_seconds_per_second": 0.4,
        "horizon_s": 100.0,
        "moved_bytes": 16 * 2**30,
        "load_bytes_per_s": 2.0 * 2**30,
    }
    return is_worth_moving(**(arguments | overrides))


def test_a_move_that_gains_more_than_it_costs_is_worth_it():
    verdict = create_verdict()
    assert verdict.is_worth
    assert (verdict.gain_s, verdict.cost_s) == pytest.approx((20, 8))
    assert verdict.reason == (
        "worth it: balancedness 0.40 to 0.80 saves 20.0 s of expert time in 100 s; "
        "loading 16.00 GiB costs 8.0 s"
    )


@pytest.mark.parametrize(
    "overrides",
    [
        {"horizon_s": 39.0},
        {"moved_bytes": 41 * 2**30},
        {"load_bytes_per_s": 0.7 * 2**30},
        {"step_expert_seconds_per_second": 0.1},
        {"new_balancedness": 0.45},
        {"new_balancedness": 0.3},
        {"new_balancedness": 0.4, "moved_bytes": 0},  # nothing gained, nothing to do
    ],
    ids=str,
)
def test_a_move_that_gains_less_than_it_costs_is_refused(overrides):
    verdict = create_verdict(**overrides)
    assert not verdict.is_worth
    assert verdict.reason.startswith("refused: ")


@pytest.mark.parametrize(
    "overrides",
    [
        {"old_balancedness": 0.0},
        {"new_balancedness": 1.1},
        {"horizon_s": -1.0},
        {"load_bytes_per_s": 0.0},
    ],
    ids=str,
)
def test_a_verdict_on_impossible_numbers_is_refused(overrides):
    with pytest.raises(ValueError, match="must"):
        create_verdict(**overrides)


def test_moved_experts_are_those_that_a_shard_does_not_hold_yet():
    old = Placement(((("a",), ("a", "b")), (("b",), ("b",))))
    new = Placement(((("b", "a"), ("b",)), (("c",), ("c", "a"))))
    assert moved_experts(old, new, "abc") == {"a": 1, "b": 1, "c": 2}
    assert moved_experts(new, new, "abc") == {"a": 0, "b": 0, "c": 0}
    with pytest.raises(ValueError, match="different numbers"):
        moved_experts(old, Placement(old.by_layer[:1]), "abc")
