"""What a server's autoscaler starts from, and topologies as the planner calls them."""

from types import SimpleNamespace

import pytest

from cluster.config import load_config
from cluster.control.scaling_plan import candidate_of, wish_of
from cluster.control.target import next_topology
from cluster.doctor import examine
from cluster.nodes import Node, Role
from cluster.planning.enumerate import candidates
from cluster.planning.load import Objectives
from cluster.presets import PresetInputs, build_topology
from cluster.scaling import find_calibration, first_config, scaling_plan
from galerne.errors import ConfigError
from galerne.topology import LinkTransport, Mode
from helpers.calibrations import SHAPE, stored

GIB = 2**30


def inputs(**settings):
    return PresetInputs(
        config=load_config(None, settings), num_layers=3, num_experts=16, num_cores=4, num_nodes=1
    )


def node(name, role=None, cores=4):
    return Node(name, cores, is_head=name == "head", role=role, memory_bytes=16.0 * GIB)


def plan(present=(), **settings):
    return scaling_plan(load_config(None, {"mode": "auto", **settings}), stored(), present)


def test_a_candidate_that_is_wished_for_is_what_serves_then():
    cluster = plan((node("head"), node("a"), node("b"))).cluster
    first = build_topology(inputs())
    listed = candidates(SHAPE, cluster, Objectives())
    few = [c for c in listed if c.shards <= 16]  # as many as this topology has experts
    assert {c.transport for c in few} == set(LinkTransport) - {LinkTransport.NCCL}
    for candidate in few:
        _, topology = next_topology(first, inputs(), wish_of(candidate), first.parts)
        nodes = candidate.gateway_nodes, candidate.shard_nodes
        assert candidate_of(topology, *nodes) == candidate


def test_auto_starts_in_what_is_best_before_anybody_asks():
    config, spread = first_config(load_config(None, {"mode": "auto"}), plan())
    assert config.mode in {mode.value for mode in Mode}
    assert spread.gateway_nodes >= 1


@pytest.mark.parametrize(("name", "value"), [("shards", 4), ("transport", "grpc"), ("gateways", 2)])
def test_what_auto_chooses_cannot_be_chosen_besides(name, value):
    config = load_config(None, {"mode": "auto", name: value})
    with pytest.raises(ConfigError, match=f"{name}.*auto chooses"):
        first_config(config, plan())


def test_a_calibration_that_cannot_be_kept_is_used_all_the_same(monkeypatch):
    """As with a home directory that is read-only: the measurement took 40 s, and is right."""
    measured = stored()
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/galerne-nowhere")
    monkeypatch.setattr(examine, "examine", lambda *_, **__: SimpleNamespace(stored=measured))
    assert find_calibration(load_config(None, {"mode": "auto"}), lambda _: None) is measured


def test_auto_says_which_limit_no_topology_keeps():
    with pytest.raises(ConfigError, match="no topology fits"):
        first_config(load_config(None, {"mode": "auto"}), plan(ttft_p95_s=1e-9))


def test_machines_that_may_come_are_planned_with_and_need_to_be_known():
    kinds = [{"role": "shard", "most": 8, "cores": 16, "memory_bytes": 64 * GIB}]
    made = plan((node("head", Role.GATEWAY),), nodes=kinds)
    assert made.cluster.num_nodes == 1  # what it starts on
    later = made.shape_of([node("head", Role.GATEWAY)])
    assert (later.num_nodes, later.shard_nodes) == (9, 8)
    with pytest.raises(ConfigError, match="nodes"):
        plan((node("a", Role.SHARD),))
    assert made.shape_of([]) == made.cluster  # Ray's head is away: what was known


@pytest.mark.parametrize(
    ("told", "field"),
    [
        ({"autoscaler": {"tick_s": 0}}, "autoscaler.tick_s"),
        ({"autoscaler": {"patience": 3}}, "autoscaler.patience"),
        ({"autoscaler": {"min_gain": 1}}, "autoscaler.min_gain"),
        ({"autoscaler": {"settle_s": "long"}}, "autoscaler.settle_s"),
        ({"autoscaler": {"idle_to_zero_s": 5}}, "autoscaler.idle_to_zero_s"),
        ({"nodes": [{"role": "gpu", "most": 1}]}, "nodes.0.role"),
        ({"ttft_p95_s": 0}, "ttft_p95_s"),
        ({"idle_to_zero_s": -1}, "idle_to_zero_s"),
    ],
)
def test_a_wrong_setting_is_named(told, field):
    with pytest.raises(ConfigError, match=field):
        load_config(None, told)
