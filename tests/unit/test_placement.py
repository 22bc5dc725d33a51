"""The balanced placement: copies, packing, evenness."""

from itertools import chain, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.placement.balance import balancedness
from cluster.placement.eplb import balanced_placement
from cluster.placement.packing import pack
from galerne.topology import contiguous_placement
from helpers.placements import create_nodes, equal_nodes, relaxed, requests, shards_of

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
