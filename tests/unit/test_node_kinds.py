"""What there is to plan for, and which nodes are asked for."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.node_kinds import NodeKind, cluster_shape, roles_to_ask
from cluster.nodes import Node, Role
from cluster.planning.cluster_shape import NO_GPUS, GpuUse
from galerne.errors import ConfigError
from galerne.topology import LinkTransport
from helpers.planning import create_gpu_memory

GATEWAY, SHARD = Role.GATEWAY, Role.SHARD
kinds_of_nodes = st.lists(st.sampled_from([GATEWAY, SHARD, None]), max_size=6)


def node(number=0, role=None, num_cpus=4.0, memory_bytes=8e9):
    return Node(f"node-{number}", num_cpus, not number, role=role, memory_bytes=memory_bytes)


def nodes_of(*roles):
    return [node(number, role) for number, role in enumerate(roles)]


def shape(nodes, *kinds, calibrated=(LinkTransport.GRPC,), **options):
    return cluster_shape(nodes, kinds, calibrated=calibrated, **options)


def test_one_node_that_nothing_joins_is_planned_without_a_network():
    found = shape([node()])
    assert (found.gateway_nodes, found.shard_nodes, found.num_nodes) == (1, 0, 1)
    assert found.transports == {LinkTransport.LOCAL, LinkTransport.SHM}


def test_nodes_without_labels_can_be_either():
    found = shape(nodes_of(None, None, None))
    assert (found.gateway_nodes, found.shard_nodes, found.num_nodes) == (3, 2, 3)
    assert LinkTransport.GRPC in found.transports


def test_links_between_nodes_are_planned_only_where_their_costs_are_known():
    found = shape(nodes_of(None, None), calibrated=())
    assert LinkTransport.GRPC not in found.transports


H100 = create_gpu_memory(7e10)
BOTH_ON_GPUS = GpuUse(by_gateways=True, by_shards=True, memory=H100)
MIXED = GpuUse(by_gateways=True, memory=H100)
ALL_LINKS = (LinkTransport.GRPC, LinkTransport.NCCL)


def with_gpus(*numbers, role=None):
    return [replace(node(n, role), num_gpus=gpus) for n, gpus in enumerate(numbers)]


def test_links_between_gpus_are_planned_where_shards_have_some_and_costs_are_known():
    found = shape(with_gpus(4, 2), calibrated=ALL_LINKS, gpu_use=BOTH_ON_GPUS)
    assert (found.gateway_gpus, found.shard_gpus, found.gpu_memory) == (2, 2, H100)
    assert LinkTransport.NCCL in found.transports
    for calibrated, use in (((), BOTH_ON_GPUS), (ALL_LINKS, MIXED), (ALL_LINKS, NO_GPUS)):
        found = shape(with_gpus(4, 2), calibrated=calibrated, gpu_use=use)
        assert LinkTransport.NCCL not in found.transports


def test_one_machine_with_gpus_can_have_links_between_them():
    found = shape(with_gpus(8), calibrated=ALL_LINKS, gpu_use=BOTH_ON_GPUS)
    assert LinkTransport.NCCL in found.transports
    assert LinkTransport.GRPC not in found.transports


def test_a_node_without_a_gpu_is_for_shards_alone_where_gateways_need_one():
    found = shape(with_gpus(0, 1, 0), gpu_use=MIXED)
    assert (found.gateway_nodes, found.shard_nodes) == (1, 2)
    assert (found.gateway_gpus, found.shard_gpus) == (1, 0)


def test_a_node_without_a_gpu_is_for_nothing_where_both_need_one():
    found = shape(with_gpus(0, 2, 2), gpu_use=BOTH_ON_GPUS)
    assert (found.gateway_nodes, found.shard_nodes, found.num_nodes) == (2, 1, 2)


def test_without_a_gpu_for_a_gateway_there_is_no_plan():
    with pytest.raises(ValueError, match="no node with CPUs and a GPU may hold a gateway"):
        shape([node(0, GATEWAY)], gpu_use=MIXED)


def test_nodes_to_come_count_with_the_gpus_that_they_are_told_to_have():
    asked = NodeKind(role=SHARD, most=3, cores=4, memory_bytes=8e9, gpus=4)
    gateways = with_gpus(1, role=GATEWAY)
    found = shape(gateways, asked, calibrated=ALL_LINKS, gpu_use=BOTH_ON_GPUS)
    assert (found.gateway_gpus, found.shard_gpus) == (1, 4)
    assert LinkTransport.NCCL in found.transports
    bare = replace(asked, gpus=0)
    with pytest.raises(ValueError, match=r"nodes\.shard\.gpus: 0, and shards compute on GPUs"):
        shape(gateways, bare, gpu_use=BOTH_ON_GPUS)
    assert shape(gateways, bare, gpu_use=MIXED).shard_nodes == 3


def test_nodes_that_may_be_asked_for_count_with_those_that_are_there():
    asked = NodeKind(role=SHARD, most=5, cores=2, memory_bytes=3e9)
    found = shape(nodes_of(GATEWAY, SHARD), asked)
    assert (found.gateway_nodes, found.shard_nodes, found.num_nodes) == (1, 5, 6)
    assert (found.gateway_node_bytes, found.shard_node_bytes) == (8e9, 3e9)
    assert found.cores_per_node == 2


def test_a_kind_that_says_nothing_of_itself_is_as_the_smallest_of_its_role():
    present = [node(0, GATEWAY, 8.0, 64e9), node(1, SHARD, 4.0, 9e9), node(2, SHARD, 2.0, 8e9)]
    found = shape(present, NodeKind(role=SHARD, most=4))
    assert (found.cores_per_node, found.shard_node_bytes) == (2, 8e9)
    assert found.gateway_node_bytes == 64e9


def test_nodes_without_cpus_count_for_nothing():
    head = node(0, None, num_cpus=0.0, memory_bytes=1e9)
    found = shape([head, node(1, GATEWAY), node(2, SHARD)])
    assert (found.num_nodes, found.gateway_node_bytes) == (2, 8e9)


def test_a_cluster_without_a_node_for_gateways_is_refused():
    with pytest.raises(ValueError, match="no node with CPUs may hold a gateway"):
        shape(nodes_of(SHARD))


def test_what_a_node_has_must_be_said_while_there_is_none():
    with pytest.raises(ValueError, match=r"nodes\.gateway: cores and memory_bytes must be set"):
        shape([], NodeKind(role=GATEWAY, most=1))


@pytest.mark.parametrize(
    ("field", "value"), [("most", -1), ("cores", 0), ("memory_bytes", 0.0), ("gpus", -1)]
)
def test_a_kind_of_impossible_nodes_is_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=rf"nodes\.shard\.{field}={value}"):
        NodeKind(**{"role": SHARD, "most": 1, field: value})


def test_nothing_is_asked_where_present_nodes_suffice():
    assert roles_to_ask(nodes_of(None, SHARD), [], 1, 1) is None


def test_all_nodes_of_a_shape_are_listed_so_that_new_ones_are_others_than_those_there():
    kinds = [NodeKind(role=SHARD, most=2)]
    assert roles_to_ask(nodes_of(None), kinds, 1, 2) == [None, SHARD, SHARD]


def test_nodes_without_a_label_are_asked_for_where_those_with_one_do_not_reach():
    kinds = [NodeKind(role=SHARD, most=2), NodeKind(role=None, most=3)]
    assert roles_to_ask(nodes_of(None, SHARD), kinds, 1, 3) == [None, SHARD, SHARD, None]


@given(kinds_of_nodes, kinds_of_nodes, st.integers(1, 5), st.integers(0, 5))
def test_what_is_asked_for_is_there_once_it_came(present, more, gateways, shards):
    """Whatever the planner may choose from a shape can be asked for, and then suffices."""
    kinds = [
        NodeKind(role=role, most=present.count(role) + more.count(role), cores=4, memory_bytes=8e9)
        for role in (GATEWAY, SHARD, None)
    ]
    nodes = nodes_of(*present)
    try:
        found = shape(nodes, *kinds)
    except ValueError:
        return
    if gateways > found.gateway_nodes or shards > min(
        found.shard_nodes, found.num_nodes - gateways
    ):
        return
    asked = roles_to_ask(nodes, kinds, gateways, shards)
    if asked is None:
        return
    assert len(asked) == gateways + shards
    assert all(asked.count(kind.role) <= kind.most for kind in kinds)
    # The nodes there that are listed, and the others that come.
    unlisted = list(asked)
    for role in present:
        if role in unlisted:
            unlisted.remove(role)
    assert roles_to_ask(nodes_of(*present, *unlisted), kinds, gateways, shards) is None
