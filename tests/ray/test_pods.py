"""The Helm chart's pods, plain mode: their commands, files and probes, run on three hosts.

The hosts are network namespaces; see ``helpers.pods`` for what stands in for a kubelet.
"""

import time

import pytest

from helpers.helm import render
from helpers.netns import why_not
from helpers.pod_client import SMALL_VALUES, homes, stream
from helpers.pods import Pods

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def pods():
    reason = why_not()
    if reason is not None:
        pytest.skip(f"no network namespaces here: {reason}")
    with Pods(render(**SMALL_VALUES)) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def want(pods):
    return stream(pods)


def test_gateway_and_shards_run_in_the_pods_that_are_for_them(pods):
    found = homes(pods)
    assert found["gateway-0"] == "head-0"
    assert {found["shard-0"], found["shard-1"]} == {"shard-0", "shard-1"}


def test_every_probe_passes_in_every_pod(pods):
    for name, pod in pods.items():
        for kind in ("startup", "readiness", "liveness"):
            is_ok, said = pod.probe(kind)
            assert is_ok, f"{name} {kind}: {said}"


def test_the_pod_of_helm_test_gets_an_answer_by_the_services_name(pods):
    code, said = pods["head-0"].run_other(pods.templates["test"])
    assert code == 0, said
    assert "Paris" in said


def test_nothing_runs_as_root_and_nothing_but_volumes_can_be_written(pods):
    for pod in pods.values():
        assert {uid for p in pod.processes() for uid in p.uids()} == {10001}
        code, _ = pod.run(["touch", "/usr/file"])
        assert code != 0


def test_ray_s_head_dies_and_comes_back_with_its_state_while_a_stream_runs(pods, want):
    [head] = pods["head-0"].processes("gcs_server")
    assert stream(pods, fault=head.kill) == want
    pods.wait_until_ready()
    [again] = pods["head-0"].processes("gcs_server")
    assert again.pid != head.pid


def test_a_pod_cut_off_in_the_middle_of_a_stream_costs_no_token_and_comes_back(pods, want):
    victim = pods[homes(pods)["shard-1"]]
    [raylet] = victim.processes("raylet")
    assert stream(pods, fault=victim.host.cut) == want
    assert stream(pods) == want
    pods.wait_until_ready("head-0")
    victim.host.heal()
    wait_for_another(victim, raylet)  # Ray had given the node up
    pods.wait_until_ready()
    assert stream(pods) == want


def wait_for_another(pod, raylet):
    deadline = time.monotonic() + 120.0
    while not [p for p in pod.processes("raylet") if p.pid != raylet.pid]:
        assert time.monotonic() < deadline, "the container was not started again"
        time.sleep(0.5)


def test_the_head_s_pod_ends_in_its_grace_period_and_the_next_one_is_joined(pods, want):
    head = pods["head-0"]
    head.terminate(head.spec["terminationGracePeriodSeconds"])
    assert [process.name() for process in head.processes()] == []
    head.start()
    pods.wait_until_ready()
    assert stream(pods) == want
