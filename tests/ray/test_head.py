"""Ray's head dies or hangs under a running server: streams go on, and so does all else with it."""

import os
import shutil
import signal
import time
from pathlib import Path

import grpc
import psutil
import pytest

from cluster.head import find_head
from galerne.v1 import cluster_pb2, cluster_pb2_grpc, inference_pb2_grpc
from galerne.v1 import inference_pb2 as pb
from helpers.processes import family, named
from helpers.serve_process import ServeProcess, part
from helpers.stream_client import PROMPT, sampling
from helpers.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

FLAGS = ("--shards", "2", "--http-port", "0", "--grpc-port", "0", "--max-model-len", "2048")
NUM_TOKENS, SEED = 300, 5
FAULT_AFTER = 30  # tokens
HANG_S = 6.0  # longer than a call to the controller may take
RAYS_PATIENCE_S = 12
BACK_S = 90.0  # until a part must be back


@pytest.fixture(scope="module")
def server():
    running = ServeProcess(*FLAGS)
    yield running
    running.stop()


@pytest.fixture
def stub(server):
    with grpc.insecure_channel(server.grpc) as channel:
        yield inference_pb2_grpc.InferenceServiceStub(channel)


def request(num_tokens=NUM_TOKENS):
    ids = pb.TokenIds(ids=PROMPT)
    return pb.GenerateRequest(
        token_ids=ids, sampling=pb.SamplingParams(**sampling(num_tokens, SEED))
    )


def stream(stub, fault=None):
    """Tokens and the longest wait for one; ``fault`` strikes meanwhile."""
    tokens, longest_s, last = [], 0.0, time.monotonic()
    for event in stub.Generate(request(), timeout=100):
        if event.HasField("tokens"):
            now = time.monotonic()
            longest_s, last = max(longest_s, now - last), now
            tokens += event.tokens.token_ids
            if fault is not None and len(tokens) >= FAULT_AFTER:
                fault()
                fault = None
    assert fault is None
    return tokens, longest_s


def head_of(server):
    """The process of Ray's head, None if there is none now."""
    return find_head(psutil.Process(server.process.pid).children())  # a zombie has no command line


def is_back(stub, before):
    """Whether a part runs as another process, and its links stand."""
    now = part(stub, before.id)
    links = set(part(stub, "gateway-0").links.values())
    return now.pid != before.pid and now.is_live and links == {"up"}


def test_a_head_killed_in_the_middle_comes_back_and_costs_no_token(server, stub, record_property):
    want, _ = stream(stub)
    assert len(set(want)) > NUM_TOKENS / 2, "a request that tells nothing apart"
    victim = head_of(server)
    got, pause_s = stream(stub, fault=victim.kill)
    record_property("pause_s", pause_s)
    assert got == want
    wait_until(lambda: head_of(server) not in (None, victim), BACK_S)
    assert stream(stub)[0] == want


def test_a_shard_killed_after_that_is_restarted(server, stub, record_property):
    want, _ = stream(stub)
    before = part(stub, "shard-1")
    got, pause_s = stream(stub, fault=lambda: os.kill(before.pid, signal.SIGKILL))
    record_property("pause_s", pause_s)
    assert got == want
    record_property("back_s", wait_until(lambda: is_back(stub, before), BACK_S))


def test_a_controller_killed_after_that_is_found_again(server, stub):
    [victim] = named(server.process.pid, "ray::Controller")
    victim.kill()
    victim.wait(60)

    def answers():
        with grpc.insecure_channel(server.grpc) as channel:
            cluster = cluster_pb2_grpc.ClusterServiceStub(channel)
            try:
                return cluster.GetTopology(cluster_pb2.GetTopologyRequest(), timeout=20)
            except grpc.RpcError:
                return None

    wait_until(answers, BACK_S)  # nobody but the new one can have
    wait_until(lambda: all(part(stub, name).is_live for name in ("gateway-0", "shard-1")), BACK_S)


@pytest.mark.slow
def test_experts_of_a_shard_lost_while_the_head_hangs_are_adopted(server, stub, record_property):
    """Nothing is restarted meanwhile; the shard comes back when the head goes on."""
    want, _ = stream(stub)
    before, head = part(stub, "shard-0"), head_of(server)
    head.suspend()
    try:
        time.sleep(HANG_S)
        got, pause_s = stream(stub, fault=lambda: os.kill(before.pid, signal.SIGKILL))
        record_property("pause_s", pause_s)
        assert got == want
        assert pause_s < HANG_S, "it waited for the head"
        assert part(stub, "shard-0").restarts == 0
    finally:
        head.resume()
    record_property("back_s", wait_until(lambda: is_back(stub, before), BACK_S))


def test_a_server_whose_head_was_restarted_ends_in_order(server):
    all_of_it = family(server.process.pid)
    assert server.stop() == 0
    _, alive = psutil.wait_procs(all_of_it, timeout=60)
    assert not alive


@pytest.mark.slow
def test_without_storage_a_stream_ends_with_the_offset_that_it_reached():
    """Before Ray ends all of its processes, which it does when the head is away for too long."""
    environment = os.environ | {"RAY_gcs_rpc_server_reconnect_timeout_s": str(RAYS_PATIENCE_S)}
    server = ServeProcess(*FLAGS, "--ray-storage", "off", env=environment)
    all_of_it = family(server.process.pid)[1:]
    head = head_of(server)
    [session] = [a for a in head.cmdline() if a.startswith("--session-dir=")]
    run = Path(session.partition("=")[2]).parents[1]
    try:
        assert "in memory only" in server.output
        tokens, ends = [], []
        with grpc.insecure_channel(server.grpc) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            head.kill()
            while not ends or not ends[-1].error:  # one request may end before the head is missed
                tokens = []
                for event in stub.Generate(request(1900), timeout=60):
                    if event.HasField("tokens"):
                        tokens += event.tokens.token_ids
                    if event.HasField("finished"):
                        ends.append(event.finished)
        assert f"reached {len(tokens)} tokens" in ends[-1].error
        assert server.process.wait(60) == 1, "Ray ends us"
    finally:
        server.stop()
        for process in all_of_it:  # Ray leaves some, and our files
            if process.is_running():
                process.kill()
        shutil.rmtree(run, ignore_errors=True)
