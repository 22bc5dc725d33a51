"""Decisions of the control loops: who is lost, who adopts, which topology comes next."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import load_config
from cluster.control.adoption import plan_adoption
from cluster.control.health import HealthBook, HealthConfig
from cluster.control.keeper import next_adoption
from cluster.control.members import GONE_AFTER_S, Heartbeat, MemberBook
from cluster.control.ports import GatewayState
from cluster.control.straighten import is_behind, newest
from cluster.control.target import config_of, next_topology
from cluster.presets import PresetInputs, build_topology
from galerne.errors import ConfigError
from galerne.ids import Epoch
from galerne.topology import contiguous_placement
from galerne.topology_codec import decode_topology, encode_topology
from router.api.cluster_port import TopologyWish
from router.exchange.links import LinkState

UP, SUSPECT, DOWN = LinkState
SHARDS = [f"shard-{i}" for i in range(5)]
CONFIG = HealthConfig(down_s=0.2, suspect_s=1.0, never_up_s=5.0, silent_s=5.0)


def inputs(**settings):
    return PresetInputs(
        config=load_config(None, settings), num_layers=2, num_experts=8, num_cores=4, num_nodes=1
    )


# -- health --------------------------------------------------------------------------------------


def book(*states):
    made = HealthBook(CONFIG)
    for now, state in states:
        made.observe("gateway-0", {"shard-0": state}, now)
    return made


def test_a_link_that_broke_counts_as_lost_sooner_than_one_that_is_silent():
    broken, silent = book((0, UP), (1, DOWN)), book((0, UP), (1, SUSPECT))
    assert [bool(broken.lost(t)) for t in (1.1, 1.3)] == [False, True]
    assert [bool(silent.lost(t)) for t in (1.3, 1.9, 2.0)] == [False, False, True]
    assert broken.next_s(1.0) == pytest.approx(1.2)
    assert silent.next_s(1.5) == pytest.approx(2.0)


def test_a_link_that_never_stood_gets_time_to_come_up():
    made = book((0, DOWN), (4, DOWN))
    assert not made.lost(4.9)
    assert made.lost(5.0) == {"shard-0"}


def test_a_shard_is_back_with_its_link_and_a_silent_gateway_accuses_nobody():
    assert not book((0, UP), (1, DOWN), (2, UP)).lost(9)
    assert not book((0, UP), (1, DOWN)).lost(1 + CONFIG.silent_s + 0.1)


def test_a_gateway_that_started_anew_knows_nothing_yet():
    made = book((0, UP), (1, DOWN))
    made.forget("gateway-0")
    assert not made.lost(9)
    made.observe("gateway-0", {"shard-0": DOWN}, 9)
    assert not made.lost(10)


def test_one_gateway_is_enough_to_lose_a_shard_and_changes_are_told_once():
    made = HealthBook(CONFIG)
    made.observe("gateway-0", {"shard-0": UP, "shard-1": UP}, 0)
    made.observe("gateway-1", {"shard-0": UP, "shard-1": UP}, 0)
    assert made.observe("gateway-1", {"shard-0": UP, "shard-1": DOWN}, 1) == [("shard-1", DOWN)]
    assert made.observe("gateway-1", {"shard-0": UP, "shard-1": DOWN}, 2) == []
    made.observe("gateway-0", {"shard-0": UP, "shard-1": UP}, 2)
    assert made.lost(2) == {"shard-1"}


# -- adoption ------------------------------------------------------------------------------------


@given(st.integers(1, 5), st.integers(1, 3), st.sets(st.sampled_from(SHARDS)))
def test_exactly_what_has_no_live_copy_is_adopted_once_and_evenly(num_shards, replicas, lost):
    shards = SHARDS[:num_shards]
    placement = contiguous_placement(3, 16, shards, min(replicas, num_shards))
    plan = plan_adoption(placement, shards, lost)
    live = set(shards) - lost
    assert set(plan) == live
    orphans = {
        (layer, e)
        for layer, experts in enumerate(placement.by_layer)
        for e, copies in enumerate(experts)
        if set(copies) <= lost
    }
    taken = [expert for experts in plan.values() for expert in experts]
    assert sorted(taken) == (sorted(orphans) if live else [])
    for layer in range(3):
        counts = [sum(x == layer for x, _ in experts) for experts in plan.values()]
        assert not counts or max(counts) - min(counts) <= 1


A, B = frozenset({(0, 1)}), frozenset({(0, 2)})


@pytest.mark.parametrize(
    ("held", "wanted", "is_settled", "asked"),
    [
        (None, frozenset(), False, None),  # nothing is lost: nothing to ask
        (None, frozenset(), True, frozenset()),  # but what an earlier controller asked for ends
        (frozenset(), A, False, A),
        (A, A, False, None),
        (A, B, False, A | B),  # another one is lost before the first is back for good
        (A, frozenset(), False, None),
        (A, frozenset(), True, frozenset()),
        (A, A, True, None),
    ],
)
def test_more_is_held_than_is_wanted_until_all_have_been_back(held, wanted, is_settled, asked):
    assert next_adoption(held, wanted, is_settled=is_settled) == asked


# -- topologies ----------------------------------------------------------------------------------


def test_another_mode_takes_its_own_shape_and_new_parts_have_new_names():
    wide = build_topology(inputs(mode="throughput"))
    assert wide.shards == ("shard-0", "shard-1", "shard-2", "shard-3")
    made, narrow = next_topology(
        wide, inputs(mode="throughput"), TopologyWish(mode="latency"), SHARDS
    )
    assert (narrow.epoch, narrow.shard_processes, made.config.mode) == (2, (), "latency")
    _, again = next_topology(narrow, made, TopologyWish(mode="throughput"), {*wide.parts})
    assert again.shards == ("shard-4", "shard-5", "shard-6", "shard-7")
    assert again.gateways == wide.gateways


def test_what_lives_stays_when_parts_are_added_or_taken_away():
    now = build_topology(inputs(shards=3))
    asked, more = next_topology(
        now, inputs(shards=3), TopologyWish(shards=5, gateways=2), now.parts
    )
    assert more.shards == ("shard-0", "shard-1", "shard-2", "shard-3", "shard-4")
    assert more.gateways == ("gateway-0", "gateway-1")
    _, less = next_topology(more, asked, TopologyWish(shards=2, replicas=2), more.parts)
    assert less.shards == ("shard-0", "shard-1")
    assert len(less.placement.by_layer[0][0]) == 2


def test_a_shard_is_replaced_by_one_with_the_same_experts_and_another_name():
    now = build_topology(inputs(shards=3, replicas=2))
    wish = TopologyWish(replace_shard="shard-1")
    _, after = next_topology(now, inputs(shards=3, replicas=2), wish, {*now.parts, "shard-7"})
    assert after.shards == ("shard-0", "shard-8", "shard-2")
    assert after.placement.experts_of("shard-8") == now.placement.experts_of("shard-1")
    assert not any(after.placement.experts_of("shard-1").values())


def test_a_new_controller_learns_the_settings_from_the_topology():
    first = inputs(shards=2)
    asked, wide = next_topology(
        build_topology(first), first, TopologyWish(mode="throughput", replicas=2), SHARDS
    )
    learnt = replace(first, config=config_of(wide, first.config))
    _, again = next_topology(wide, learnt, TopologyWish(max_num_seqs=48), wide.parts)
    _, want = next_topology(wide, asked, TopologyWish(max_num_seqs=48), wide.parts)
    assert again == want
    assert again.max_num_seqs == 48


@pytest.mark.parametrize("settings", [{}, {"transport": "local"}, {"shards": 2}])
def test_what_may_be_wished_for_is_the_same_after_a_controllers_restart(settings):
    first = inputs(**settings)
    now = build_topology(first)
    learnt = replace(first, config=config_of(now, first.config))
    for wish in (TopologyWish(shards=4), TopologyWish(transport="grpc", shards=3)):
        answers = []
        for known in (first, learnt):
            try:
                answers.append(next_topology(now, known, wish, now.parts)[1])
            except ConfigError as error:
                answers.append(str(error))
        assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (TopologyWish(replace_shard="shard-9"), "is no shard; there are: shard-0"),
        (TopologyWish(replace_shard="shard-0", shards=2), "goes alone, not with shards"),
        (TopologyWish(mode="quick"), "mode"),
        (TopologyWish(shards=99), "more shards than"),
        (TopologyWish(replicas=4), "more copies than"),
        (TopologyWish(max_num_seqs=0), "max_num_seqs"),
    ],
)
def test_a_wish_that_cannot_be_is_refused_by_field(wish, said):
    now = build_topology(inputs(shards=3))
    with pytest.raises(ConfigError, match=said):
        next_topology(now, inputs(shards=3), wish, now.parts)


@given(st.integers(1, 5), st.integers(1, 3), st.booleans())
def test_a_topology_survives_the_wire(num_shards, replicas, is_uneven):
    settings = {"shards": num_shards, "replicas": min(replicas, num_shards)}
    made = build_topology(inputs(**settings))
    if is_uneven:
        first, *others = made.placement.by_layer
        placement = replace(made.placement, by_layer=(first[::-1], *others))
        made = replace(made, placement=placement)
    assert decode_topology(encode_topology(made)) == made


def serving(known=None, **epochs):
    """What a new controller makes of gateways that serve these; each lists those before it."""
    first = build_topology(inputs())
    states = {}
    for number, (gateway, epoch) in enumerate(epochs.items()):
        names = tuple(list(epochs)[: number + 1])
        states[gateway] = GatewayState(replace(first, epoch=Epoch(epoch), gateways=names), 0)
    if known is not None:
        known = replace(first, epoch=Epoch(known), gateways=("a",))
    current, old = newest(states, known, first)
    return current.epoch, None if old is None else old.epoch


def test_a_new_controller_takes_the_newest_topology_that_a_gateway_has_committed_to():
    assert serving() == (1, None)
    assert serving(known=4) == (4, None)
    assert serving(a=3) == (3, None)
    assert serving(a=7, b=3) == (7, 3)  # b has yet to commit
    assert serving(a=3, b=7) == (3, None)  # b is new in 7, to which nobody may have committed
    assert serving(b=7) == (7, None)
    assert serving(known=7, b=7, a=3) == (7, 3)
    assert serving(known=3, a=4) == (4, None)


@pytest.mark.parametrize(
    ("serving", "answer"), [((4,), False), ((3,), True), ((3, 4), True), ((), True)]
)
def test_a_part_is_behind_unless_it_serves_exactly_the_epoch(serving, answer):
    assert is_behind(serving, Epoch(4)) is answer


# -- members -------------------------------------------------------------------------------------


def test_a_process_that_was_replaced_may_not_go_on():
    now = [0.0]
    members = MemberBook(lambda: now[0])

    def beat(pid, node="a"):
        return members.hear(Heartbeat(part="shard-0", address=f"h:{pid}", pid=pid, node=node))

    assert beat(1)
    assert beat(1)
    assert beat(1, "b")  # the same pid on another node
    assert not beat(1)
    assert members.address_of("shard-0") == "h:1"
    assert members.members["shard-0"].restarts == 1
    now[0] = GONE_AFTER_S + 1
    assert not members.is_live("shard-0")
    assert members.address_of("shard-0") is None
    assert beat(1, "b")
    assert members.is_live("shard-0")


def test_parts_that_may_not_stay_are_replaced_by_new_ones():
    now = build_topology(inputs(shards=3))
    wish = TopologyWish(shards=3)
    _, moved = next_topology(now, inputs(shards=3), wish, now.parts, now.gateways)
    assert moved.gateways == now.gateways
    assert moved.shards == ("shard-3", "shard-4", "shard-5")
    _, woken = next_topology(now, inputs(shards=3), wish, now.parts, ())
    assert set(woken.parts).isdisjoint(now.parts)
