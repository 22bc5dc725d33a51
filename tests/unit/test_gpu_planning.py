"""GPUs in plans: their memory, their number, what is measured on them, and what auto chooses."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from cluster.calibrations import known_calibration, measured_cluster
from cluster.cli.app import app
from cluster.config import load_config
from cluster.demo import MODEL_DIRECTORY
from cluster.doctor.store import Gpus, default_path, load, save
from cluster.gpu_memory import FreeGpus
from cluster.launch import parts_on_gpus
from cluster.nodes import Node, Role
from cluster.plan import HeldModel
from cluster.planning.costs import ExpertCost, Linear, LinkCosts
from cluster.planning.exchange import round_trip
from cluster.planning.limits import Constraint, broken_limits
from cluster.planning.load import Demand, Objectives
from cluster.planning.planner import plan
from cluster.planning.predict import predict
from cluster.planning.shape import shape_of
from cluster.planning.step import StepWork, step_parts
from cluster.scaling import find_calibration, first_config, plan_scaled, scaling_plan
from galerne.errors import ConfigError
from galerne.topology import LinkTransport
from helpers.calibrations import BF16, SHAPE, stored
from helpers.planning import FAR, LOCAL, NEAR, create_calibration, create_cluster, create_load
from helpers.planning import SHAPE as PLANNED
from shards.checkpoint.open import open_checkpoint
from shards.checkpoint.presets import preset
from shards.kernels.formats import WeightFormat

ON_GPUS = {"device": "cuda", "shard_device": "cuda"}
DEVICES = ("cuda", "cuda")
H100 = Gpus(name="NVIDIA H100 80GB HBM3", number=8, free_bytes=int(79e9))
NCCL = LinkCosts(gateway_s=2e-6, shard_s=2e-6, latency_s=1e-5, bytes_per_s=3e11)


def gpu_calibration(nccl=None):
    costs = create_calibration(is_gpu=True, num_workers=1)
    return replace(costs, links=costs.links | ({LinkTransport.NCCL: nccl} if nccl else {}))


def measured(**changes):
    costs = gpu_calibration(NCCL)
    return stored(**{"calibration": costs, "gpus": H100, **ON_GPUS, **changes})


def broken(candidate, **cluster):
    calibration = gpu_calibration()
    given = predict(PLANNED, calibration, candidate, create_load(0.0))
    many = create_cluster(nodes=12, cores_per_node=8, **cluster)
    found = broken_limits(candidate, given, many, Objectives(), Demand(create_load(0.0)))
    return {limit.field for limit in found}, given


# -- memory ----------------------------------------------------------------------------------


def test_a_gateway_on_a_gpu_must_fit_it_and_takes_no_memory_of_its_machine():
    on_gpu = {"gateway_gpus": 1, "gateway_node_bytes": 1.0}
    fields, given = broken(LOCAL, **on_gpu, gpu_bytes=1e12)
    assert fields == set()
    fields, _ = broken(LOCAL, **on_gpu, gpu_bytes=given.gateway_bytes - 1)
    assert fields == {Constraint.GATEWAY_GPU_MEMORY}


def test_shards_on_cores_beside_it_take_their_machines_memory():
    fields, given = broken(NEAR, gateway_gpus=1, gpu_bytes=1e12, gateway_node_bytes=1.0)
    assert fields == {Constraint.GATEWAY_MEMORY}
    room = 4 * given.shard_bytes
    assert broken(NEAR, gateway_gpus=1, gpu_bytes=1e12, gateway_node_bytes=room)[0] == set()


@pytest.mark.parametrize("candidate", [NEAR, FAR], ids=["beside", "apart"])
def test_every_shard_on_a_gpu_must_fit_its_own(candidate):
    on_gpus = {"gateway_gpus": 8, "shard_gpus": 8, "gateway_node_bytes": 1.0}
    on_gpus["shard_node_bytes"] = 1.0
    wide = replace(candidate, shards=2, shard_nodes=min(candidate.shard_nodes, 2))
    fields, given = broken(wide, **on_gpus, gpu_bytes=1e12)
    assert fields == set()
    assert given.shard_bytes > given.gateway_bytes, "else the gateway would break its limit too"
    fields, _ = broken(wide, **on_gpus, gpu_bytes=given.shard_bytes - 1)
    assert fields == {Constraint.SHARD_GPU_MEMORY}


def test_a_gpus_limit_is_told_in_words():
    given = predict(PLANNED, gpu_calibration(), LOCAL, create_load(0.0))
    cluster = create_cluster(gateway_gpus=1, gpu_bytes=1e8)
    [limit] = broken_limits(LOCAL, given, cluster, Objectives(), Demand(create_load(0.0)))
    assert "of a gateway's GPU, which has 95.37 MiB" in str(limit)


def test_gpus_keep_fp8_of_a_checkpoint_and_cores_do_not():
    small_4 = replace(preset("full-layer"), num_layers=36, is_fp8=True)

    def shape(*devices):
        return HeldModel(MODEL_DIRECTORY, small_4, BF16, BF16, *devices).shape

    assert shape() == shape_of(small_4, BF16, BF16)
    assert shape("cuda", "cpu").routed_bytes == shape().routed_bytes
    assert shape("cuda", "cuda").routed_bytes == shape().routed_bytes / 2
    for on_gpu in (shape("cuda", "cpu"), shape("cuda", "cuda")):
        assert on_gpu.layer_bytes == shape_of(small_4, BF16, WeightFormat.FP8).layer_bytes
        assert on_gpu.head_bytes == shape().head_bytes, "the head of an fp8 checkpoint is bf16"


# -- time ------------------------------------------------------------------------------------


def test_gpus_of_one_machine_do_not_share_its_memorys_rate():
    """On cores four shards of a machine are bound by what its memory gives them together."""
    slow_together = ExpertCost(fixed_s=0.0, per_expert_s=1.0, per_row_s=0.0)
    cores, gpus = (
        round_trip(
            PLANNED, create_calibration(experts=slow_together, is_gpu=is_gpu), NEAR, 16
        ).service_s
        for is_gpu in (False, True)
    )
    assert gpus < cores / 2


def test_shards_on_cores_beside_a_gateway_on_a_gpu_cost_what_shards_were_measured_to():
    costs = gpu_calibration()
    slow = replace(
        costs.shard,
        is_gpu=False,
        shard_experts=ExpertCost(fixed_s=1.0, per_expert_s=1e-6, per_row_s=1e-6),
    )
    mixed = replace(costs, shard=slow)
    assert round_trip(PLANNED, mixed, NEAR, 4).service_s > 1


def test_a_gpu_gateway_with_shards_elsewhere_pays_for_its_launches():
    costs = create_calibration(is_gpu=True, layer=Linear(0.0, 0.0), layer_beside=Linear(1.0, 0.0))
    work = StepWork(num_decoding=1, context=8)
    assert step_parts(PLANNED, costs, LOCAL, work)["layer"] == 0
    for candidate in (NEAR, FAR):
        assert step_parts(PLANNED, costs, candidate, work)["layer"] == PLANNED.num_layers


# -- auto ------------------------------------------------------------------------------------


def chosen(calibration, **cluster):
    gpus = {"gateway_gpus": 8, "shard_gpus": 8, "gpu_bytes": 1.2e9, "cores_per_node": 8}
    found = plan(
        PLANNED, calibration, create_cluster(**gpus | cluster), Objectives(), create_load(1.0)
    )
    return found.chosen.candidate.transport


def test_links_between_gpus_are_chosen_where_one_gpu_is_too_small_and_they_were_measured():
    assert chosen(gpu_calibration(NCCL)) is LinkTransport.NCCL
    rest = frozenset(LinkTransport) - {LinkTransport.NCCL}
    assert chosen(gpu_calibration(), transports=rest) is LinkTransport.SHM


def test_auto_starts_from_the_file_that_was_measured_on_gpus(tmp_path):
    config = open_checkpoint(MODEL_DIRECTORY).config
    file = tmp_path / "gpu.json"
    save(measured(shape=HeldModel(MODEL_DIRECTORY, config, BF16, BF16, *DEVICES).shape), file)
    asked = {"mode": "auto", "calibration": file, "experts": "bf16", "dense": "bf16"}
    wanted = load_config(None, asked | ON_GPUS)
    found = find_calibration(wanted)
    scaling = scaling_plan(wanted, found, ())
    assert scaling.cluster.gateway_gpus == scaling.cluster.shard_gpus == 8
    assert scaling.cluster.gpu_memory.free_bytes == 79e9
    started, spread = first_config(wanted, scaling)
    assert (started.device, started.shard_device, spread) == ("cuda", "cuda", (1, 0))
    assert started.transport in ("local", "nccl")
    with pytest.raises(ConfigError, match=r"calibration\.device=cuda: .*cpu is asked"):
        find_calibration(load_config(None, asked))


def test_a_missing_file_is_told_with_the_flags_that_make_it(tmp_path):
    asked = {"calibration": tmp_path / "none.json", "device": "cuda"}
    with pytest.raises(ConfigError, match="run galerne doctor --device cuda first"):
        known_calibration(load_config(None, asked))


def test_a_calibration_of_gpus_comes_back_and_has_a_file_of_its_own(tmp_path):
    save(measured(), tmp_path / "c.json")
    assert load(tmp_path / "c.json", SHAPE, BF16, BF16, DEVICES) == measured()
    for devices in (("cpu", "cpu"), ("cuda", "cpu")):
        with pytest.raises(ConfigError, match="device=cuda: measured for another"):
            load(tmp_path / "c.json", SHAPE, BF16, BF16, devices)
    paths = {default_path("m", SHAPE, BF16, BF16, d) for d in (DEVICES, ("cuda", "cpu"))}
    assert len({*paths, default_path("m", SHAPE, BF16, BF16)}) == 3


def test_a_file_that_says_nothing_of_its_gpus_is_refused_by_its_field():
    with pytest.raises(ConfigError, match=r"calibration\.gpus=None: gateways on GPUs need"):
        measured_cluster(measured(gpus=None), load_config(None, {}))


# -- what-if ---------------------------------------------------------------------------------


@pytest.fixture
def ask(tmp_path):
    config = open_checkpoint(MODEL_DIRECTORY).config
    file = tmp_path / "gpu.json"
    save(measured(shape=HeldModel(MODEL_DIRECTORY, config, BF16, BF16, *DEVICES).shape), file)
    flags = ["--calibration", str(file), "--experts", "bf16", "--dense", "bf16", "--rate", "1"]

    def ask(*arguments):
        command = ["what-if", *flags, "--device", "cuda", "--shard-device", "cuda", *arguments]
        return CliRunner().invoke(app, [*command, "--json"])

    return ask


def links(said):
    return {c["candidate"]["transport"] for c in json.loads(said.stdout)["candidates"]}


def test_what_if_describes_machines_with_other_gpus(ask):
    assert "nccl" in links(ask())
    assert "nccl" not in links(ask("--gpus", "1"))
    assert "nccl" in links(ask("--gpus", "1", "--nodes", "1", "--trusted-network", "nccl"))
    small = ask("--gpu-gb", "1.1")  # a process takes 1 GiB, whatever it loads
    assert small.exit_code == 2
    assert "gateway_gpu_bytes" in small.stdout


def test_the_doctor_refuses_a_gpu_that_is_not_there_by_its_field():
    for flags, words in (
        (["--device", "cuda"], "device=cuda: "),
        (["--shard-device", "cuda"], "shard_device=cuda: goes with device cuda"),
    ):
        with pytest.raises(ConfigError, match=words):
            CliRunner().invoke(app, ["doctor", *flags], catch_exceptions=False)


def test_what_if_says_that_a_calibration_of_cpus_has_no_gpus(tmp_path):
    config = open_checkpoint(MODEL_DIRECTORY).config
    save(stored(shape=shape_of(config, BF16, BF16)), tmp_path / "cpu.json")
    flags = ["--calibration", str(tmp_path / "cpu.json"), "--experts", "bf16", "--dense", "bf16"]
    command = ["what-if", *flags, "--rate", "1", "--gpus", "4"]
    with pytest.raises(ConfigError, match="gpus=4: goes with device cuda"):
        CliRunner().invoke(app, command, catch_exceptions=False)


# -- memory of nodes -------------------------------------------------------------------------


def test_the_cache_is_sized_by_the_gpus_of_the_nodes_that_may_hold_gateways(monkeypatch):
    """The driver's own machine, a pod of Ray's head, has none."""
    head = Node("head", 0.0, is_head=True)
    gpu = Node("gpu", 16.0, False, Role.GATEWAY, memory_bytes=1e11, num_gpus=1)
    cores = Node("cores", 16.0, False, memory_bytes=1e11)
    asked = []

    def free_gpus(nodes, *, for_shards):
        assert not for_shards
        asked.append({node.id: node.role for node in nodes if node.num_cpus})
        return FreeGpus(int(79e9), int(79e9))

    monkeypatch.setattr("cluster.scaling.free_gpus_on", free_gpus)
    config = load_config(None, {"device": "cuda", "insecure_network": True})
    planned = plan_scaled(config, "app", [head, gpu, cores], None)
    assert asked == [{"gpu": Role.GATEWAY, "cores": Role.SHARD}]
    assert 70e9 < planned.free_bytes < 79e9
    assert planned.spec.device == "cuda"


# -- placement -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shard_device", "expected"),
    [
        ("cpu", {"gateway-0", "gateway-9"}),
        ("cuda", {"gateway-0", "gateway-9", "shard-0", "shard-9"}),
    ],
)
def test_parts_that_claim_gpus_are_told_to_whoever_places_them(shard_device, expected):
    spec = SimpleNamespace(device="cuda", shard_device=shard_device)
    topology = SimpleNamespace(transport=LinkTransport.GRPC, parts=("gateway-0", "shard-0"))
    assert parts_on_gpus(spec, topology, ["gateway-9", "shard-9"]) == expected
