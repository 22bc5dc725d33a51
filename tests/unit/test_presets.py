"""The two modes as topologies."""

import pytest

from cluster.config import load_config
from cluster.presets import PresetInputs, build_topology
from galerne.errors import ConfigError
from galerne.topology import LinkTransport, Mode
from helpers.fixture_models import checkpoint


def topology(num_cores=4, num_nodes=1, **fields):
    config = checkpoint().config
    return build_topology(
        PresetInputs(
            config=load_config(None, fields),
            num_layers=config.num_layers,
            num_experts=config.num_experts,
            num_cores=num_cores,
            num_nodes=num_nodes,
        )
    )


def test_latency_keeps_the_experts_in_the_gateway_unless_shards_are_asked_for():
    assert topology().transport is LinkTransport.LOCAL
    asked = topology(shards=4)
    assert asked.transport is LinkTransport.SHM
    assert len(asked.shards) == 4


def test_throughput_streams_experts_on_every_core_and_batches_more():
    wide, narrow = topology(mode="throughput"), topology()
    assert wide.mode is Mode.THROUGHPUT
    assert len(wide.shards) == 4
    assert wide.max_num_seqs > narrow.max_num_seqs
    assert wide.max_batched_tokens > narrow.max_batched_tokens


def test_a_machine_with_more_cores_than_the_model_has_experts_starts_all_the_same():
    made = topology(mode="throughput", num_cores=192)
    num_experts = checkpoint().config.num_experts
    assert len(made.shards) == num_experts
    assert all(sum(map(len, made.placement.experts_of(s).values())) for s in made.shards)


def test_micro_batches_overlap_the_wire_only_where_cores_are_not_shared():
    assert topology(mode="throughput").num_micro_batches == 1
    assert topology(mode="throughput", num_nodes=2).num_micro_batches == 2
    assert topology(num_nodes=2, shards=2).num_micro_batches == 1


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_every_expert_has_its_replicas_on_different_shards(replicas):
    made = topology(shards=3, replicas=replicas)
    for layer in made.placement.by_layer:
        for shards in layer:
            assert len(set(shards)) == len(shards) == replicas
    lost = made.placement.experts_lost_with(made.shards[0])
    assert (lost == 0) is (replicas > 1)


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"shards": 17}, "shards"),
        ({"replicas": 2}, "replicas"),
        ({"transport": "local", "shards": 2}, "shards"),
        ({"transport": "nccl"}, "shards"),
    ],
)
def test_contradictions_are_refused_by_key(fields, key):
    with pytest.raises(ConfigError) as caught:
        topology(**fields)
    assert caught.value.key == key
