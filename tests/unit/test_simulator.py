"""The virtual clock: workloads, changes of topology, the autoscaler in the loop."""

import json

import pytest

from cluster.planning.candidate import short
from cluster.planning.decision import Action
from cluster.simulator.compare import compare
from cluster.simulator.nodes import NodeSupply
from cluster.simulator.plot import plot
from cluster.simulator.run import Setup, simulate
from cluster.simulator.scaling import Scaling
from cluster.simulator.workload import (
    Arrival,
    Bursts,
    Lengths,
    bursts,
    day,
    phases,
    poisson,
    replay,
)
from helpers.scaling import CANDIDATES, CARRIED, CLUSTER, create_autoscaler, model_of

ONE, TWO, THREE, FOUR = CANDIDATES[:4]
LENGTHS = Lengths(prompt_mean=100, output_mean=50, cv2=0.3)


def create_scaling(supply=None, change_s=5.0, **config):
    supply = NodeSupply(at_start=0, most=8, provision_s=20.0) if supply is None else supply
    return Scaling(
        autoscaler=create_autoscaler(**config),
        cluster=CLUSTER,
        supply=supply,
        change_s=lambda old, new: change_s,
    )


def run(arrivals, scaling=None, start=ONE, **setup):
    return simulate(arrivals, Setup(model_of=model_of, start=start, **setup), scaling)


def test_a_load_at_the_boundary_with_noise_changes_once_an_hour_at_most_21():
    for seed in range(3):
        arrivals = poisson(CARRIED * 0.95, LENGTHS, 3600, seed)
        assert len(run(arrivals, create_scaling(), seconds=3600).commits) <= 1


def test_a_burst_scales_up_for_its_queue_although_the_mean_load_fits_22():
    arrivals = list(phases([(3, 120), (40, 12), (3, 60)], LENGTHS, seed=3))
    scaling = create_scaling(NodeSupply(at_start=4, most=4), change_s=2.0)
    result = run(arrivals, scaling, seconds=192)
    first = result.records[0].decision
    assert first.observed.load.requests_per_s < CARRIED
    assert first.is_urgent
    assert "requests wait" in first.reason
    assert 120 < first.at_s < 140
    assert result.latencies.completion_s.count == len(arrivals)


def test_a_step_of_ten_times_is_answered_at_the_second_tick_22():
    for seed in range(5):
        arrivals = list(phases([(3, 120), (40, 60)], LENGTHS, seed))
        result = run(arrivals, create_scaling(), seconds=180)
        first = result.records[0].decision
        assert 120 < first.at_s <= 130
        assert first.target.gateways >= 4


def test_idle_hours_cost_no_nodes_and_the_next_request_is_answered_20():
    arrivals = [Arrival(float(t), 100, 50) for t in [*range(60), 3600]]
    result = run(arrivals, create_scaling(idle_to_zero_s=120.0), seconds=3700)
    assert [c.candidate for c in result.commits] == [None, ONE]
    assert result.node_seconds < 400
    assert (result.num_unserved, result.latencies.completion_s.count) == (0, 61)
    assert result.latencies.ttft_s.quantile(1) > 20  # the one that waited for its node


def test_nodes_that_never_come_do_not_block_what_the_present_ones_can_do_20():
    supply = NodeSupply(at_start=2, most=2)
    scaling = create_scaling(supply, pending_timeout_s=60.0, remember_s=3600.0)
    result = run(poisson(30, LENGTHS, 300, 4), scaling, seconds=300)
    actions = [record.decision.action for record in result.records]
    assert actions == [Action.CHANGE, Action.GIVE_UP, Action.CHANGE]
    assert [c.candidate for c in result.commits] == [TWO]
    assert result.commits[0].at_s < 120


def test_changes_never_overlap_24():
    rates = Bursts(
        quiet_requests_per_s=2, burst_requests_per_s=50, quiet_mean_s=60, burst_mean_s=20
    )
    result = run(bursts(rates, LENGTHS, 900, 5), create_scaling(change_s=30.0), seconds=900)
    started = [r.decision.at_s for r in result.records]
    committed = [c.at_s for c in result.commits]
    assert committed
    in_order = [t for pair in zip(started, committed, strict=False) for t in pair]
    assert in_order == sorted(in_order)


def test_a_record_gets_its_outcome_and_predictions_their_error():
    arrivals = phases([(4, 300), (20, 600)], LENGTHS, seed=6)
    result = run(arrivals, create_scaling(), seconds=900)
    record = result.records[-1]
    assert record.outcome.measured.load.requests_per_s == pytest.approx(20, rel=0.1)
    assert record.outcome.regret < 0.1
    assert record.outcome.error_by_quantity["requests_per_s"] == pytest.approx(0, abs=0.05)
    steady = run(poisson(20, LENGTHS, 600, seed=6), create_scaling(), start=THREE, seconds=600)
    assert steady.calibration_error < 0.1
    json.dumps(result.to_dict(), allow_nan=False)


def test_who_runs_on_a_leaving_gateway_is_answered():
    arrivals = [Arrival(0.01 * i, 100, 2000) for i in range(40)]
    scaling = create_scaling(NodeSupply(at_start=4, most=4), change_s=1.0)
    result = run(arrivals, scaling, start=FOUR, seconds=300)
    assert result.commits
    assert result.latencies.completion_s.count == 40


def test_the_day_curve_follows_its_cosine_and_a_replay_its_record():
    arrivals = list(day(1, 9, LENGTHS, 1000, seed=7, period_s=1000))
    middle = sum(400 <= a.at_s < 600 for a in arrivals)
    edge = sum(a.at_s < 100 or a.at_s >= 900 for a in arrivals)
    assert len(arrivals) == pytest.approx(5000, rel=0.05)
    assert middle / edge == pytest.approx(8.743 / 1.257, rel=0.2)
    faster = list(replay(reversed(arrivals), speed=2))
    assert [a[1:] for a in faster] == [a[1:] for a in arrivals]
    assert faster[-1].at_s == pytest.approx((arrivals[-1].at_s - arrivals[0].at_s) / 2)


def test_bursts_have_their_mean_rate():
    rates = Bursts(quiet_requests_per_s=2, burst_requests_per_s=20, quiet_mean_s=6, burst_mean_s=3)
    num = sum(1 for _ in bursts(rates, LENGTHS, 3000, seed=8))
    assert num / 3000 == pytest.approx(rates.mean_requests_per_s, rel=0.1)


def test_auto_loses_little_to_the_best_static_candidate_and_beats_the_worst():
    arrivals = list(phases([(2, 300), (9, 600), (18, 600), (2, 300)], LENGTHS, seed=9))
    setup = Setup(model_of=model_of, start=ONE, seconds=1800)
    found = compare(arrivals, [ONE, TWO, FOUR], setup, create_scaling(), node_weight=1.0)
    assert found.regret < 0.1


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_run_is_drawn_with_its_load_topologies_and_decisions(tmp_path, suffix):
    result = run(phases([(4, 60), (20, 120)], LENGTHS, seed=6), create_scaling(), seconds=180)
    file = tmp_path / f"run.{suffix}"
    plot(result, file, "a step in the load")
    head = file.read_bytes()[:400]
    assert head.startswith(b"\x89PNG") or b"<svg" in head
    if suffix == "svg":
        told = file.read_text()
        assert all(f"<!-- {short(c.candidate)} -->" in told for c in result.commits)
    with pytest.raises(ValueError, match=r"\.png or \.svg"):
        plot(result, tmp_path / "run.gif")


def test_samples_hold_the_times_of_their_own_interval():
    result = run(phases([(2, 60), (40, 60)], LENGTHS, seed=5), seconds=120)
    calm, rush = (
        [s.ttft_s.p95 for s in result.samples if first < s.at_s <= first + 30] for first in (20, 85)
    )
    assert max(calm) < min(rush)


def test_arrivals_out_of_order_are_refused():
    with pytest.raises(ValueError, match=r"arrival at 1\.0 s after"):
        run([Arrival(2.0, 1, 1), Arrival(1.0, 1, 1)])
