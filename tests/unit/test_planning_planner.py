"""The planner: what it chooses, what it refuses and why, and when it would choose otherwise."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.planning.candidate import num_nodes
from cluster.planning.cluster_shape import ClusterShape
from cluster.planning.enumerate import candidates, finer, gateway_counts
from cluster.planning.limits import num_copies
from cluster.planning.load import Objectives
from cluster.planning.planner import plan
from cluster.planning.predict import predict
from galerne.topology import LinkTransport, Mode, contiguous_placement
from helpers.planning import SHAPE, create_calibration, create_cluster, create_load

CALIBRATION = create_calibration()
FEWEST = Objectives(node_weight=30)
few = settings(deadline=None, max_examples=25)
modes = st.sampled_from([None, *Mode])
sizes = st.integers(1, 6)
rates = st.one_of(st.just(0.0), st.floats(0.1, 80))
promises = st.builds(
    Objectives,
    ttft_p95_s=st.none() | st.floats(0.02, 2),
    inter_token_p95_s=st.none() | st.floats(0.005, 0.1),
    max_nodes=st.none() | st.integers(1, 6),
    min_copies=st.integers(1, 3),
    node_weight=st.floats(0, 3),
)


def planned(rate=5.0, nodes=1, objectives=None, mode=None, calibration=CALIBRATION, **cluster):
    return plan(
        SHAPE,
        calibration,
        create_cluster(nodes, **cluster),
        objectives or Objectives(),
        create_load(rate),
        mode=mode,
    )


# -- laws ------------------------------------------------------------------------------------


def virtues(verdict):
    """Smaller is better, all of them."""
    p = verdict.prediction
    return (
        num_nodes(verdict.candidate),
        p.ttft_p95_s,
        p.inter_token_p95_s,
        p.completion_s,
        -p.max_requests_per_s,
    )


@few
@given(rates, sizes, promises, modes)
def test_no_allowed_candidate_is_better_in_everything_than_the_chosen(rate, nodes, goals, mode):
    decision = planned(rate, nodes, goals, mode)
    allowed = [v for v in decision.verdicts if v.is_allowed]
    if decision.chosen is None:
        assert not allowed
        return
    best = virtues(decision.chosen)
    for other in map(virtues, allowed):
        is_as_good = all(a <= b for a, b in zip(other, best, strict=True))
        assert other == best or not is_as_good


@few
@given(rates, sizes, promises, modes)
def test_rejected_candidates_truly_break_what_they_are_rejected_for(rate, nodes, goals, mode):
    cluster = create_cluster(nodes, gateway_node_bytes=1.2e9, shard_node_bytes=0.4e9)
    decision = plan(SHAPE, CALIBRATION, cluster, goals, create_load(rate), mode=mode)
    for verdict in decision.verdicts:
        p, c = verdict.prediction, verdict.candidate
        own = {
            "ttft_p95_s": p.ttft_p95_s,
            "inter_token_p95_s": p.inter_token_p95_s,
            "max_nodes": num_nodes(c),
        }
        for broken in verdict.broken:
            assert str(broken) in verdict.reason or math.isinf(broken.value)
            if broken.field in own:
                assert broken.value == own[broken.field] > getattr(goals, broken.field)
            elif broken.field == "min_copies":
                assert broken.value == num_copies(c, cluster) < goals.min_copies
            elif broken.field == "requests_per_s":
                assert broken.value == p.max_requests_per_s <= rate
            else:
                assert broken.value > broken.limit == getattr(cluster, broken.field)
        if verdict.is_allowed:
            assert goals.ttft_p95_s is None or p.ttft_p95_s <= goals.ttft_p95_s
            assert p.is_carried
            assert num_copies(c, cluster) >= goals.min_copies


@few
@given(rates, sizes, promises, modes)
def test_same_inputs_give_the_same_plan_and_every_loser_a_reason(rate, nodes, goals, mode):
    decision = planned(rate, nodes, goals, mode)
    assert decision == planned(rate, nodes, goals, mode)
    others = decision.verdicts[1:] if decision.chosen else decision.verdicts
    assert all(verdict.reason for verdict in others)


@few
@given(sizes, st.integers(1, 3))
def test_candidates_are_topologies_that_can_be_built(nodes, copies):
    found = candidates(SHAPE, create_cluster(nodes), Objectives(min_copies=copies))
    assert len(found) == len(set(found))
    for candidate in found:
        shards = [str(n) for n in range(candidate.shards)]
        contiguous_placement(1, SHAPE.num_experts, shards, candidate.replicas)
        assert num_nodes(candidate) <= nodes
        assert candidate.max_batched_tokens >= candidate.max_num_seqs
        is_beside = candidate.shard_nodes == 0
        assert candidate.micro_batches == 1 or not is_beside


# -- choices ---------------------------------------------------------------------------------


def test_one_machine_keeps_experts_local_where_a_shard_has_no_core_of_its_own():
    decision = planned(rate=2.0)
    assert decision.chosen.candidate.transport is LinkTransport.LOCAL


def test_model_that_fits_no_machine_is_spread_and_the_reason_is_memory():
    decision = planned(rate=1.0, nodes=6, gateway_node_bytes=0.6e9, shard_node_bytes=0.6e9)
    assert decision.chosen.candidate.transport is not LinkTransport.LOCAL
    local = next(v for v in decision.verdicts if v.candidate.transport is LinkTransport.LOCAL)
    assert local.broken[0].field == "gateway_node_bytes"


def test_auto_takes_one_machine_for_a_small_load_and_more_for_a_large_one():
    small, large = (planned(rate, nodes=6, objectives=FEWEST) for rate in (1.0, 60.0))
    assert num_nodes(small.chosen.candidate) == 1
    assert num_nodes(large.chosen.candidate) > 1
    one_less = large.chosen.candidate.gateway_nodes - 1
    assert all(
        v.prediction.max_requests_per_s <= 60
        for v in large.verdicts
        if num_nodes(v.candidate) <= one_less
    )


def test_auto_looks_between_the_sizes_that_are_listed_for_the_fewest_machines():
    chosen = planned(rate=300.0, nodes=100, objectives=FEWEST).chosen.candidate
    assert chosen.gateways not in {8, 32, 100}
    cluster = create_cluster(100)
    for candidate in candidates(SHAPE, cluster, Objectives()):
        gateways = num_nodes(chosen) - 1 - candidate.shard_nodes
        if gateways in gateway_counts(candidate, cluster):
            fewer = finer(candidate, gateways)
            assert not predict(SHAPE, CALIBRATION, fewer, create_load(300.0)).is_carried


def test_auto_takes_the_least_completion_time_times_machines_also_between_the_listed_sizes():
    cluster, load = create_cluster(100), create_load(300.0)
    decision = planned(rate=300.0, nodes=100)
    chosen = decision.chosen
    for verdict in decision.verdicts:
        assert verdict.cost == verdict.prediction.completion_s * num_nodes(verdict.candidate)
        assert verdict.cost > 0.95 * chosen.cost or not verdict.is_allowed
    for gateways in gateway_counts(chosen.candidate, cluster):
        other = finer(chosen.candidate, gateways)
        cost = predict(SHAPE, CALIBRATION, other, load).completion_s * num_nodes(other)
        assert cost > 0.95 * chosen.cost


def test_promised_times_take_fewer_machines_with_headroom():
    free, promised = (
        planned(60.0, nodes=100, objectives=goals).chosen
        for goals in (Objectives(), Objectives(ttft_p95_s=2.0))
    )
    assert num_nodes(promised.candidate) < num_nodes(free.candidate)
    assert 0.6 < promised.prediction.utilisation < 0.9


def test_modes_rank_by_what_they_are_named_for():
    quick, wide = (planned(2.0, nodes=3, mode=mode).chosen for mode in Mode)
    assert quick.candidate.mode is Mode.LATENCY
    assert wide.candidate.mode is Mode.THROUGHPUT
    assert quick.prediction.completion_s <= 1.05 * wide.prediction.completion_s  # a grain
    assert quick.prediction.max_requests_per_s < wide.prediction.max_requests_per_s


def test_copies_are_on_different_machines_where_there_are_several():
    decision = planned(1.0, nodes=3, objectives=Objectives(min_copies=2))
    assert num_copies(decision.chosen.candidate, create_cluster(3)) >= 2
    alone = next(v for v in decision.verdicts if num_nodes(v.candidate) == 1)
    assert "holds 1 of 2 copies of every expert" in alone.reason


def test_nothing_is_chosen_where_every_candidate_breaks_a_limit_and_the_nearest_is_first():
    decision = planned(1.0, objectives=Objectives(ttft_p95_s=1e-6))
    assert decision.chosen is None
    assert decision.sensitivity is None
    assert [broken.field for broken in decision.verdicts[0].broken] == ["ttft_p95_s"]


# -- sensitivity -----------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", [1, 6])
@pytest.mark.parametrize("rate", [0.0, 3.0, 14.0])
def test_sensitivity_names_a_rate_at_which_another_candidate_is_chosen(nodes, rate):
    decision = planned(rate, nodes)
    switch = decision.sensitivity.above
    assert decision.sensitivity.now_requests_per_s == rate < switch.requests_per_s
    there = planned(switch.requests_per_s, nodes)
    assert (there.chosen and there.chosen.candidate) != decision.chosen.candidate
    assert f"now {rate:.3g}" in decision.sensitivity.text


@pytest.mark.parametrize("part", [0.99, 0.99999])
def test_sensitivity_close_to_the_limit_is_another_candidate_or_none(part):
    most = planned(20.0).chosen.prediction.max_requests_per_s
    decision = planned(most * part)
    assert decision.sensitivity.above.to != decision.chosen.candidate
    assert decision.sensitivity.above.requests_per_s > most * part


def test_small_cluster_says_at_which_rate_nothing_is_enough():
    decision = planned(20.0, mode=Mode.THROUGHPUT)
    assert decision.sensitivity.above.to is None
    assert decision.sensitivity.text.startswith("nothing keeps all limits at ")


# -- size ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 15.0, 400.0])
def test_a_thousand_machines_take_few_more_candidates_than_a_hundred(rate):
    hundred = planned(rate, nodes=100, cores_per_node=8)
    thousand = planned(rate, nodes=1000, cores_per_node=8)
    assert thousand.chosen is not None
    assert len(thousand.verdicts) < 3 * len(hundred.verdicts)


def test_cluster_without_a_gateway_node_is_refused():
    with pytest.raises(ValueError, match="gateway node"):
        ClusterShape(
            gateway_nodes=0, gateway_node_bytes=1.0, cores_per_node=1, transports=frozenset()
        )
