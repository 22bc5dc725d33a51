"""What people read of candidates and of the limits that they break."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.planning.candidate import Candidate, describe, short
from cluster.planning.limits import Broken, Constraint, told
from galerne.topology import LinkTransport, Mode
from helpers.scaling import CANDIDATES

few = st.integers(1, 3)
candidates = st.builds(
    Candidate,
    mode=st.sampled_from(Mode),
    transport=st.sampled_from(LinkTransport),
    gateways=few,
    shards=few,
    replicas=few,
    micro_batches=few,
    max_num_seqs=few,
    max_batched_tokens=few,
    gateway_nodes=few,
    shard_nodes=few,
)


@given(candidates, candidates)
def test_short_names_tell_apart_what_long_ones_do(one, other):
    assert (short(one) == short(other)) == (describe(one) == describe(other))
    assert len(short(one)) < len(describe(one))


def test_a_name_fits_a_table():
    alone = replace(CANDIDATES[0], max_num_seqs=8, max_batched_tokens=256)
    assert short(alone) == "latency · local · 1g · 8×256"
    sharded = Candidate(
        mode=Mode.THROUGHPUT,
        transport=LinkTransport.GRPC,
        gateways=12,
        shards=16,
        replicas=2,
        micro_batches=2,
        max_num_seqs=64,
        max_batched_tokens=1024,
        gateway_nodes=12,
        shard_nodes=16,
    )
    assert short(sharded) == "throughput · grpc 16s×2 · 12g · 64×1024 · 2mb · 28 nodes"
    assert short(None) == "zero"


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ((Constraint.CAPACITY, 60.0, 11.28), "carries 11.3 of 60 requests/s"),
        ((Constraint.CAPACITY, 60.0, 59.99), "carries a little under 60 of 60 requests/s"),
        ((Constraint.TTFT, 2.0, 3.25), "TTFT p95 3.25 s, promised 2.00 s"),
        ((Constraint.TTFT, 2.0, 2.001), "TTFT p95 a little over 2.00 s, promised 2.00 s"),
        ((Constraint.TTFT, 2.0, math.inf), "TTFT p95 without end, promised 2.00 s"),
        ((Constraint.INTER_TOKEN, 0.03, 0.0411), "inter-token p95 41.1 ms, promised 30 ms"),
        ((Constraint.COPIES, 2, 1), "holds 1 of 2 copies of every expert"),
        ((Constraint.MAX_NODES, 3, 5), "takes 5 nodes, at most 3 are promised"),
        ((Constraint.NUM_NODES, 3, 5), "takes 5 nodes, the cluster has 3 at most"),
        ((Constraint.NODES_GIVEN_UP, 3, 5), "takes 5 nodes, more than 3 did not come"),
        (
            (Constraint.GATEWAY_MEMORY, 24 * 2**30, 30.5 * 2**30),
            "takes 30.50 GiB of a gateway's machine, which has 24.00 GiB",
        ),
        (
            (Constraint.SHARD_MEMORY, 2**30, 1.5 * 2**30),
            "takes 1.50 GiB of a shard's machine, which has 1.00 GiB",
        ),
    ],
)
def test_a_broken_limit_is_told_in_words_with_units(broken, words):
    assert str(Broken(*broken)) == words


def test_times_without_end_are_not_told_where_the_load_is_too_much():
    late = Broken(Constraint.TTFT, 2.0, math.inf)
    assert told([Broken(Constraint.CAPACITY, 60.0, 11.28), late]) == "carries 11.3 of 60 requests/s"
    assert told([late]) == str(late)
