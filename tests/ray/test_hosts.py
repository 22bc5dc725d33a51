"""A server over several hosts: real Ray nodes in network namespaces, cut off and ended for real."""

import time

import pytest

from cluster.demo import MODEL_DIRECTORY
from helpers.gateways import engine, request
from helpers.netns import why_not
from helpers.ray_hosts import RayHosts
from helpers.stream_client import PROMPT, sampling
from shards.checkpoint.open import open_checkpoint

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

NUM_TOKENS, SEED = 300, 5
FAULT_AFTER = 30  # tokens


@pytest.fixture(scope="module")
def cluster():
    reason = why_not()
    if reason is not None:
        pytest.skip(f"no network namespaces here: {reason}")
    with RayHosts(3) as running:
        yield running


@pytest.fixture(scope="module")
def server(cluster, request):
    flags = ("--shards", "3", "--max-model-len", "2048", "--drain-s", "2", *request.param)
    running = cluster.serve(*flags)
    yield running
    running.stop()


by_grpc_twice = pytest.mark.parametrize(
    "server", [("--transport", "grpc", "--replicas", "2")], indirect=True, ids=["two copies"]
)
once = pytest.mark.parametrize("server", [()], indirect=True, ids=["one copy"])


@pytest.fixture(scope="module")
def want():
    """What one process draws, which no host can cut off."""
    with engine(open_checkpoint(MODEL_DIRECTORY)) as (made, collector):
        made.submit(request("r", PROMPT, **sampling(NUM_TOKENS, SEED)))
        return collector.tokens("r")


def stream(cluster, server, fault=None):
    """The tokens of the one request and the longest wait for one; ``fault`` strikes meanwhile."""
    tokens, longest_s = [], 0.0
    for event in cluster.client("generate", server.grpc, NUM_TOKENS, SEED):
        longest_s = max(longest_s, event["wait_s"])
        tokens += event["tokens"]
        if fault is not None and len(tokens) >= FAULT_AFTER:
            fault()
            fault = None
    return tokens, longest_s


def parts_of(cluster, server):
    return {part["id"]: part for part in cluster.client("parts", server.grpc)}


def wait_until_moved(cluster, server, shard):
    """Seconds until a shard lives on another node and all links stand."""
    started_s = time.monotonic()
    while True:
        parts = parts_of(cluster, server)
        links = set(parts["gateway-0"]["links"].values())
        if parts[shard["id"]]["node"] != shard["node"] and links == {"up"}:
            return time.monotonic() - started_s
        assert time.monotonic() - started_s < 60, parts
        time.sleep(0.5)


@by_grpc_twice
def test_shards_are_spread_over_the_hosts_and_draw_what_one_process_draws(cluster, server, want):
    parts = parts_of(cluster, server)
    homes = [cluster.host_of(parts[f"shard-{i}"]).name for i in range(3)]
    assert sorted(homes) == ["host-0", "host-1", "host-2"]
    assert cluster.host_of(parts["gateway-0"]).name == "host-0"
    assert len(set(want)) > NUM_TOKENS / 2, "a request that tells nothing apart"
    assert stream(cluster, server)[0] == want


@by_grpc_twice
def test_a_host_cut_off_in_the_middle_costs_a_pause_and_no_token(
    cluster, server, want, record_property
):
    shard = parts_of(cluster, server)["shard-1"]
    victim = cluster.host_of(shard)
    got, pause_s = stream(cluster, server, fault=victim.cut)
    record_property("pause_s", pause_s)
    assert got == want
    record_property("moved_s", wait_until_moved(cluster, server, shard))
    victim.heal()
    assert stream(cluster, server)[0] == want
    cluster.wait_for_nodes(3)  # Ray ends a node that it had given up; it comes back as a new one
    again = parts_of(cluster, server)["shard-1"]
    assert (again["restarts"], again["is_live"]) == (1, True), "the one left behind took over"


@once
def test_the_only_copy_of_an_expert_is_lost_with_its_host_and_comes_back_on_another(
    cluster, server, want, record_property
):
    shard = parts_of(cluster, server)["shard-1"]
    victim = cluster.host_of(shard)
    got, pause_s = stream(cluster, server, fault=victim.crash)
    record_property("pause_s", pause_s)
    assert got == want
    cluster.reboot(victim)
    cluster.wait_for_nodes(3)
    assert stream(cluster, server)[0] == want
