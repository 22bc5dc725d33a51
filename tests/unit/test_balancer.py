"""What the balancer makes of the shards' counters, and when it proposes a move."""

from dataclasses import replace

import numpy as np
import pytest

from cluster.control.balancer import Balancer, LoadBook, propose
from cluster.control.part_client import PartFailedError
from cluster.control.ports import ShardLoad
from cluster.placement.balance import balancedness
from galerne.topology import LinkTransport, contiguous_placement
from helpers.session_gateway import create_topology

EXPERT_BYTES = 1 << 20


def loaded(rows, seconds):
    return ShardLoad(np.array(rows, np.int64).reshape(-1), seconds)


def skewed_topology():
    """Two shards, six experts each copy once, two layers; the first shard gets nearly all rows."""
    topology = create_topology(num_shards=2, num_replicas=1)
    load = np.full((2, 6), 1.0)
    load[:, :3] = (90.0, 80.0, 70.0)
    return topology, load


def by_node(topology):
    return {"n": list(topology.shards)}


def test_the_book_adds_up_what_shards_counted_between_looks():
    book = LoadBook(2, 3)
    book.add("a", loaded([[1, 0, 0], [0, 0, 1]], 1.0), 10.0)
    assert not book.load.any()
    book.add("a", loaded([[4, 0, 0], [0, 0, 1]], 3.0), 20.0)
    book.add("b", loaded([[0, 0, 9], [0, 0, 0]], 0.0), 10.0)
    book.add("b", loaded([[0, 0, 10], [2, 0, 0]], 5.0), 20.0)
    assert book.load.tolist() == [[3, 0, 1], [2, 0, 0]]
    assert book.busy == pytest.approx(0.5)
    book.keep(["a"])
    assert book.load.tolist() == [[3, 0, 0], [0, 0, 0]]
    assert book.busy == pytest.approx(0.2)


def test_a_shard_that_started_anew_counts_from_zero():
    book = LoadBook(1, 1)
    for now, rows in enumerate((100, 110, 4)):
        book.add("a", loaded([[rows]], float(rows)), float(now))
    assert book.load.tolist() == [[14]]
    assert book.busy == 0


def test_a_busy_skewed_cluster_is_worth_a_move_and_an_idle_one_is_not():
    topology, load = skewed_topology()
    plan = propose(topology, load, 0.8, by_node(topology), EXPERT_BYTES)
    assert plan.verdict.is_worth
    assert plan.target.epoch == topology.epoch + 1
    assert (plan.target.shards, plan.target.gateways) == (topology.shards, topology.gateways)
    before = balancedness(load, topology.placement, topology.shards)
    assert balancedness(load, plan.target.placement, topology.shards) > before + 0.25
    idle = propose(topology, load, 0.0, by_node(topology), EXPERT_BYTES)
    assert not idle.verdict.is_worth
    dear = propose(topology, load, 0.8, by_node(topology), 1 << 40)
    assert not dear.verdict.is_worth
    assert "refused" in dear.verdict.reason


def test_an_even_load_is_left_alone_and_copies_stay_as_many():
    topology = create_topology(num_shards=3, num_replicas=2)
    plan = propose(topology, np.full((2, 6), 5.0), 1.0, by_node(topology), EXPERT_BYTES)
    assert not plan.verdict.is_worth
    copies = [len(set(r)) for layer in plan.target.placement.by_layer for r in layer]
    assert min(copies) >= 2
    assert sum(copies) == 2 * 6 * 2


async def test_the_loop_looks_at_live_shards_and_survives_one_that_does_not_answer():
    topology = replace(skewed_topology()[0], transport=LinkTransport.GRPC)

    class Calls:
        async def load_of(self, shard, timeout_s):
            if shard == topology.shards[1]:
                raise PartFailedError(shard, "DescribeShard", "UNAVAILABLE")
            rows[0] += 7
            return loaded(np.full((2, 6), rows[0]), 1.0)

    class Everyone:
        def is_live(self, part):
            return True

    rows, now = [0], [0.0]
    balancer = Balancer(lambda: topology, Calls(), Everyone(), EXPERT_BYTES, lambda: now[0])
    empty = await balancer.facts()
    assert [shard.rows for shard in empty.shards] == [7 * 12, None], "as they are, without a look"
    assert not np.any(empty.rows)
    rows[0] = 0
    assert balancer.balancedness == 1.0
    await balancer.look()
    now[0] = 10.0
    await balancer.look()
    assert balancer.book.load.tolist() == [[7.0] * 6] * 2
    placement = contiguous_placement(2, 6, topology.shards)
    assert balancer.balancedness == balancedness(balancer.book.load, placement, topology.shards)
    facts = await balancer.facts()
    assert facts.rows == [[7] * 6] * 2
    assert facts.balancedness == balancer.balancedness
    first, second = facts.shards
    assert (first.id, first.rows, first.rows_lately) == (topology.shards[0], 21 * 12, 7 * 12)
    assert (second.rows, second.rows_lately, second.busy) == (None, 0, 0.0)


async def test_there_are_no_shards_to_tell_of_where_gateways_hold_the_experts():
    topology = replace(skewed_topology()[0], transport=LinkTransport.LOCAL)
    facts = await Balancer(lambda: topology, None, None, EXPERT_BYTES).facts()
    assert facts.shards == []
    assert facts.rows == [[0] * 6] * 2
