"""``galerne serve --mode auto``: the autoscaler over real Ray, its changes while streams run."""

import threading

import grpc
import httpx
import pytest

from helpers.auto_server import serve_auto, tokens, topology
from helpers.processes import named
from helpers.serve_process import run_cli
from helpers.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

IDLE_S = 12.0


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    # On this machine a wire costs much: experts in the gateway are best for every load.
    running = serve_auto(tmp_path_factory.mktemp("auto"), "--idle-to-zero-s", str(IDLE_S))
    yield running
    running.stop()


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.grpc) as made:
        yield made


def gateways(server):
    """Their processes."""
    return named(server.process.pid, "ray::Gateway")


def test_what_a_person_chose_stays_until_auto_is_asked_for_and_no_stream_notices(server, channel):
    want = tokens(channel)
    done = run_cli("topology", "set", "throughput", "--shards", "2", "--target", server.grpc)
    assert done.returncode == 0, done.stdout + done.stderr
    assert topology(channel).shards
    is_over, answers = threading.Event(), []

    def client():
        while not is_over.is_set():
            answers.append(tokens(channel))

    thread = threading.Thread(target=client)
    thread.start()
    try:
        wait_until(lambda: len(answers) > 2, 60)
        assert topology(channel).shards  # several decisions later
        done = run_cli("topology", "set", "auto", "--target", server.grpc)
        assert done.returncode == 0, done.stdout + done.stderr
        wait_until(
            lambda: not topology(channel).shards and topology(channel).stage == "idle",
            60,
        )
    finally:
        is_over.set()
        thread.join(120)
    assert answers
    assert all(answer == want for answer in answers)


def test_an_idle_cluster_ends_its_parts_and_a_request_brings_them_back(server, channel):
    want = tokens(channel)
    wait_until(lambda: topology(channel).stage == "asleep", 60)
    wait_until(lambda: not gateways(server))
    assert httpx.get(f"http://{server.http}/ready", timeout=60).status_code == 200
    assert tokens(channel) == want
    assert topology(channel).stage == "idle"


def test_a_controller_that_is_lost_at_zero_knows_when_it_is_back_that_this_is_right(
    server, channel
):
    want = tokens(channel)
    wait_until(lambda: not gateways(server))
    [lost] = named(server.process.pid, "ray::Controller")
    lost.kill()
    lost.wait(60)
    assert tokens(channel) == want
    told = run_cli("events", "--target", server.grpc)
    assert "woken" in told.stdout, told.stderr
