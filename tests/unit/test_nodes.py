"""Which part of a deployment goes to which node."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.nodes import Node, Role, choose_nodes, node_by_part, node_of, nodes_with_gpus


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


def with_gpus(*numbers):
    return [Node(f"node-{i}", 4.0, is_head=not i, num_gpus=n) for i, n in enumerate(numbers)]


def test_parts_on_gpus_go_where_gpus_are_left():
    parts = ["s-0", "s-1", "s-2"]
    homes = node_by_part(
        *(["g"], parts, with_gpus(1, 2, 1)),
        num_replicas=1,
        cpu_per_part=0.1,
        on_gpus={"g", *parts},
    )
    assert Counter(homes.values()) == {"node-0": 1, "node-1": 2, "node-2": 1}


def test_gpus_of_parts_that_stay_are_not_given_twice():
    with pytest.raises(ValueError, match="no node that may hold s-1 has a GPU for it"):
        node_by_part(
            *([], ["s-0", "s-1"], with_gpus(1)),
            num_replicas=1,
            cpu_per_part=0.1,
            staying={"s-0": "node-0"},
            on_gpus={"s-0", "s-1"},
        )


def test_shards_on_cores_leave_gpus_to_gateways():
    nodes = nodes_with_gpus(with_gpus(0, 1), gateways=True, shards=False)
    assert [node.role for node in nodes] == [Role.SHARD, None]
    homes = node_by_part(
        *(["g"], ["s-0", "s-1"], nodes), num_replicas=1, cpu_per_part=0.1, on_gpus={"g"}
    )
    assert homes["g"] == "node-1"


@pytest.mark.parametrize("role", [None, *Role])
def test_a_node_without_a_gpu_holds_no_part_that_needs_one(role):
    bare = Node("bare", 4.0, is_head=True, role=role)
    [kept] = nodes_with_gpus([bare], gateways=False, shards=False)
    assert kept == bare
    [mixed] = nodes_with_gpus([bare], gateways=True, shards=False)
    assert (mixed.num_cpus > 0, mixed.role) == (role is not Role.GATEWAY, role or Role.SHARD)
    [none] = nodes_with_gpus([bare], gateways=True, shards=True)
    assert none.num_cpus == 0


GATEWAY, SHARD = Role.GATEWAY, Role.SHARD
roles = st.lists(st.sampled_from([GATEWAY, SHARD, None]), max_size=6)


def labelled(*kinds):
    return [Node(f"node-{i}", 4.0, is_head=not i, role=role) for i, role in enumerate(kinds)]


def place(gateways, shards, nodes, num_replicas=1, **fields):
    parts = [f"gateway-{i}" for i in range(gateways)], [f"shard-{i}" for i in range(shards)]
    fields = {"num_replicas": num_replicas, "cpu_per_part": 0.1, **fields}
    homes = node_by_part(*parts, nodes, **fields)
    return [homes[part] for part in parts[0]], [homes[part] for part in parts[1]]


def test_gateways_go_to_none_of_the_shards_nodes_and_shards_to_none_of_theirs():
    nodes = labelled(SHARD, GATEWAY, SHARD)
    assert place(2, 4, nodes) == (["node-1"] * 2, ["node-0", "node-2"] * 2)


def test_nodes_for_both_take_what_those_for_shards_have_no_room_for():
    nodes = [Node("both", 1.0, True), Node("own", 0.2, False, role=SHARD)]
    assert place(1, 4, nodes) == (["both"], ["own", "own", "both", "both"])


def test_a_second_copy_goes_to_a_node_for_both_rather_than_beside_the_first():
    assert place(1, 2, labelled(None, SHARD), num_replicas=2)[1] == ["node-1", "node-0"]


def test_shards_go_to_gateways_nodes_where_there_are_no_others():
    assert place(1, 2, labelled(GATEWAY, GATEWAY))[1] == ["node-0", "node-1"]


def test_a_gateway_without_a_node_for_it_is_refused():
    with pytest.raises(ValueError, match="no node that may hold gateway-0"):
        place(1, 1, labelled(SHARD, SHARD))


def test_shards_are_beside_the_gateways_or_apart_from_them_as_the_candidate_says():
    nodes = labelled(None, None, None, None)
    beside = place(2, 4, nodes, gateway_nodes=2, shard_nodes=0)
    assert beside == (["node-0", "node-1"], ["node-0", "node-1"] * 2)
    apart = place(2, 4, nodes, gateway_nodes=2, shard_nodes=2)
    assert apart == (["node-0", "node-1"], ["node-2", "node-3"] * 2)


def test_a_new_gateway_goes_where_none_is_and_who_stays_is_not_moved():
    staying = {"gateway-0": "node-1", "shard-0": "node-1"}
    homes = place(2, 2, labelled(None, None, None), gateway_nodes=2, staying=staying)
    assert homes == (["node-1", "node-0"], ["node-1", "node-0"])


def test_a_shape_with_more_nodes_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"0 node\(s\) for gateways and 1 for shards"):
        place(1, 2, labelled(None, None), gateway_nodes=1, shard_nodes=2)


@given(roles, st.integers(0, 6), st.integers(0, 6))
def test_nodes_are_missing_only_where_no_other_choice_has_more(kinds, gateways, shards):
    """Hall's theorem, for two kinds of parts and three of nodes."""
    chosen = choose_nodes(labelled(*kinds), gateways, shards)
    ids = [node.id for node in (*chosen.gateways, *chosen.shards)]
    assert len(set(ids)) == len(ids)
    assert not {node.role for node in chosen.gateways} & {SHARD}
    assert not {node.role for node in chosen.shards} & {GATEWAY}
    count = Counter(kinds)
    lacking = max(
        0,
        gateways - count[GATEWAY] - count[None],
        shards - count[SHARD] - count[None],
        gateways + shards - len(kinds),
        max(gateways - count[GATEWAY], 0) + max(shards - count[SHARD], 0) - count[None],
    )
    assert chosen.missing_gateways + chosen.missing_shards == lacking


def facts(labels=(), **resources):
    return {"NodeID": "n", "Labels": dict(labels), "Resources": {"CPU": 4.0, **resources}}


def test_a_node_is_what_its_labels_and_resources_say():
    labels = {"galerne.io/role": "shard", "galerne.io/cores": "2", "ray.io/node-id": "n"}
    node = node_of(facts(labels, memory=1e9))
    assert (node.role, node.cores, node.memory_bytes, node.is_head) == (SHARD, 2, 1e9, False)
    bare = node_of(facts())
    assert (bare.role, bare.cores) == (None, 4)


@pytest.mark.parametrize("label", [("galerne.io/role", "expert"), ("galerne.io/cores", "0")])
def test_a_label_that_says_nothing_is_refused_by_name(label):
    with pytest.raises(ValueError, match=f"node n: {label[0]} must be .*{label[1]}"):
        node_of(facts([label]))
