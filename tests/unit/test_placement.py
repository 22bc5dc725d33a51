from itertools import chain, combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.placement.availability import availability
from cluster.placement.balance import LoadWindow, balancedness, is_worth_moving, moved_experts
from cluster.placement.eplb import balanced_placement
from cluster.placement.packing import pack
from galerne.topology import Placement, contiguous_placement

relaxed = settings(deadline=None, max_examples=60)


def create_nodes(sizes):
    """Shards by node: ``create_nodes([2, 1])`` is a0, a1 on a and b0 on b."""
    return {
        name: [f"{name}{i}" for i in range(size)]
        for name, size in zip("abcdefgh", sizes, strict=False)
    }


def shards_of(nodes):
    return list(chain(*nodes.values()))


def create_load(seed, num_layers, num_experts):
    """Mostly skewed, with ties and idle experts."""
    rng = np.random.default_rng(seed)
    return np.floor(rng.pareto(1.0, (num_layers, num_experts)) * rng.integers(0, 3))


any_nodes = st.lists(st.integers(1, 3), min_size=1, max_size=4)
equal_nodes = st.builds(lambda size, count: [size] * count, st.integers(1, 3), st.integers(1, 4))


@st.composite
def requests(draw, sizes=any_nodes):
    """Arguments that fit together."""
    sizes = draw(sizes)
    num_shards, num_experts = sum(sizes), draw(st.integers(1, 10))
    min_replicas = draw(st.integers(1, num_shards))
    least = max(num_experts * min_replicas, num_shards)
    num_physical = draw(st.integers(least, max(least, num_experts * num_shards)))
    load = create_load(draw(st.integers(0, 2**32)), draw(st.integers(1, 4)), num_experts)
    return load, create_nodes(sizes), num_physical, min_replicas


# -- the placement ---------------------------------------------------------------------------


@relaxed
@given(requests())
def test_every_expert_has_its_replicas_on_distinct_shards_and_all_copies_are_placed(request):
    load, nodes, num_physical, min_replicas = request
    placement = balanced_placement(*request)
    assert len(placement.by_layer) == len(load)
    for layer in placement.by_layer:
        assert len(layer) == load.shape[1]
        assert sum(map(len, layer)) == num_physical
        for replicas in layer:
            assert len(set(replicas)) == len(replicas) >= min_replicas
            assert set(replicas) <= set(shards_of(nodes))


@relaxed
@given(requests())
def test_shards_hold_equal_numbers_in_every_layer_and_over_all_layers(request):
    load, nodes, num_physical, _ = request
    placement = balanced_placement(*request)
    held = np.array(
        [[len(ids) for ids in placement.experts_of(shard).values()] for shard in shards_of(nodes)]
    )  # [S, L]
    mean = num_physical / held.shape[0]
    assert (abs(held - mean) < 1).all()
    assert (abs(held.sum(axis=1) - mean * len(load)) < 1).all()


@relaxed
@given(requests(equal_nodes))
def test_copies_are_on_different_nodes_before_they_share_one(request):
    _, nodes, _, _ = request
    node_of = {shard: node for node, shards in nodes.items() for shard in shards}
    for replicas in chain(*balanced_placement(*request).by_layer):
        on_node = [[node_of[shard] for shard in replicas].count(node) for node in nodes]
        assert max(on_node) - min(on_node) <= 1


def test_the_shards_with_one_more_copy_are_on_different_nodes():
    # Were both on one node, it had 6 of the 10 copies, and some expert twice.
    nodes = create_nodes([2, 2])
    for layer in balanced_placement(np.ones((3, 5)), nodes, 10, min_replicas=2).by_layer:
        assert all({shard[0] for shard in replicas} == {"a", "b"} for replicas in layer)


@relaxed
@given(requests())
def test_the_same_load_gives_the_same_placement_whatever_its_unit(request):
    load, nodes, num_physical, min_replicas = request
    first = balanced_placement(*request)
    assert balanced_placement(load.copy(), dict(nodes), num_physical, min_replicas) == first
    assert balanced_placement(load * 8, nodes, num_physical, min_replicas) == first


@relaxed
@given(requests())
def test_replicas_are_listed_least_loaded_shard_first(request):
    load, nodes, _, _ = request
    for rows, layer in zip(load, balanced_placement(*request).by_layer, strict=True):
        on_shard = dict.fromkeys(shards_of(nodes), 0.0)
        for row_count, replicas in zip(rows, layer, strict=True):
            for shard in replicas:
                on_shard[shard] += row_count / len(replicas)
        for replicas in layer:
            listed = [on_shard[shard] for shard in replicas]
            assert listed == pytest.approx(sorted(listed))


def test_one_more_copy_goes_to_the_largest_load_per_copy_and_ties_to_the_lower_id():
    nodes = create_nodes([4])
    layer = balanced_placement(np.array([[6.0, 10.0, 6.0, 1.0]]), nodes, 7).by_layer[0]
    # 10 is halved, then of the two sixes the first, then the second.
    assert [len(replicas) for replicas in layer] == [2, 2, 2, 1]
    layer = balanced_placement(np.array([[6.0, 10.0, 6.0, 1.0]]), nodes, 6).by_layer[0]
    assert [len(replicas) for replicas in layer] == [2, 2, 1, 1]


def test_an_expert_with_all_the_load_is_on_every_shard_and_the_idle_ones_share_the_rest():
    layer = balanced_placement(np.array([[0.0, 7.0, 0.0]]), create_nodes([2, 2]), 8).by_layer[0]
    assert [len(replicas) for replicas in layer] == [2, 4, 2]


def test_heavy_experts_go_to_the_least_loaded_shards_with_ties_in_order():
    layer = balanced_placement(np.array([[8.0, 7.0, 3.0, 2.0]]), create_nodes([2]), 4).by_layer[0]
    assert layer == (("a0",), ("a1",), ("a1",), ("a0",))


@relaxed
@given(requests())
def test_without_load_copies_are_even(request):
    load, nodes, num_physical, min_replicas = request
    placement = balanced_placement(np.zeros_like(load), nodes, num_physical, min_replicas)
    for layer in placement.by_layer:
        counts = [len(replicas) for replicas in layer]
        assert max(counts) - min(counts) <= 1


def zipf(exponent, order):
    return np.array([1e4 / np.arange(1, 129) ** exponent])[:, order]


SKEWED = {
    "sorted": zipf(1.0, np.arange(128)),
    "shuffled": zipf(1.0, np.random.default_rng(7).permutation(128)),
    "steep": zipf(1.6, np.random.default_rng(8).permutation(128)),
    "flat": zipf(0.3, np.random.default_rng(9).permutation(128)),
    "one hot": np.where(np.arange(128) == 77, 1000.0, 1.0)[None],
    "hot range": np.where(np.arange(128) < 16, 50.0, 1.0)[None],
}


@pytest.mark.parametrize("load", SKEWED.values(), ids=SKEWED)
@pytest.mark.parametrize("sizes", [[8], [4, 4], [1] * 8, [3, 3, 3], [1, 5, 2]], ids=str)
@pytest.mark.parametrize("min_replicas", [1, 2])
def test_a_skewed_load_is_more_even_than_over_contiguous_ranges(load, sizes, min_replicas):
    nodes = create_nodes(sizes)
    shards = shards_of(nodes)
    contiguous = contiguous_placement(1, 128, shards, min_replicas)
    before = balancedness(load, contiguous, shards)
    placement = balanced_placement(load, nodes, 128 * min_replicas, min_replicas)
    assert balancedness(load, placement, shards) >= before


@pytest.mark.parametrize("load", SKEWED.values(), ids=SKEWED)
@pytest.mark.parametrize("sizes", [[8], [4, 4], [1] * 8, [3, 3, 3]], ids=str)
@pytest.mark.parametrize("min_replicas", [1, 2])
def test_a_skewed_load_is_nearly_even_with_a_few_more_copies(load, sizes, min_replicas):
    nodes = create_nodes(sizes)
    placement = balanced_placement(load, nodes, 128 * min_replicas + 32, min_replicas)
    assert balancedness(load, placement, shards_of(nodes)) > 0.9


@pytest.mark.parametrize(
    ("load", "nodes", "num_physical", "min_replicas", "named"),
    [
        (np.ones((1, 4)), create_nodes([2]), 3, 1, r"num_physical must be in \[4, 8\].*got 3"),
        (np.ones((1, 4)), create_nodes([2]), 9, 1, "got 9"),
        (np.ones((1, 4)), create_nodes([2]), 7, 2, r"in \[8, 8\]"),
        (np.ones((1, 2)), create_nodes([3]), 2, 1, "3 shards, got 2"),
        (np.ones((1, 4)), create_nodes([2]), 8, 3, r"min_replicas must be in \[1, 2\]"),
        (np.ones((1, 4)), create_nodes([2]), 8, 0, "min_replicas"),
        (np.ones((1, 4)), {}, 8, 1, r"\[1, 0\] shards"),
        (np.ones((1, 4)), {"a": ["s", "t"], "b": ["t"]}, 8, 1, "named twice: t"),
        (np.array([[1.0, -1.0]]), create_nodes([1]), 2, 1, "not negative"),
        (np.array([[1.0, np.nan]]), create_nodes([1]), 2, 1, "finite"),
        (np.ones(4), create_nodes([1]), 4, 1, "shape"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(load, nodes, num_physical, min_replicas, named):
    with pytest.raises(ValueError, match=named):
        balanced_placement(load, nodes, num_physical, min_replicas)


# -- packing ---------------------------------------------------------------------------------


def crowding(held):
    """What packing makes least: the k-th copy of an expert in a bin costs k."""
    return int((held * (held + 1) // 2).sum())


def all_packings(copies, room, width):
    rows = [
        [row for row in product(*(range(w + 1) for w in width)) if sum(row) == count]
        for count in copies
    ]
    return (
        held for held in map(np.array, product(*rows)) if held.sum(axis=0).tolist() == list(room)
    )


@st.composite
def packings(draw):
    """Load per copy, copies, rooms and widths; the widths may be too small for the rooms."""
    width = draw(st.lists(st.integers(1, 3), min_size=2, max_size=3))
    copies = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    bins = st.integers(0, len(width) - 1)
    places = draw(st.lists(bins, min_size=sum(copies), max_size=sum(copies)))
    load = draw(st.lists(st.integers(0, 9), min_size=len(copies), max_size=len(copies)))
    room = np.bincount(places, minlength=len(width))
    return np.array(load, float), np.array(copies), room, np.array(width)


@relaxed
@given(packings())
def test_packing_is_spread_as_well_as_any_that_fits(request):
    _, copies, room, width = request
    best = min(map(crowding, all_packings(copies, room, width)), default=None)
    if best is None:
        with pytest.raises(ValueError, match="rooms"):
            pack(*request)
        return
    held = pack(*request)
    assert held.sum(axis=1).tolist() == copies.tolist()
    assert held.sum(axis=0).tolist() == room.tolist()
    assert (held <= width).all()
    assert crowding(held) == best


def swaps_with(full, held):
    """The packings one swap of a bin with another away."""
    for other in set(range(held.shape[1])) - {full}:
        for gone, come in product(np.flatnonzero(held[:, full]), np.flatnonzero(held[:, other])):
            swapped = held.copy()
            swapped[gone, [full, other]] += [-1, 1]
            swapped[come, [full, other]] += [1, -1]
            yield other, swapped


@pytest.mark.parametrize("width", [[1, 1, 1, 1], [2, 2, 2], [1, 3, 2]], ids=str)
@pytest.mark.parametrize("seed", range(8))
def test_no_swap_that_spreads_as_well_relieves_the_fullest_bin(width, seed):
    rng = np.random.default_rng(seed)
    width = np.array(width)
    copies = rng.integers(1, 4, 12)
    load = rng.pareto(1.0, 12)
    turns = np.repeat(np.arange(len(width)), width)
    room = np.bincount(np.resize(turns, copies.sum()), minlength=len(width))
    held = pack(load, copies, room, width)
    full = int(np.argmax(load @ held / width))
    for other, swapped in swaps_with(full, held):
        if crowding(swapped) <= crowding(held) and (swapped <= width).all():
            fullest = (load @ swapped / width)[[full, other]].max()
            assert fullest > 0.998 * (load @ held / width)[full]


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
