"""What will be the bottleneck, and what is refused by name."""

from cluster.doctor.fit import Residuals
from cluster.doctor.others import Taken, added_seconds
from cluster.doctor.small_model import MAX_EXPERT_BYTES, cut
from cluster.doctor.verdict import decode_parts, doubts, exchange_words, findings, judge_step
from cluster.planning.costs import ExpertCost, Linear
from cluster.planning.shape import shape_of
from helpers.calibrations import BF16, SHAPE, calibration, machine
from shards.checkpoint.presets import preset

QUIET = Taken(0.01, 0.0)
PORTS = {"http_port": 8000, "grpc_port": 9000}


def test_nothing_is_found_where_all_can_work():
    assert findings(machine(), SHAPE, PORTS) == []


def test_model_that_does_not_fit_is_refused_with_what_it_needs_and_what_there_is():
    (found,) = findings(machine(free_bytes=1 << 30), SHAPE, PORTS)
    assert found.is_refusal
    assert found.field == "model"
    assert "needs 1.19 GiB, has 1.00 GiB free" in found.problem


def test_port_in_use_is_refused_by_its_field():
    (found,) = findings(machine(is_port_free={8000: True, 9000: False}), SHAPE, PORTS)
    assert found.is_refusal
    assert str(found) == "grpc_port: port 9000 is in use"


def test_missing_shared_memory_is_told_and_not_refused():
    (found,) = findings(machine(shared_memory_problem="no memfd_create"), SHAPE, PORTS)
    assert not found.is_refusal
    assert found.field == "transport"
    assert found.problem.endswith("(no memfd_create): frames go by gRPC")


def test_largest_part_is_the_bottleneck():
    slow = calibration(head=Linear(1.0, 0.0))
    assert judge_step(slow, SHAPE, machine(), 1).bottleneck.startswith("the head, ")
    busy = calibration(step=Linear(1.0, 0.0))
    text = judge_step(busy, SHAPE, machine(), 1).bottleneck
    assert text.startswith("scheduling, sampling and Python, ")
    assert "GB/s" not in text


def test_experts_read_at_the_memorys_rate_are_bound_by_memory():
    at_rate = SHAPE.expert_bytes / 40e9
    cost = ExpertCost(fixed_s=0.0, per_expert_s=at_rate, per_row_s=0.0)
    text = judge_step(calibration(experts=cost), SHAPE, machine(), 64).bottleneck
    assert text.startswith("routed experts")
    assert text.endswith("(memory bandwidth)")
    slower = ExpertCost(fixed_s=0.0, per_expert_s=4 * at_rate, per_row_s=0.0)
    text = judge_step(calibration(experts=slower), SHAPE, machine(), 64).bottleneck
    assert text.endswith("(not memory bandwidth)")


def test_parts_of_a_step_grow_with_sequences_and_context():
    few = decode_parts(calibration(), SHAPE, 1, 512)
    many = decode_parts(calibration(), SHAPE, 64, 512)
    assert all(many[name] > few[name] for name in few)
    assert decode_parts(calibration(), SHAPE, 1, 4096)["attention"] > few["attention"]


def test_every_transport_is_told():
    shm, grpc = exchange_words(calibration(), SHAPE)
    assert shm.startswith("shm: ")
    assert grpc.startswith("grpc: ")


def test_small_model_keeps_the_layers_shape():
    model = preset("1b", has_vision=True)
    small = cut(model)
    assert small.num_layers == 2
    assert small.vision is None
    assert shape_of(small, BF16, BF16).expert_bytes == SHAPE.expert_bytes
    assert small.num_experts == model.num_experts


def test_small_model_of_large_experts_has_fewer_of_them():
    model = preset("full-layer", num_layers=36)
    small = cut(model)
    assert small.num_layers == 2
    assert small.num_experts == 4 * model.num_experts_per_tok
    assert cut(preset("1b"), 100 << 20).num_experts < 128
    assert shape_of(cut(preset("1b")), BF16, BF16).routed_bytes <= MAX_EXPERT_BYTES


def test_model_of_a_cache_size_keeps_all_its_layers():
    assert cut(preset("tiny")).num_layers == preset("tiny").num_layers


def test_calibration_that_drifted_or_fits_badly_is_doubted():
    good, bad = Residuals(0.05, 0.5), Residuals(0.8, 6.0)
    assert doubts(0.02, {"layer": good}, QUIET) == []
    drifted, poor = doubts(-0.8, {"layer": good, "link_shm": bad}, QUIET)
    assert "-80%" in drifted.problem
    assert "link_shm 80%" in poor.problem
    assert "layer" not in poor.problem


def test_busy_machine_is_told_with_who_was_busy():
    (busy,) = doubts(0.0, {}, Taken(0.3, 0.02))
    assert "others took 30% of the cores meanwhile, and the host 2%" in busy.problem
    assert not busy.is_refusal


def test_time_of_others_is_counted_by_process():
    assert added_seconds({1: 5.0, 2: 1.0}, {1: 5.5, 3: 2.0}) == 2.5
