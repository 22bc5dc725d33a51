"""Which part of a deployment goes to which node."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.nodes import Node, node_by_part


def spread(num_gateways, num_shards, num_nodes, num_replicas=1, num_cpus=4.0):
    nodes = [Node(f"node-{i}", num_cpus, is_head=not i) for i in range(num_nodes)]
    gateways = [f"gateway-{i}" for i in range(num_gateways)]
    shards = [f"shard-{i}" for i in range(num_shards)]
    homes = node_by_part(gateways, shards, nodes, num_replicas=num_replicas, cpu_per_part=0.1)
    return [homes[g] for g in gateways], [homes[s] for s in shards]


def test_the_first_gateway_and_the_first_shard_are_on_the_head():
    assert spread(1, 3, 3) == (["node-0"], ["node-0", "node-1", "node-2"])


def test_one_shard_too_many_does_not_lie_beside_its_neighbours():
    assert spread(1, 4, 3, 2)[1] == ["node-0", "node-1", "node-2", "node-1"]


@given(st.integers(1, 4), st.integers(1, 20), st.integers(1, 6))
def test_each_kind_is_spread_evenly(num_gateways, num_shards, num_nodes):
    for homes in spread(num_gateways, num_shards, num_nodes):
        counts = Counter(homes)
        assert max(counts.values()) - min(counts[f"node-{i}"] for i in range(num_nodes)) <= 1


@given(st.integers(2, 20), st.integers(2, 6))
def test_two_copies_are_on_two_nodes_where_that_is_possible(num_shards, num_nodes):
    homes = spread(1, num_shards, num_nodes, 2)[1]
    pairs = zip(homes, homes[1:] + homes[:1], strict=True)
    assert sum(one == other for one, other in pairs) == (num_nodes == 2 and num_shards % 2)


def test_a_node_without_cpus_gets_nothing_and_a_small_one_little():
    nodes = [Node("head", 0.0, is_head=True), Node("small", 0.1, False), Node("big", 1.0, False)]
    parts = ["a", "b", "c", "d"]
    homes = node_by_part(["g"], parts, nodes, num_replicas=1, cpu_per_part=0.1)
    assert homes == {"g": "small"} | dict.fromkeys(parts, "big")


def test_too_many_parts_are_refused():
    with pytest.raises(ValueError, match="have room for 4 parts"):
        spread(2, 3, 2, num_cpus=0.2)
