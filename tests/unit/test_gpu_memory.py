"""What plans say of GPUs, of which there are none here, and that all of them say the same."""

import math
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cluster.config import load_config
from cluster.control.scaling_plan import wish_of
from cluster.control.target import wanted_config
from cluster.gateway_machines import GatewayMachines
from cluster.gpu_free import free_gpu_bytes, free_gpus_on
from cluster.gpu_memory import PROCESS_BYTES, Beside, FreeGpus, gpu_memory
from cluster.nodes import Node, Role
from cluster.plan import gpu_memory_of, held_model, plan_serving
from cluster.planning.gpu_memory import ALONE, AWAY, CacheRule, Split
from cluster.planning.judge import Judged
from cluster.planning.limits import Constraint, split_of
from cluster.planning.load import Demand
from cluster.planning.planner import Planner
from galerne.errors import ConfigError
from galerne.topology import LinkTransport
from helpers.adapters import write_adapter
from helpers.fixture_models import FIXTURES
from helpers.planning import create_calibration, create_cluster, create_load
from router.gateway.sizes import least_blocks
from router.model.device_sizes import StepLimits
from router.model.vision_limits import VisionLimits
from shards.adapters.names import Target
from shards.checkpoint.eagle import head_config
from shards.checkpoint.fields import Fields
from shards.checkpoint.presets import preset
from shards.kernels.formats import WeightFormat

SMALL_4 = replace(preset("full-layer"), num_layers=36, is_fp8=True)
SEEN = replace(SMALL_4, vision=preset("full-layer", has_vision=True).vision)
FP8, BF16 = WeightFormat.FP8, WeightFormat.BF16
LIMITS = StepLimits(tokens=2048, sequences=128, length=32_768)
H200, H100 = int(149e9), int(84e9)  # 139 and 78 GiB
GIB = 1 << 30


def real(free=H200, model=SMALL_4, kept=(FP8, FP8), beside=None, **fields):
    given = beside or Beside()
    return gpu_memory(model, kept, 2, LIMITS, FreeGpus(free, free), given, **fields)


# -- true dimensions -------------------------------------------------------------------------


def test_the_whole_model_in_fp8_fits_an_h200_and_no_h100():
    """Model reference, section 4e: 120.923 GB, of which 0.857 are vision; 36 x 128 downs of 8 MiB
    take a quarter more of the allocator's segments."""
    memory = real(model=SEEN)
    weights = memory.dense_bytes + memory.num_experts * memory.expert_bytes
    assert weights == pytest.approx(120.07e9 + 36 * 128 * (2 << 20), rel=0.005)
    assert 9e9 < memory.gateway(ALONE).left < 16e9
    assert real(H100).gateway(ALONE).left < 0


def test_with_experts_on_cores_an_h100_has_most_of_its_memory_for_the_cache():
    memory = real(H100, SEEN)
    assert memory.dense_bytes == pytest.approx(4.29e9, rel=0.005)
    assert 68e9 < memory.gateway(AWAY).left < 78e9


def test_int4_experts_fit_an_h100_and_a_bf16_checkpoint_needs_twice_as_much():
    assert real(H100, kept=(WeightFormat.INT4, FP8)).gateway(ALONE).left > 0
    wide = replace(SMALL_4, is_fp8=False)
    assert real(H200, wide, (BF16, BF16)).gateway(ALONE).left < 0


def test_vision_tower_features_and_head_take_their_part_of_a_gateways_gpu():
    """Model reference, sections 4e and 6: 0.857 GB of vision, 0.392 GB of head in fp8."""
    plain = real().beside_bytes
    seen = real(model=SEEN, beside=Beside(VisionLimits(cache_bytes=512 << 20))).beside_bytes
    assert plain == 0
    assert 0.857e9 + (512 << 20) < seen < 2.5e9
    sizes = Fields("params.json", {"n_layers": 2, "hidden_dim": 12288})
    head = replace(head_config(sizes, SMALL_4), is_fp8=True)
    guessing = real(beside=Beside(head=head))
    assert 0.392e9 < guessing.beside_bytes < 0.5e9
    assert guessing.token_bytes == 38 * 320 * 2  # its two layers have a cache of their own


def test_rank_16_on_all_experts_of_the_real_model_takes_2_7_gb():
    ranks = {
        Target(layer, name, expert): 16
        for layer in range(36)
        for expert in range(128)
        for name in ("gate", "up", "down")
    }
    one, two = (real(beside=Beside(adapters=[ranks] * n)) for n in (1, 2))
    more = one.num_experts * (two.expert_adapter_bytes - one.expert_adapter_bytes)
    assert more == pytest.approx(2.72e9, rel=0.01)
    fit, none = one.gateway(ALONE), real().gateway(ALONE)
    assert none.left - fit.left > 2.7e9
    away = real().gateway(AWAY).left - one.gateway(AWAY).left
    assert 0 < away < 0.5e9, "where experts are elsewhere, so is what is changed of them"


def test_an_amount_set_aside_for_adapters_takes_the_place_of_those_that_are_there():
    plain, told = (real(beside=Beside(adapters=[], adapter_bytes=n)) for n in (0, 3 * GIB))
    assert plain.gateway(AWAY).left - told.gateway(AWAY).left == 3 * GIB
    split = Split(LinkTransport.GRPC, 1, 4)
    assert told.shard(split) - plain.shard(split) == 3 * GIB


def test_links_by_nccl_take_memory_at_both_ends():
    memory, shards = real(), 4
    grpc, nccl = (Split(t, 1, shards) for t in (LinkTransport.GRPC, LinkTransport.NCCL))
    assert memory.gateway(nccl).taken - memory.gateway(grpc).taken == shards * memory.link_bytes
    assert memory.shard(nccl) - memory.shard(grpc) == memory.link_bytes


def test_a_longer_request_or_a_larger_step_leaves_less():
    free = FreeGpus(H200, H200)
    left = [
        gpu_memory(SMALL_4, (FP8, FP8), 2, limits, free).gateway(ALONE).left
        for limits in (
            LIMITS,
            LIMITS._replace(length=262_144),
            LIMITS._replace(tokens=4096),
            LIMITS._replace(sequences=512),
        )
    ]
    assert all(left[0] - other > 0.2e9 for other in left[1:])


# -- asking ----------------------------------------------------------------------------------


def test_a_machine_without_a_gpu_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match=r"device.*cuda.*no GPU on this machine"):
        free_gpu_bytes()


def test_shards_are_asked_for_their_own_gpus(monkeypatch):
    gateway = Node("big", 8.0, False, Role.GATEWAY, num_gpus=1)
    shard = Node("small", 8.0, False, Role.SHARD, num_gpus=1)
    sizes = {"big": H200, "small": H100}
    monkeypatch.setattr("cluster.gpu_free._ask", lambda node: sizes[node.id])
    assert free_gpus_on([gateway, shard], for_shards=True) == (H200, H100)
    assert free_gpus_on([gateway, shard], for_shards=False) == (H200, H200)
    assert free_gpus_on([gateway], for_shards=True) == (H200, H200), "shards beside it"


# -- the law ---------------------------------------------------------------------------------

OF_MEMORY = {Constraint.GATEWAY_GPU_MEMORY, Constraint.SHARD_GPU_MEMORY, Constraint.CACHE}
CALIBRATION = create_calibration(is_gpu=True, num_workers=1)
CALIBRATION = replace(
    CALIBRATION,
    links=CALIBRATION.links | {LinkTransport.NCCL: CALIBRATION.links[LinkTransport.SHM]},
)
MACHINES = GatewayMachines(number=4, num_cores=8, free_bytes=1 << 40)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    config = held_model(load_config(None, {"model": FIXTURES / "tiny-hf-bf16"})).config
    write_adapter(root / "sql", config, rank=16)
    (root / "broken").mkdir()
    return root


@pytest.fixture(autouse=True)
def nccl_is_here(monkeypatch):
    monkeypatch.setattr("cluster.plan.check_nccl", lambda topology, num_nodes: None)


@pytest.fixture(autouse=True)
def fixtures_need_no_tokenizer(monkeypatch):
    monkeypatch.setattr("cluster.plan.EMBEDDED_VOCAB_SIZE", 0)


# Features of images, recorded steps and weights of the fixtures are about 760 MiB.
of_gateways = st.integers(700 << 20, 1100 << 20).map(lambda n: PROCESS_BYTES + n)
of_shards = st.integers(0, 4 << 20).map(lambda n: PROCESS_BYTES + n)
kv_settings = st.one_of(
    st.floats(0.01, 1.0).map(lambda f: f"{f:.4f}"), st.integers(1 << 20, 300 << 20).map(str)
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_what_the_planner_proposes_on_gpus_can_be_started_by_the_plan(adapters, data):
    """Every candidate whose memory it accepts; then caches hold a request of full length."""
    draw = data.draw
    nodes, gpus = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    shards_on_gpus = draw(st.booleans())
    free = FreeGpus(draw(of_gateways), draw(of_shards))
    asked = {
        "model": FIXTURES / draw(st.sampled_from(["tiny-hf-bf16", "tiny-native-fp8"])),
        "device": "cuda",
        "shard_device": "cuda" if shards_on_gpus else "cpu",
        "kv_memory": draw(kv_settings),
        "max_model_len": draw(st.integers(16, 4096)),
        "insecure_network": True,
        "adapters": draw(st.sampled_from([None, adapters])),
    }
    if asked["adapters"] is not None:
        asked["adapter_memory"] = draw(st.sampled_from([None, "100MiB"]))
    config = load_config(None, asked)
    held = held_model(config)
    memory = gpu_memory_of(config, held, free)
    cluster = create_cluster(
        nodes,
        cores_per_node=8,
        gateway_gpus=gpus,
        shard_gpus=gpus if shards_on_gpus else 0,
        gateway_node_bytes=1e12,
        shard_node_bytes=1e12,
        gpu_memory=memory,
        trusts_network=True,
    )
    planner = Planner(shape=held.shape, calibration=CALIBRATION)
    load = create_load(draw(st.sampled_from([0.0, 5.0, 500.0])), prompt_tokens=200)
    judged = planner.rank(cluster, Demand(load))
    fits = [j for j in judged if OF_MEMORY.isdisjoint(b.field for b in j.broken)]
    assume(fits)
    for one in draw(st.lists(st.sampled_from(fits), min_size=1, max_size=4)):
        check_start(config, one, nodes, free, memory)


def check_start(config, judged: Judged, nodes, free, memory):
    candidate = judged.candidate
    wanted = wanted_config(config, wish_of(candidate))
    spec = plan_serving(wanted, "app", nodes, MACHINES, lambda: free).spec
    assert spec.topology.transport is candidate.transport
    block = 16 * memory.token_bytes
    assert spec.kv_bytes // block >= least_blocks(spec.max_model_len)
    split = split_of(candidate)
    assert memory.gateway(split).taken + spec.kv_bytes <= memory.free_bytes
    # What comes and goes has the rest: experts and adapters that were planned for fit.
    experts = memory.num_experts * (memory.expert_bytes + memory.expert_adapter_bytes)
    assert spec.device_rooms.gateway >= experts * split.is_local + math.floor(
        memory.gateway_adapter_bytes
    )
    if config.shard_device == "cuda" and not split.is_local:
        most = math.ceil(memory.num_experts * split.replicas / split.shards)
        assert spec.device_rooms.shard >= most * memory.expert_bytes


def test_a_cache_that_was_made_stays_as_large_where_the_planner_changes_the_topology():
    """Started with experts elsewhere, it may leave no room for them later."""
    memory = real(H200, cache=CacheRule(0.9))
    made = memory.gateway(AWAY).cache
    assert memory.wanted_on_gateway(ALONE, 0.0) < H200
    assert memory.with_cache(made).wanted_on_gateway(ALONE, 0.0) > H200


def test_a_setting_that_gives_too_small_a_cache_is_told_as_that():
    memory = real(H200, cache=CacheRule(None, 1e6))
    assert memory.wanted_on_gateway(ALONE, 0.0) < H200
    assert memory.lacks_cache(ALONE, 0.0) == (1e6, memory.least_cache_bytes)
    assert real(H200).lacks_cache(ALONE, 0.0) is None


@pytest.mark.parametrize(
    ("flags", "free", "field"),
    [
        ({}, PROCESS_BYTES, "model"),
        ({"kv_memory": "100KiB"}, 2 * GIB, "kv_memory"),
        ({"adapter_memory": "1GiB"}, 2 * GIB, "adapter_memory"),
        ({"shard_device": "cuda", "shards": 2}, 2 * GIB, "shards"),
    ],
)
def test_what_does_not_fit_is_refused_by_the_setting_that_mends_it(flags, free, field):
    config = load_config(None, {"model": FIXTURES / "tiny-hf-bf16", "device": "cuda"} | flags)
    gpus = FreeGpus(free, PROCESS_BYTES)
    with pytest.raises(ConfigError) as refused:
        plan_serving(config, "app", 1, MACHINES, lambda: gpus)
    assert refused.value.key == field
