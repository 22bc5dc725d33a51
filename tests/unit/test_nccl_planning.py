"""Links by NCCL in plans: from GPU to GPU, within a host unless the network is trusted."""

import pytest

from cluster.cli.doctor_print import nccl_text
from cluster.config import load_config
from cluster.nccl_check import check_nccl, gpu_problem
from cluster.planning.enumerate import candidates
from cluster.planning.exchange import round_trip
from cluster.planning.load import Objectives
from cluster.presets import PresetInputs, build_topology
from galerne.errors import ConfigError
from galerne.topology import LinkTransport
from galerne.topology_codec import decode_topology, encode_topology
from helpers.calibrations import machine
from helpers.fixture_models import checkpoint
from helpers.planning import SHAPE, create_calibration, create_cluster


def by_nccl(**fields):
    cluster = create_cluster(**fields)
    found = candidates(SHAPE, cluster, Objectives())
    return {
        (c.gateways, c.shards, c.shard_nodes) for c in found if c.transport is LinkTransport.NCCL
    }


def on_gpus(number):
    return {"cores_per_node": 8, "gateway_gpus": number, "shard_gpus": number, "gpu_bytes": 7e10}


def test_without_gpus_nothing_is_planned_by_nccl():
    assert by_nccl(nodes=4) == set()


def test_every_gateway_and_shard_of_a_machine_takes_a_gpu():
    assert by_nccl(**on_gpus(3)) == {(1, 2, 0)}
    assert by_nccl(**on_gpus(8)) == {(1, 2, 0), (1, 4, 0), (1, 7, 0)}


def test_one_gpu_is_the_gateways_and_leaves_none_for_a_shard_beside_it():
    assert by_nccl(**on_gpus(1)) == set()
    assert by_nccl(nodes=2, **on_gpus(1), trusts_network=True) == {(1, 1, 1)}


def test_shards_on_cores_are_never_linked_by_nccl():
    cluster = create_cluster(nodes=3, cores_per_node=8, gateway_gpus=8, trusts_network=True)
    found = candidates(SHAPE, cluster, Objectives())
    assert {c.transport for c in found} == {
        *(LinkTransport.LOCAL, LinkTransport.SHM, LinkTransport.GRPC)
    }
    assert max(c.shards for c in found if not c.shard_nodes and c.gateways == 1) == 8


def test_links_that_leave_a_host_are_planned_on_a_trusted_network_only():
    assert by_nccl(nodes=3, **on_gpus(4)) == {(1, 2, 0), (1, 3, 0)}
    trusted = by_nccl(nodes=3, **on_gpus(4), trusts_network=True)
    assert {(1, 1, 1), (2, 4, 1), (2, 4, 0), (1, 8, 2)} <= trusted
    assert all(
        shards <= (4 * nodes if nodes else 3 * gateways) for gateways, shards, nodes in trusted
    )


def test_a_candidate_by_nccl_costs_what_the_calibration_says_of_nccl():
    cluster = create_cluster(**on_gpus(8))
    (candidate, *_) = (
        c for c in candidates(SHAPE, cluster, Objectives()) if c.transport is LinkTransport.NCCL
    )
    with pytest.raises(ValueError, match="no link nccl"):
        round_trip(SHAPE, create_calibration(), candidate, 4)


def topology(**fields):
    config = checkpoint().config
    return build_topology(
        PresetInputs(
            config=load_config(None, {"transport": "nccl", "shards": 2, **fields}),
            num_layers=config.num_layers,
            num_experts=config.num_experts,
            num_cores=4,
            num_nodes=1,
        )
    )


def test_a_topology_by_nccl_survives_the_wire():
    made = topology()
    assert made.transport is LinkTransport.NCCL
    assert decode_topology(encode_topology(made)) == made


@pytest.mark.parametrize(
    ("problem", "num_gpus", "said"),
    [
        ("cupy is not installed", 8, "transport=nccl: cupy is not installed"),
        ("torch finds no GPU", 0, "transport=nccl: torch finds no GPU"),
        ("", 2, "transport=nccl: 3 gateways and shards need a GPU each, and there are 2 here"),
    ],
)
def test_what_is_missing_for_nccl_is_said_when_it_is_asked_for(
    monkeypatch, problem, num_gpus, said
):
    monkeypatch.setattr("cluster.nccl_check.nccl_problem", lambda: problem)
    monkeypatch.setattr("torch.cuda.device_count", lambda: num_gpus)
    with pytest.raises(ConfigError) as refused:
        check_nccl(topology(), num_nodes=1)
    assert str(refused.value) == said
    check_nccl(topology(), num_nodes=2)  # the other machines' processes say it themselves
    check_nccl(topology(transport="shm"), num_nodes=1)


def test_as_many_gpus_as_parts_are_enough():
    assert gpu_problem(3, 3) == ""


@pytest.mark.parametrize("value", ["grpc", "all", True])
def test_nothing_but_nccl_can_be_trusted_to_a_network(value):
    with pytest.raises(ConfigError, match="trusted_network"):
        load_config(None, {"trusted_network": value})
    assert load_config(None, {"trusted_network": "nccl"}).trusted_network == "nccl"


def test_the_doctor_says_why_not_or_that_it_is_not_encrypted():
    assert nccl_text(machine()) == "not usable: cupy is not installed"
    text = nccl_text(machine(nccl_problem="", num_gpus=2))
    assert text.startswith("usable, 2 GPU(s); not encrypted")
    assert "--trusted-network nccl" in text
