"""``galerne serve --record`` and ``galerne replay``: a shard and a gateway killed for real."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from cluster.simulator.recorded import recorded_arrivals
from galerne.v1 import inference_pb2 as pb
from galerne.v1 import inference_pb2_grpc
from helpers.serve_process import ServeProcess, part, run_cli
from helpers.waiting import wait_until
from router.gateway.record_file import find_records

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

MAX_TOKENS = 200
FLAGS = ("--shards", "2", "--gateways", "2", "--http-port", "0", "--grpc-port", "0")


def run_with_kills(stub):
    """Streams while a shard is killed, then a gateway."""

    def follow(seed, has_begun):
        sampling = pb.SamplingParams(
            temperature=0.7, seed=seed, max_tokens=MAX_TOKENS, ignore_eos=True
        )
        got = []
        for event in stub.Generate(
            pb.GenerateRequest(text="The Loire ends", sampling=sampling), timeout=120
        ):
            before, got = len(got), [*got, *event.tokens.token_ids]
            if before < 10 <= len(got):  # one event may bring several
                has_begun.release()
        return len(got)

    for victim in ("shard-1", "gateway-1"):
        pid = part(stub, victim).pid
        has_begun = threading.Semaphore(0)
        with ThreadPoolExecutor(6) as threads:  # more than one gateway takes
            running = [threads.submit(follow, seed, has_begun) for seed in range(6)]
            for _ in running:
                assert has_begun.acquire(timeout=60)
            os.kill(pid, signal.SIGKILL)
            assert [task.result() for task in running] == [MAX_TOKENS] * 6
    wait_until(lambda: part(stub, "gateway-1").restarts == 1, 60)


def test_every_recorded_gateway_is_the_same_again_whatever_was_killed(tmp_path):
    directory = tmp_path / "records"
    server = ServeProcess(*FLAGS, "--max-model-len", "1024", "--record", str(directory))
    try:
        with grpc.insecure_channel(server.grpc) as channel:
            run_with_kills(inference_pb2_grpc.InferenceServiceStub(channel))
    finally:
        assert server.stop() == 0
    records = find_records(directory)
    assert [record.header.gateway for record in records] == ["gateway-0", "gateway-1", "gateway-1"]
    # As a load for the simulator every stream came once, whichever gateways it ran on.
    assert [a.output_tokens for a in recorded_arrivals(directory)] == [MAX_TOKENS] * 12
    done = run_cli("replay", str(directory), timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all(": equal" in line for line in lines)
    assert "did not end in order" in lines[1], "the one that was killed"
    assert not any(" 0 faults" in line for line in lines[:2])
