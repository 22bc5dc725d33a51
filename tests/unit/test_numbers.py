"""The few numbers on Ray's metrics page."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cluster.control.members import GONE_AFTER_S, Heartbeat, MemberBook
from cluster.control.numbers import TokenRate, look
from galerne.histogram import LogHistogram
from galerne.topology import LinkTransport
from helpers.fixture_models import checkpoint, topology
from router.engine.load_counter import LoadTotals


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0.1, 10)), min_size=1, max_size=20))
def test_rates_times_seconds_are_the_tokens_since_the_first_look(steps):
    rate, now_s, tokens, counted = TokenRate(), 5.0, 1000, 0.0
    assert rate.per_s({"a": tokens}, now_s) == 0.0
    for more, seconds in steps:
        tokens, now_s = tokens + more, now_s + seconds
        counted += seconds * rate.per_s({"a": tokens}, now_s)
    assert abs(counted - (tokens - 1000)) < 1e-6


def test_a_process_counts_from_the_first_look_at_it_and_one_that_ended_takes_nothing_back():
    rate = TokenRate()
    rate.per_s({"a": 500}, 0.0)
    assert rate.per_s({"a": 510, "b": 9000}, 1.0) == 10.0
    assert rate.per_s({"b": 9004}, 3.0) == 2.0


def told(part, **load):
    ttft = LogHistogram()
    ttft.add(0.1, load.pop("tokens", 0))
    given = LoadTotals(ttft_s=ttft, **load) if load else None
    return Heartbeat(part=part, address="127.0.0.1:1", pid=1, node="n", load=given)


def test_only_parts_of_the_topology_that_live_are_up():
    shape = topology(checkpoint().config, ["shard-0", "shard-1"])
    shape = replace(shape, transport=LinkTransport.SHM)
    now = [100.0]
    members, rate = MemberBook(lambda: now[0]), TokenRate()
    for heartbeat in (told("shard-0"), told("shard-1"), told("shard-9")):
        members.hear(heartbeat)
    now[0] += GONE_AFTER_S + 1
    members.hear(told("shard-1"))
    members.hear(told("gateway-0", running=3, waiting=2, tokens=7))
    first = look(members, shape, 1, rate, now[0])
    assert (first.gateways_up, first.shards_up, first.parts_wanted) == (1, 1, 3)
    assert (first.requests_running, first.requests_waiting, first.shards_lost) == (3, 2, 1)
    members.hear(told("gateway-0", running=1, tokens=27))
    assert look(members, shape, 0, rate, now[0] + 2).tokens_per_s == 10.0
