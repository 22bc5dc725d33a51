"""What the doctor finds out about GPUs, as far as that needs none."""

from dataclasses import replace

import pytest

from cluster.cli.doctor_print import gpu_rows
from cluster.doctor.device_times import without_experts
from cluster.doctor.examine import transports_on
from cluster.doctor.gpu import GpuFacts, check_devices, nccl_omission, shard_gpus, visible_to_shard
from cluster.doctor.link_fit import LinkPoint
from cluster.doctor.measure_link import with_compute_of
from cluster.doctor.steps import StepSample
from cluster.doctor.verdict import findings, judge_step
from cluster.planning.costs import ExpertCost
from galerne.errors import ConfigError
from galerne.topology import LinkTransport
from helpers.calibrations import SHAPE, calibration, machine
from helpers.planning import create_gpu_memory

CUDA, MIXED = ("cuda", "cuda"), ("cuda", "cpu")


def gpus(**changes):
    fields = {
        "name": "NVIDIA H100",
        "number": 2,
        "free_bytes": 80 << 30,
        "read_bytes_per_s": 3e12,
    }
    return GpuFacts(**fields | changes)


def on_gpus(**changes):
    return machine(nccl_problem="", num_gpus=2, gpus=gpus(**changes))


def test_shards_see_a_gpu_each_and_leave_the_first_to_the_gateway():
    seen = [visible_to_shard(n, 4, {})["CUDA_VISIBLE_DEVICES"] for n in range(3)]
    assert seen == ["1", "2", "3"]
    assert shard_gpus(4) == 3


def test_the_only_gpu_is_shared():
    assert visible_to_shard(0, 1, {}) == {"CUDA_VISIBLE_DEVICES": "0"}
    assert shard_gpus(1) == 1


def test_gpus_that_we_are_not_shown_are_not_shown_to_shards():
    ours = {"CUDA_VISIBLE_DEVICES": "5,GPU-ab"}
    assert visible_to_shard(0, 2, ours) == {"CUDA_VISIBLE_DEVICES": "GPU-ab"}


@pytest.mark.parametrize(
    ("num_gpus", "problem", "words"),
    [(2, "", ""), (1, "", "it takes two GPUs, and there is 1"), (4, "no cupy", "no cupy")],
)
def test_why_nccl_is_not_measured_is_said(num_gpus, problem, words):
    assert nccl_omission(num_gpus, problem) == words
    of = machine(num_gpus=num_gpus, nccl_problem=problem, gpus=gpus())
    said = [f for f in findings(of, SHAPE, {}, CUDA) if f.field == "transport"]
    assert [f.problem.partition("choose it: ")[2] for f in said] == ([words] if words else [])
    assert not any(f.is_refusal for f in said)
    assert (LinkTransport.NCCL in transports_on(of)) == (not words)


def test_a_machine_without_a_gpu_is_refused_by_the_field():
    with pytest.raises(ConfigError, match=r"^device=cuda: "):
        check_devices("cuda", "cpu")
    with pytest.raises(ConfigError, match=r"^shard_device=cuda: goes with device cuda"):
        check_devices("cpu", "cuda")
    check_devices("cpu", "cpu")


def fields_of(gpu_bytes, devices=CUDA, **changes):
    memory = create_gpu_memory(gpu_bytes, SHAPE)
    of = replace(on_gpus(free_bytes=gpu_bytes), **changes)
    return [f.field for f in findings(of, SHAPE, {}, devices, memory) if f.is_refusal]


def test_a_gateway_must_fit_one_gpu_and_experts_the_others_or_beside_it():
    dense, routed = int(SHAPE.dense_bytes), int(SHAPE.routed_bytes)
    assert dense < routed
    assert fields_of(dense - 1) == ["device", "shard_device"]
    assert fields_of(dense + 1) == ["shard_device"]
    assert fields_of(routed + 1) == []
    assert fields_of(routed + 1, num_gpus=1) == ["shard_device"]
    assert fields_of(dense + routed + 1, num_gpus=1) == []


def test_experts_on_cores_must_fit_the_machine_or_beside_the_gateway():
    dense, routed = int(SHAPE.dense_bytes), int(SHAPE.routed_bytes)
    assert fields_of(dense + 1, MIXED, free_bytes=1) == ["model"]
    assert fields_of(dense + 1, MIXED, free_bytes=routed + 1) == []
    assert fields_of(dense + routed + 1, MIXED, free_bytes=1) == []


def test_a_gpus_step_is_held_against_the_gpus_memory():
    at_rate = ExpertCost(fixed_s=0.0, per_expert_s=SHAPE.expert_bytes / 3e9, per_row_s=0.0)
    slow_gpu = on_gpus(read_bytes_per_s=3e9)
    costs = calibration(experts=at_rate, is_gpu=True)
    text = judge_step(costs, SHAPE, slow_gpu, 64).bottleneck
    assert text.endswith("of what the GPU's memory gives (memory bandwidth)")
    [(name, said)] = gpu_rows(slow_gpu)
    assert (name, said) == ("GPUs", "2 x NVIDIA H100, 80.00 GiB free, read at 3 GB/s")
    assert gpu_rows(machine()) == []


def test_experts_time_is_taken_off_the_layers_and_never_more_than_there_is():
    sample = StepSample(layers_s=1.0, loop_s=1.0, experts_s=0.0, dispatch_s=0.0, head_s=0.5)
    split = without_experts(sample, 0.75)
    assert (split.loop_s, split.experts_s, split.head_s) == (0.25, 0.75, 0.5)
    noisy = without_experts(sample, 2.0)
    assert noisy.loop_s > 0
    assert noisy.loop_s + noisy.experts_s == pytest.approx(1.0)


def test_a_link_borrows_the_experts_time_of_the_same_calls_only():
    known = LinkPoint(2, 100, 1.0, 0.5, 0.1)
    mine = LinkPoint(2, 100, 0.75, 0.001, 0.1)
    assert with_compute_of([mine], [known]) == [LinkPoint(2, 100, 0.75, 0.5, 0.1)]
    with pytest.raises(ValueError, match="same calls"):
        with_compute_of([mine], [known._replace(num_bytes=101)])
